//! Migration capabilities: switches that change how a migration goes, and which go together.

use super::parameters::Parameters;
use super::status::ErrorDesc;

/// QAPI `MigrationCapability`, in its order.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    Xbzrle,
    RdmaPinAll,
    AutoConverge,
    ZeroBlocks,
    Events,
    PostcopyRam,
    XColo,
    ReleaseRam,
    ReturnPath,
    PauseBeforeSwitchover,
    Multifd,
    DirtyBitmaps,
    PostcopyBlocktime,
    LateBlockActivate,
    XIgnoreShared,
    ValidateUuid,
    BackgroundSnapshot,
    ZeroCopySend,
    PostcopyPreempt,
    SwitchoverAck,
    DirtyLimit,
    MappedRam,
}

impl Capability {
    /// Every capability, in QAPI's order.
    pub const ALL: [Self; 22] = [
        Self::Xbzrle,
        Self::RdmaPinAll,
        Self::AutoConverge,
        Self::ZeroBlocks,
        Self::Events,
        Self::PostcopyRam,
        Self::XColo,
        Self::ReleaseRam,
        Self::ReturnPath,
        Self::PauseBeforeSwitchover,
        Self::Multifd,
        Self::DirtyBitmaps,
        Self::PostcopyBlocktime,
        Self::LateBlockActivate,
        Self::XIgnoreShared,
        Self::ValidateUuid,
        Self::BackgroundSnapshot,
        Self::ZeroCopySend,
        Self::PostcopyPreempt,
        Self::SwitchoverAck,
        Self::DirtyLimit,
        Self::MappedRam,
    ];

    /// The capability of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.name() == name)
    }

    /// Why it cannot be switched on here, if it cannot.
    fn missing(self) -> Option<&'static str> {
        match self {
            Self::RdmaPinAll => Some("migration over RDMA is not available"),
            // QEMU's sentence for its builds without replication.
            Self::XColo => Some("QEMU compiled without replication module can't enable COLO"),
            Self::DirtyBitmaps => Some("there are no dirty bitmaps to migrate"),
            Self::BackgroundSnapshot => Some("background snapshots are not available"),
            Self::ZeroCopySend => Some("zero-copy sending is not available"),
            _ => None,
        }
    }

    /// The name that QAPI has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xbzrle => "xbzrle",
            Self::RdmaPinAll => "rdma-pin-all",
            Self::AutoConverge => "auto-converge",
            Self::ZeroBlocks => "zero-blocks",
            Self::Events => "events",
            Self::PostcopyRam => "postcopy-ram",
            Self::XColo => "x-colo",
            Self::ReleaseRam => "release-ram",
            Self::ReturnPath => "return-path",
            Self::PauseBeforeSwitchover => "pause-before-switchover",
            Self::Multifd => "multifd",
            Self::DirtyBitmaps => "dirty-bitmaps",
            Self::PostcopyBlocktime => "postcopy-blocktime",
            Self::LateBlockActivate => "late-block-activate",
            Self::XIgnoreShared => "x-ignore-shared",
            Self::ValidateUuid => "validate-uuid",
            Self::BackgroundSnapshot => "background-snapshot",
            Self::ZeroCopySend => "zero-copy-send",
            Self::PostcopyPreempt => "postcopy-preempt",
            Self::SwitchoverAck => "switchover-ack",
            Self::DirtyLimit => "dirty-limit",
            Self::MappedRam => "mapped-ram",
        }
    }
}

/// What cannot be on together with background-snapshot, in the order in which QEMU looks.
const NOT_WITH_BACKGROUND_SNAPSHOT: [Capability; 14] = [
    Capability::PostcopyRam,
    Capability::DirtyBitmaps,
    Capability::PostcopyBlocktime,
    Capability::LateBlockActivate,
    Capability::ReturnPath,
    Capability::Multifd,
    Capability::PauseBeforeSwitchover,
    Capability::AutoConverge,
    Capability::ReleaseRam,
    Capability::RdmaPinAll,
    Capability::Xbzrle,
    Capability::XColo,
    Capability::ValidateUuid,
    Capability::ZeroCopySend,
];

const ZERO_COPY: &str = "Zero copy only available for non-compressed non-TLS multifd migration";

/// The capabilities that are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u32);

