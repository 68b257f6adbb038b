//! Messages of the `Vm` actor, which owns the run state, and the events it tells the monitors.

use std::sync::Arc;

use actix::{Message, Recipient};

use super::address_space::Absent;
use super::core_dump::DumpQueryResult;
use super::hotplug::HotplugError;
use super::spec::WatchdogAction;
use crate::block::message::BlockFailed;
use crate::chardev::message::PortOpened;

/// QAPI `RunState`.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Debug,
    Inmigrate,
    InternalError,
    IoError,
    Paused,
    Postmigrate,
    Prelaunch,
    FinishMigrate,
    RestoreVm,
    Running,
    SaveVm,
    Shutdown,
    Suspended,
    Watchdog,
    GuestPanicked,
    Colo,
}

/// QAPI `ShutdownCause`, in the order of QEMU's enum.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownCause {
    None,
    HostError,
    HostQmpQuit,
    HostQmpSystemReset,
    HostSignal,
    HostUi,
    GuestShutdown,
    GuestReset,
    GuestPanic,
    SubsystemReset,
    SnapshotLoad,
}

impl ShutdownCause {
    /// The `guest` member of SHUTDOWN and RESET.
    pub fn by_guest(self) -> bool {
        matches!(
            self,
            Self::GuestShutdown | Self::GuestReset | Self::GuestPanic | Self::SubsystemReset
        )
    }
}

/// Why the machine refused a request; the text is what the monitor prints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VmError(pub String);

/// Answer to `QueryStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub state: RunState,
}

impl Status {
    /// True when vCPUs run.
    pub fn running(self) -> bool {
        matches!(self.state, RunState::Running)
    }
}

/// `query-status`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Status, VmError>")]
pub struct QueryStatus;

/// `stop`: pause the vCPUs; answered when they have stopped.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct Stop;

/// `cont`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct Cont;

/// A reset was asked for: by a monitor, the guest's finisher, SBI.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct RequestReset {
    pub cause: ShutdownCause,
}

/// `system_powerdown`: ask the guest to shut down.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct RequestPowerdown;

/// A shutdown was asked for. `exit_code` is the process's exit code if the machine goes down.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct RequestShutdown {
    pub cause: ShutdownCause,
    pub exit_code: i32,
}

/// `set-action` and `-action`; `None` leaves a setting as it is.
#[derive(Debug, Clone, Copy, Default, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct SetAction {
    pub reboot: Option<RebootAction>,
    pub shutdown: Option<ShutdownAction>,
    pub panic: Option<PanicAction>,
    pub watchdog: Option<WatchdogAction>,
}

/// QAPI `RebootAction`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum RebootAction {
    Reset,
    Shutdown,
}

/// QAPI `ShutdownAction`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownAction {
    Poweroff,
    Pause,
}

/// QAPI `PanicAction`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum PanicAction {
    Pause,
    Shutdown,
    ExitFailure,
    None,
}

/// One vCPU, for `query-cpus-fast`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuInfo {
    pub index: u32,
    /// Host thread id.
    pub thread_id: u32,
    pub socket_id: u32,
    pub core_id: u32,
    pub thread_in_core: u32,
}

/// `query-cpus-fast`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<CpuInfo>, VmError>")]
pub struct QueryCpus;

/// A copy of a hart's state (the vCPU answers at its next block boundary).
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<HartSnapshot, VmError>")]
pub struct QueryHart {
    pub cpu: u32,
}

/// What `info registers|mem|tlb|jit` render.
#[derive(Debug, Clone)]
pub struct HartSnapshot {
    pub state: Box<crate::cpu::state::HartState>,
    /// The value `mip` reads as.
    pub mip: u64,
    pub isa: Arc<crate::cpu::isa::IsaConfig>,
    /// Lines of `info jit` for this hart.
    pub jit: Vec<(String, u64)>,
}

/// Which memory an address of `ReadMemory` is in. What is no RAM is read as a load of a CPU reads
/// it, with what that does to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Through the CPU's current translation.
    Virtual,
    Physical,
    /// Physical, with zeros where nothing answers.
    PhysicalOrZeros,
}

impl Space {
    /// What becomes of addresses that nothing answers, of a physical space.
    pub fn physical(self) -> Option<Absent> {
        match self {
            Self::Virtual => None,
            Self::Physical => Some(Absent::Refused),
            Self::PhysicalOrZeros => Some(Absent::Zeros),
        }
    }
}

/// Read guest memory, for `x`, `xp`, `memsave`, `pmemsave`, `info mem`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<u8>, VmError>")]
pub struct ReadMemory {
    pub cpu: u32,
    pub addr: u64,
    pub len: u64,
    pub space: Space,
}

/// The physical address behind a virtual one, for loads of a CPU as it stands; `None` where nothing
/// is mapped.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Option<u64>, VmError>")]
pub struct TranslateVirtual {
    pub cpu: u32,
    pub addr: u64,
}

/// `one-insn-per-tb`: have the translator make a block of every guest instruction, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct SetOneInsnPerTb {
    pub on: bool,
}

/// What is at a physical address.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<MemoryPlace, VmError>")]
pub struct LocateMemory {
    pub addr: u64,
}

