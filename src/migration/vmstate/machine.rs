//! What the stream says of the machine as a whole: the configuration at its beginning, the run
//! state at its end.

use super::{Fields, StateError, VmState, Vmsd};

/// Longest name of a machine type that is read.
const NAME_MAX: usize = 255;
/// Most capabilities that are read.
const CAPABILITIES_MAX: u32 = 64;

/// The section before all others (`configuration`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// The machine's type.
    pub machine: String,
    /// Names of the capabilities that both sides must have alike and that are on.
    pub capabilities: Vec<String>,
    /// The machine's identity, with `validate-uuid`.
    pub uuid: Option<[u8; 16]>,
}

impl VmState for Configuration {
    const VMSD: Vmsd = Vmsd::new("configuration", 1);

    fn before_load(&mut self) {
        *self = Self::default();
    }

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let mut name = self.machine.clone().into_bytes();
        f.counted(("len", "name"), NAME_MAX, &mut name)?;
        self.machine = String::from_utf8_lossy(&name).into_owned();
        let capabilities = &mut self.capabilities;
        let vmsd = Vmsd::new("configuration/capabilities", 1);
        f.subsection(vmsd, !capabilities.is_empty(), &mut |f| {
            let mut count = capabilities.len() as u32;
            f.u32("caps_count", &mut count)?;
            if count > CAPABILITIES_MAX {
                let reason = format!("{count} is more than {CAPABILITIES_MAX}");
                return Err(f.refuse("caps_count", reason));
            }
            capabilities.resize(count as usize, String::new());
            for name in capabilities.iter_mut() {
                f.opaque("capabilities", "capability", &mut |f| {
                    let mut bytes = name.clone().into_bytes();
                    let mut length = bytes.len() as u8;
                    f.u8("length", &mut length)?;
                    bytes.resize(length.into(), 0);
                    f.buffer("capabilities", &mut bytes)?;
                    *name = String::from_utf8(bytes)
                        .map_err(|_| f.refuse("capabilities", "not a name".to_owned()))?;
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        let mut present = self.uuid.is_some();
        let mut uuid = self.uuid.unwrap_or_default();
        f.subsection(Vmsd::new("configuration/uuid", 1), present, &mut |f| {
            present = true;
            f.u8s("uuid.data", &mut uuid)
        })?;
        self.uuid = present.then_some(uuid);
        Ok(())
    }
}

/// Bytes that a run state's name is padded to.
const RUN_STATE: usize = 32;

/// The source's run state (`globalstate`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GlobalState {
    /// QAPI's name, e.g. `running`.
    pub run_state: String,
    /// The guest was suspended when the machine was stopped.
    pub suspended: bool,
}

impl VmState for GlobalState {
    const VMSD: Vmsd = Vmsd::new("globalstate", 1);

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        // The name's length with its terminating zero; QEMU does not look at it either.
        let mut size = self.run_state.len() as u32 + 1;
        f.u32("size", &mut size)?;
        let mut name = self.run_state.clone().into_bytes();
        name.resize(RUN_STATE, 0);
        f.buffer("runstate", &mut name)?;
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(RUN_STATE - 1);
        name.truncate(end);
        self.run_state =
            String::from_utf8(name).map_err(|_| f.refuse("runstate", "not a name".to_owned()))?;
        let mut has_suspended = 1;
        f.u8("has_vm_was_suspended", &mut has_suspended)?;
        let mut suspended = u8::from(self.suspended);
        f.u8("vm_was_suspended", &mut suspended)?;
        self.suspended = has_suspended != 0 && suspended != 0;
        f.buffer("unused", &mut [0; 66])
    }
}