impl Capabilities {
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u32) != 0
    }

    pub fn set(&mut self, capability: Capability, on: bool) {
        let bit = 1 << capability as u32;
        self.0 = if on { self.0 | bit } else { self.0 & !bit };
    }

    /// Whether these can be on, where `old` are until now; refused in QEMU's words and order.
    pub fn check(
        self,
        old: Self,
        parameters: &Parameters,
        incoming_started: bool,
    ) -> Result<(), ErrorDesc> {
        if let Some(sentence) = self.conflict(old, parameters, incoming_started) {
            return Err(sentence.into());
        }
        let switched_on = |capability: &Capability| self.has(*capability) && !old.has(*capability);
        match Capability::ALL.into_iter().filter(switched_on).find_map(Capability::missing) {
            Some(sentence) => Err(ErrorDesc::new(sentence)),
            None => Ok(()),
        }
    }

    /// The first thing that speaks against this combination.
    fn conflict(
        self,
        old: Self,
        parameters: &Parameters,
        incoming_started: bool,
    ) -> Option<String> {
        use Capability as C;
        let too_late = |capability| incoming_started && !old.has(capability);
        let found = |sentence: &str| Some(sentence.to_owned());
        if self.has(C::PostcopyRam) && self.has(C::XIgnoreShared) {
            return found("Postcopy is not compatible with ignore-shared");
        }
        if self.has(C::PostcopyRam) && self.has(C::Multifd) {
            return found("Postcopy is not yet compatible with multifd");
        }
        if self.has(C::BackgroundSnapshot)
            && let Some(other) = NOT_WITH_BACKGROUND_SNAPSHOT.into_iter().find(|c| self.has(*c))
        {
            let name = other.name();
            return Some(format!("Background-snapshot is not compatible with {name}"));
        }
        if self.has(C::ZeroCopySend)
            && (!self.has(C::Multifd)
                || self.has(C::Xbzrle)
                || parameters.compresses()
                || parameters.uses_tls())
        {
            return found(ZERO_COPY);
        }
        if self.has(C::PostcopyPreempt) && !self.has(C::PostcopyRam) {
            return found("Postcopy preempt requires postcopy-ram");
        }
        if self.has(C::PostcopyPreempt) && too_late(C::PostcopyPreempt) {
            return found("Postcopy preempt must be set before incoming starts");
        }
        if self.has(C::Multifd) && too_late(C::Multifd) {
            return found("Multifd must be set before incoming starts");
        }
        if self.has(C::SwitchoverAck) && !self.has(C::ReturnPath) {
            return found("Capability 'switchover-ack' requires capability 'return-path'");
        }
        if self.has(C::DirtyLimit) && self.has(C::AutoConverge) {
            return found(
                "dirty-limit conflicts with auto-converge either of then available currently",
            );
        }
        if self.has(C::Multifd) && self.has(C::Xbzrle) {
            return found("Multifd is not compatible with xbzrle");
        }
        if self.has(C::MappedRam) && self.has(C::Xbzrle) {
            return found("Mapped-ram migration is incompatible with xbzrle");
        }
        if self.has(C::MappedRam) && self.has(C::PostcopyRam) {
            return found("Mapped-ram migration is incompatible with postcopy");
        }
        None
    }

    /// Whether these can go with the parameters, which are about to change.
    pub fn check_parameters(self, parameters: &Parameters) -> Result<(), ErrorDesc> {
        let plain = !parameters.compresses() && !parameters.uses_tls();
        if self.has(Capability::ZeroCopySend) && !plain {
            return Err(ErrorDesc::new(ZERO_COPY));
        }
        if self.has(Capability::MappedRam) && !plain {
            let sentence = "Mapped-ram only available for non-compressed non-TLS multifd migration";
            return Err(ErrorDesc::new(sentence));
        }
        Ok(())
    }

    /// What is to be said of these besides that they are on.
    pub fn warning(self) -> Option<&'static str> {
        self.has(Capability::ZeroBlocks).then_some("zero-blocks capability is deprecated")
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(list: I) -> Self {
        let mut set = Self::default();
        list.into_iter().for_each(|capability| set.set(capability, true));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capabilities switched on together, and what QEMU 10.0 says; `*` marks what it takes and we
    /// do not have, `+` what it refuses without KVM and we have.
    const COMBINATIONS: &str = include_str!("capability_combinations.txt");

    fn set(names: &str) -> Capabilities {
        names.split_whitespace().map(|name| Capability::named(name).unwrap()).collect()
    }

    #[test]
    fn combinations_are_judged_as_qemu_does() {
        let mut seen = 0;
        for line in COMBINATIONS.lines().filter(|line| !line.starts_with('#')) {
            let (names, expected) = line.split_once(" => ").unwrap();
            let judged = set(names).check(Capabilities::default(), &Parameters::default(), false);
            let said = judged.map_or_else(|reason| reason.to_string(), |()| "ok".to_owned());
            let expected = expected.strip_prefix(['*', '+']).map_or(expected, str::trim_start);
            assert_eq!(said, expected, "{names}");
            seen += 1;
        }
        assert!(seen > 40);
    }

    #[test]
    fn what_is_on_stays_on() {
        let old = set("x-colo");
        let judged = set("x-colo xbzrle").check(old, &Parameters::default(), false);
        assert_eq!(judged, Ok(()));
    }

    #[test]
    fn some_depend_on_more_than_each_other() {
        let check = |names, parameters: &Parameters, started| {
            let judged = set(names).check(Capabilities::default(), parameters, started);
            judged.unwrap_err().to_string()
        };
        let plain = Parameters::default();
        assert_eq!(check("multifd", &plain, true), "Multifd must be set before incoming starts");
        assert_eq!(
            check("postcopy-ram postcopy-preempt", &plain, true),
            "Postcopy preempt must be set before incoming starts"
        );
        // What has been on since before is not switched on too late.
        assert_eq!(set("multifd events").check(set("multifd"), &plain, true), Ok(()));
        let tls = Parameters { tls_creds: "x".into(), ..Parameters::default() };
        assert_eq!(check("multifd zero-copy-send", &tls, false), ZERO_COPY);
        let mapped = set("mapped-ram");
        assert_eq!(
            mapped.check_parameters(&tls).unwrap_err().as_str(),
            "Mapped-ram only available for non-compressed non-TLS multifd migration"
        );
        assert_eq!(mapped.check_parameters(&plain), Ok(()));
    }
}