/// Answer to `LocateMemory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryPlace {
    Nowhere,
    /// A device, or memory that is one.
    NotRam,
    Ram {
        /// Its name.
        region: String,
        /// Where this process has it.
        host: u64,
    },
}

/// What is where, made once by `machine::build`.
#[derive(Debug, Clone, Default)]
pub struct MachineTree {
    /// Every range that something answers.
    pub memory: Vec<MemoryNode>,
    /// Images loaded into guest memory, for `info roms`.
    pub roms: Vec<RomNode>,
    /// The device tree as a blob; empty where there is none.
    pub device_tree: Vec<u8>,
}

/// A range of physical addresses: its kind is "i/o", "ram", "rom" or "romd".
#[derive(Debug, Clone)]
pub struct MemoryNode {
    pub start: u64,
    pub end_inclusive: u64,
    pub kind: &'static str,
    pub name: String,
}

/// A loaded image of `info roms`.
#[derive(Debug, Clone)]
pub struct RomNode {
    pub addr: u64,
    pub size: u64,
    pub name: String,
}

/// `info roms`, `dumpdtb`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Arc<MachineTree>, VmError>")]
pub struct QueryTree;

/// A property of a device to be, as it came.
#[derive(Debug, Clone, PartialEq)]
pub enum PropertyValue {
    Text(String),
    Json(serde_json::Value),
}

/// `device_add`.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), HotplugError>")]
pub struct PlugDevice {
    pub driver: String,
    pub id: Option<String>,
    pub bus: Option<String>,
    /// In the order in which they are looked at.
    pub properties: Vec<(String, PropertyValue)>,
}

/// `device_del`: by identifier, or by path in the tree of objects.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), HotplugError>")]
pub struct UnplugDevice {
    pub id: String,
}

/// Whoever changes the machine → `Vm`: tell the subscribers.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Announce(pub VmEvent);

/// Have events sent to this recipient from now on.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct SubscribeEvents(pub Recipient<VmEvent>);

/// What the monitors announce; the names are QAPI's.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum VmEvent {
    Stop,
    Resume,
    Reset {
        cause: ShutdownCause,
    },
    Shutdown {
        cause: ShutdownCause,
    },
    Powerdown,
    /// A device is gone.
    DeviceDeleted {
        device: Option<String>,
        path: String,
    },
    /// A drive's request failed.
    BlockIoError(BlockFailed),
    /// A dump of guest memory has ended; without an error if all of it is there.
    DumpCompleted {
        result: DumpQueryResult,
        error: Option<String>,
    },
    /// The guest has opened or closed its end of a serial port.
    PortOpened(PortOpened),
    /// An actor died: the machine is in `internal-error`.
    DeviceFailed {
        name: String,
        reason: String,
    },
    /// The process ends with this code once every monitor has flushed.
    Exit {
        code: i32,
    },
}

/// Stop the machine for the last phase of its migration: the state becomes `finish-migrate`. What
/// is answered holds it there.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Quiesced, VmError>")]
pub struct Quiesce;

/// Stop the machine while its memory is dumped: if it runs, the state becomes `save-vm`. What is
/// answered holds it there.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Quiesced, VmError>")]
pub struct HoldForDump;

/// Leave the drives' images to another machine: in `finish-migrate`, before the other side may run;
/// or after a load that has come to nothing.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct ReleaseDrives;

/// Have the drives' images: everything has been loaded.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct TakeDrives {
    /// What the machine was at the source, if it is to have them only when it runs (capability
    /// `late-block-activate`).
    pub only_to_run: Option<RunState>,
}

/// The machine is handed over: `finish-migrate` becomes `postmigrate`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct HandOver;

/// Migration source → vCPU: run nothing for so long, from now on, and answer all the same. The last
/// one counts; no time at all ends a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct TakeRest {
    pub time: std::time::Duration,
}

/// The migration has come to nothing, or the dump is done: go on in the state before `Quiesce`, with the drives that it
/// had. Without them it stays paused; the error says why.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct Unquiesce {
    pub was: RunState,
}

/// A machine held for its migration, or for a dump. Whatever becomes of the holder, the machine does not stay
/// stopped: when this is dropped before `hand_over`, it goes on as it was.
#[derive(Debug)]
pub struct Quiesced {
    was: RunState,
    back: Option<Recipient<Unquiesce>>,
}

impl Quiesced {
    pub(crate) fn new(was: RunState, back: Recipient<Unquiesce>) -> Self {
        Self { was, back: Some(back) }
    }

    /// The state that the machine was in.
    pub fn was(&self) -> RunState {
        self.was
    }

    /// Go on as before; true when the machine has answered that it does.
    pub async fn undo(mut self) -> Result<(), VmError> {
        let Some(back) = self.back.take() else { return Ok(()) };
        match back.send(Unquiesce { was: self.was }).await {
            Ok(result) => result,
            Err(_) => Err(VmError("the machine has failed".to_owned())),
        }
    }

    /// Never go on: the other side has the machine now.
    pub fn hand_over(mut self) {
        self.back = None;
    }
}

impl Drop for Quiesced {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            back.do_send(Unquiesce { was: self.was });
        }
    }
}

/// An incoming migration has been loaded; the machine leaves `inmigrate`, running if the source ran
/// and nobody has asked otherwise (`-S`, `stop`).
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct Arrived {
    /// The source's run state, from the `globalstate` section.
    pub was: RunState,
}
