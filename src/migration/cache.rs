//! What the monitor remembers of this machine's migration: the only source of `query-migrate`,
//! `info migrate` and the reason a blocking `migrate` prints.

use serde::Serialize;
use serde_json::Value;

use super::channel::SocketAddress;
use super::message::{Blockers, MigrationEvent, Progress, RamStats, Side, XbzrleStats};
use super::status::{ErrorDesc, MigrationState, MigrationStatus};

/// The last that is known.
#[derive(Debug, Clone, Default)]
pub struct MigrationCache {
    current: Option<Current>,
    /// Survives until the next migration begins.
    reason: Option<ErrorDesc>,
    listening: Vec<Value>,
    blockers: Blockers,
    /// A source has been asked to start and has told nothing since.
    starting: bool,
}

#[derive(Debug, Clone)]
struct Current {
    side: Side,
    state: MigrationState,
    progress: Progress,
}

/// QAPI `MigrationInfo`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<MigrationStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<RamStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xbzrle_cache: Option<XbzrleStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_downtime: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup_time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttle_percentage: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_reasons: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_blocktime: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_vcpu_blocktime: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<SocketAddress>>")]
    pub socket_address: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_limit_throttle_time_per_round: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_limit_ring_full_time: Option<u64>,
    /// Not QAPI's: what HMP shows of a peer that does not answer.
    #[serde(skip)]
    pub stalled: Option<u64>,
}

impl MigrationCache {
    /// Nothing has migrated; `blockers` refuse it.
    pub fn new(blockers: Blockers) -> Self {
        Self { blockers, ..Self::default() }
    }

    /// Take in what a migration actor tells.
    pub fn apply(&mut self, event: &MigrationEvent) {
        match event {
            MigrationEvent::State { side, state, progress } => {
                self.starting = false;
                if matches!(state, MigrationState::Setup) {
                    self.reason = None;
                    self.listening.clear();
                }
                if let Some(reason) = state.reason() {
                    self.reason = Some(reason.clone());
                }
                let progress = progress.as_ref().clone();
                self.current = Some(Current { side: *side, state: state.clone(), progress });
            }
            MigrationEvent::Progress(progress) => {
                if let Some(current) = &mut self.current {
                    current.progress = progress.as_ref().clone();
                }
            }
            MigrationEvent::Listening(addresses) => self.listening = addresses.clone(),
            MigrationEvent::Pass(_) => {}
        }
    }

    /// A source is about to be asked to start: until it tells something, or `not_started`, a
    /// migration is under way. False if there is one already.
    pub fn claim(&mut self) -> bool {
        let free = self.busy().is_none();
        self.starting |= free;
        free
    }

    /// It has not been, and has told nothing.
    pub fn not_started(&mut self) {
        self.starting = false;
    }

    /// The status now; none before the first migration.
    pub fn status(&self) -> MigrationStatus {
        self.current.as_ref().map_or(MigrationStatus::None, |c| c.state.status())
    }

    /// The end that this machine is of a migration under way.
    pub fn busy(&self) -> Option<Side> {
        match &self.current {
            _ if self.starting => Some(Side::Source),
            Some(current) if !current.state.status().is_final() => Some(current.side),
            _ => None,
        }
    }

    /// The end that this machine is of the present migration, or was of the last.
    pub fn side(&self) -> Option<Side> {
        self.current.as_ref().map(|c| c.side)
    }

    /// How much of the memory is over there, in percent; nothing before it is counted.
    pub fn percent(&self) -> Option<u64> {
        let ram = &self.current.as_ref()?.progress.ram;
        let over = u128::from(ram.total.saturating_sub(ram.remaining)) * 100;
        u64::try_from(over.checked_div(ram.total.into())?).ok()
    }

    /// Whether it goes on only when somebody asks for it.
    pub fn is_waiting_for_command(&self) -> bool {
        matches!(self.status(), MigrationStatus::PreSwitchover | MigrationStatus::PostcopyPaused)
            && !self.starting
    }

    /// The reason that the present state carries.
    pub fn told_reason(&self) -> Option<&ErrorDesc> {
        self.current.as_ref().and_then(|current| current.state.reason())
    }

    /// Why the last migration failed, if it did.
    pub fn reason(&self) -> Option<&ErrorDesc> {
        self.reason.as_ref()
    }

    /// Threads of the migration under way: name, and the host's id.
    pub fn threads(&self) -> &[(String, u32)] {
        let current = self.current.as_ref().filter(|current| !current.state.status().is_final());
        current.map_or(&[], |current| &current.progress.threads)
    }

    /// What refuses migrations.
    pub fn blockers(&self) -> &[String] {
        &self.blockers
    }

    /// `query-migrate`.
    pub fn info(&self) -> MigrationInfo {
        let mut info = MigrationInfo::default();
        if !self.blockers.is_empty() {
            info.blocked_reasons = Some(self.blockers.to_vec());
        }
        let Some(Current { side, state, progress }) = &self.current else { return info };
        let status = state.status();
        info.status = Some(status);
        info.error_desc = state.reason().map(|reason| reason.as_str().to_owned());
        if *side == Side::Destination {
            if !self.listening.is_empty() && !status.is_final() {
                info.socket_address = Some(self.listening.clone());
            }
            if let Some(blocktime) = &progress.blocktime {
                info.postcopy_blocktime = Some(blocktime.all);
                info.postcopy_vcpu_blocktime = Some(blocktime.vcpus.clone());
            }
            return info;
        }
        let under_way = matches!(
            status,
            MigrationStatus::Active
                | MigrationStatus::Cancelling
                | MigrationStatus::PreSwitchover
                | MigrationStatus::Device
        );
        if under_way || status.is_postcopy() || status == MigrationStatus::Completed {
            info.ram = Some(progress.ram.clone());
            info.xbzrle_cache = progress.xbzrle.clone();
            info.total_time = Some(progress.total_time);
            info.setup_time = Some(progress.setup_time);
            info.downtime = progress.downtime;
            info.cpu_throttle_percentage = progress.cpu_throttle_percentage;
            info.dirty_limit_throttle_time_per_round = progress.dirty_limit.map(|l| l.rest);
            info.dirty_limit_ring_full_time = progress.dirty_limit.map(|l| l.round);
        }
        if under_way {
            info.expected_downtime = progress.expected_downtime;
            info.downtime = None;
        }
        if !status.is_final() {
            info.stalled = progress.stalled;
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(state: MigrationState) -> MigrationEvent {
        MigrationEvent::State { side: Side::Source, state, progress: Box::default() }
    }

    #[test]
    fn a_reason_lasts_until_the_next_migration() {
        let mut cache = MigrationCache::default();
        assert_eq!(serde_json::to_value(cache.info()).unwrap(), serde_json::json!({}));
        cache.apply(&entered(MigrationState::Setup));
        cache.apply(&entered(MigrationState::Failed(ErrorDesc::new("no route"))));
        let told = serde_json::json!({"status": "failed", "error-desc": "no route"});
        assert_eq!(serde_json::to_value(cache.info()).unwrap(), told);
        // Figures that come late change nothing of it.
        cache.apply(&MigrationEvent::Progress(Box::default()));
        assert_eq!(serde_json::to_value(cache.info()).unwrap(), told);
        cache.apply(&entered(MigrationState::Setup));
        let told = serde_json::json!({"status": "setup"});
        assert_eq!(serde_json::to_value(cache.info()).unwrap(), told);
        assert_eq!(cache.reason(), None);
    }

    #[test]
    fn figures_are_told_while_they_mean_something() {
        let mut cache = MigrationCache::default();
        let progress = Progress {
            downtime: Some(3),
            expected_downtime: Some(300),
            total_time: 10,
            ..Progress::default()
        };
        let at = |state| MigrationEvent::State {
            side: Side::Source,
            state,
            progress: Box::new(progress.clone()),
        };
        cache.apply(&at(MigrationState::Active));
        let info = cache.info();
        assert_eq!((info.downtime, info.expected_downtime), (None, Some(300)));
        cache.apply(&at(MigrationState::Completed));
        let info = cache.info();
        assert_eq!((info.downtime, info.expected_downtime), (Some(3), None));
        assert_eq!(info.total_time, Some(10));
        cache.apply(&at(MigrationState::Cancelled(None)));
        let told = serde_json::json!({"status": "cancelled"});
        assert_eq!(serde_json::to_value(cache.info()).unwrap(), told);
    }

    #[test]
    fn a_destination_tells_where_it_listens() {
        let mut cache = MigrationCache::default();
        let at = |state| MigrationEvent::State {
            side: Side::Destination,
            state,
            progress: Box::default(),
        };
        cache.apply(&at(MigrationState::Setup));
        let address = serde_json::json!({"type": "inet", "host": "::1", "port": "1"});
        cache.apply(&MigrationEvent::Listening(vec![address.clone()]));
        assert_eq!(cache.info().socket_address, Some(vec![address]));
        cache.apply(&at(MigrationState::Completed));
        let told = serde_json::json!({"status": "completed"});
        assert_eq!(serde_json::to_value(cache.info()).unwrap(), told);
    }
}
