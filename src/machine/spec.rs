//! The whole validated description of the machine and its process as plain data: what the
//! command line makes and `machine::build` reads. Nothing here opens, connects or allocates.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::message::{PanicAction, RebootAction, ShutdownAction};
use crate::chardev::spec::ChardevSpec;
use crate::migration::channel::Address;
use crate::migration::message::Settings;
use crate::objects::authz::Authz;
use crate::objects::iothread::IoThreadLimits;
use crate::objects::memory::{MemoryDefaults, MemorySpec};
use crate::objects::options::X509Options;
use crate::objects::secret::SecretOptions;
use crate::sandbox::Sandbox;

/// Bytes of RAM when `-m` is not given.
pub const DEFAULT_RAM_SIZE: u64 = 128 << 20;

/// Most harts of `virt`, as in QEMU: the PLIC's window ends with the contexts of the 512th.
pub const MAX_CPUS: u32 = 512;

/// A machine to build and how its process behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// File name of the executable: the prefix of messages.
    pub program: String,
    /// `-name`: the guest's name.
    pub name: Option<String>,
    /// `-name process=`: the process's name as the host shows it.
    pub process_name: Option<String>,
    /// `-name debug-threads=on`: threads are named for what they do.
    pub debug_threads: bool,
    /// `-uuid`, big-endian.
    pub uuid: Option<[u8; 16]>,
    /// `-seed`: what is random to the guest is the same each time.
    pub seed: Option<u64>,
    pub machine: MachineOptions,
    pub accel: Accel,
    /// The argument of `-cpu`, for `cpu::isa::IsaConfig::from_cpu_option`.
    pub cpu: String,
    pub smp: Smp,
    /// Bytes of RAM: `-m`, or the size of `machine.memory_backend`; a multiple of 4096.
    pub ram_size: u64,
    pub firmware: Firmware,
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub append: Option<String>,
    /// `-dtb`: a device tree in place of the generated one.
    pub dtb: Option<PathBuf>,
    /// `-device loader,...`, in order.
    pub loaders: Vec<LoaderSpec>,
    pub fw_cfg: Vec<FwCfgSpec>,
    /// Every character device, in the order in which they are to be opened.
    pub chardevs: Vec<ChardevSpec>,
    /// Character device of each serial port; `None` for a port with nothing connected. The machine
    /// has one port: a longer list is what the user gave.
    pub serials: Vec<Option<String>>,
    pub monitors: Vec<MonitorSpec>,
    pub qtest: Option<QtestSpec>,
    pub drives: Vec<DriveSpec>,
    /// `-device` other than loaders, in order.
    pub devices: Vec<DeviceSpec>,
    pub objects: Vec<ObjectSpec>,
    /// `-add-fd`, in order.
    pub descriptors: Vec<DescriptorSpec>,
    /// `-global driver.property=value`.
    pub globals: Vec<GlobalSpec>,
    /// `-incoming`: what runs comes from another machine.
    pub incoming: Option<Incoming>,
    /// `-only-migratable`
    pub only_migratable: bool,
    /// What `-global migration.…` says.
    pub migration: Settings,
    /// `-S`: stay in `prelaunch` until `cont`.
    pub start_paused: bool,
    /// `-preconfig`: wait for `x-exit-preconfig` before the start.
    pub preconfig: bool,
    pub actions: Actions,
    pub rtc: RtcSpec,
    /// `-boot`, told to the guest's firmware through fw_cfg.
    pub boot: BootSpec,
    pub log: LogSpec,
    pub messages: MessageFormat,
    pub process: ProcessSpec,
    /// Started without any argument: run the embedded default guest.
    pub embedded_guest: bool,
}

/// `-add-fd`: a descriptor that the parent process left open, for a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorSpec {
    /// Not that of a standard stream.
    pub fd: i32,
    pub set: i64,
    /// What its user says of it.
    pub opaque: Option<String>,
    /// The option as written, which starts an error message.
    pub origin: String,
}

/// `-incoming`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// `migrate-incoming` will say where from.
    Defer,
    /// Wait for it here; `origin` is the option as written, which starts an error message.
    At { address: Address, origin: String },
}

/// The type of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardKind {
    /// RISC-V `virt`.
    Virt,
    /// `none`: monitors and, with `-m`, RAM from address 0; neither harts nor devices.
    Empty,
}

/// What follows `-machine TYPE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineOptions {
    pub board: BoardKind,
    /// `aclint=on`: MTIMER, MSWI and SSWI in place of one CLINT.
    pub aclint: bool,
    /// Write the device tree here and exit.
    pub dumpdtb: Option<PathBuf>,
    /// Identifier of the `memory-backend-…` object that is the RAM, if it is not to be made.
    pub memory_backend: Option<String>,
    /// What holds for all memory of which nothing else is said.
    pub memory: MemoryDefaults,
    /// `-mem-path`: the RAM is in this file.
    pub memory_path: Option<PathBuf>,
    /// The drives behind the banks of flash.
    pub flash: [Option<FlashSpec>; 2],
}

/// `pflash0=`, `pflash1=` or `-drive if=pflash`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlashSpec {
    /// Identifier of the drive.
    pub drive: String,
    /// The option as written, for messages.
    pub origin: String,
}

impl BoardKind {
    /// The object that is the RAM when no other is named.
    pub fn default_ram_id(self) -> &'static str {
        match self {
            Self::Virt => "riscv_virt_board.ram",
            Self::Empty => "ram",
        }
    }
}

impl MachineOptions {
    /// The object that is the RAM, which also names it in migrations.
    pub fn ram_id(&self) -> &str {
        self.memory_backend.as_deref().unwrap_or(self.board.default_ram_id())
    }
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self {
            board: BoardKind::Virt,
            aclint: false,
            dumpdtb: None,
            memory_backend: None,
            memory: MemoryDefaults::default(),
            memory_path: None,
            flash: [None, None],
        }
    }
}

/// How guest code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Translated to host code, `tb_size` bytes of code cache (`None`: chosen by the JIT), perhaps
    /// in blocks of one guest instruction.
    Jit { tb_size: Option<u64>, one_insn_per_tb: bool },
    /// The reference interpreter.
    Interp,
    /// Not at all: a qtest session drives the devices and the clock.
    Qtest,
}

/// CPU topology: `sockets * cores * threads == max_cpus`, `1 <= cpus <= max_cpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Smp {
    /// Harts present at start.
    pub cpus: u32,
    pub sockets: u32,
    pub cores: u32,
    pub threads: u32,
    pub max_cpus: u32,
}

impl Default for Smp {
    fn default() -> Self {
        Self { cpus: 1, sockets: 1, cores: 1, threads: 1, max_cpus: 1 }
    }
}

/// What runs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// The SBI in the emulator.
    Builtin,
    /// Nothing: M-mode starts at the RAM's first instruction.
    None,
    File(PathBuf),
}

/// `-device loader,...`: what to put where before the harts start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderSpec {
    pub what: LoaderWhat,
    /// Hart whose program counter is set to the image's entry or the address.
    pub cpu_num: Option<u32>,
    /// The option as written, for messages.
    pub origin: String,
}

/// What a loader loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoaderWhat {
    /// `len` (1..=8) bytes of `value` at `addr`, in the order asked for.
    Data { addr: u64, value: u64, len: u8, big_endian: bool },
    /// A file: an ELF or U-Boot image is recognised unless `force_raw`.
    File { path: PathBuf, addr: Option<u64>, force_raw: bool },
    /// Only set the program counter of `cpu_num`.
    ProgramCounter { addr: u64 },
}

/// `-fw_cfg name=...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FwCfgSpec {
    /// At most 55 bytes.
    pub name: String,
    pub content: FwCfgContent,
    /// The option as written, for messages.
    pub origin: String,
}

/// What a fw_cfg item holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FwCfgContent {
    /// The text, without a terminating zero.
    String(String),
    File(PathBuf),
}

/// A monitor on a character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorSpec {
    pub id: Option<String>,
    pub chardev: String,
    pub mode: MonitorMode,
}

/// `-qtest` and `-qtest-log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QtestSpec {
    pub chardev: String,
    pub log: QtestLog,
}

/// Where the transcript of a qtest session goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum QtestLog {
    #[default]
    Stderr,
    None,
    File(PathBuf),
}

/// Which language a monitor speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonitorMode {
    /// For a person.
    Hmp,
    /// For a program: QMP, perhaps indented.
    Qmp { pretty: bool },
}

/// The names of a drive's nodes: its format, unless the file is used as it is, and its file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeNames {
    pub format: Option<String>,
    pub file: String,
}

/// `-drive`: a block back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveSpec {
    /// The user's identifier, or one made up as QEMU does (`virtio0`, `none1`); of `-blockdev`, the
    /// name of its node.
    pub id: String,
    /// From `-drive`: a back end of that name, rather than a node alone.
    pub is_back_end: bool,
    pub nodes: NodeNames,
    pub interface: DriveInterface,
    pub index: u32,
    pub file: PathBuf,
    /// `None`: guessed from the image, and announced.
    pub format: Option<DriveFormat>,
    pub read_only: bool,
    /// Where the host allows no more than reading, read.
    pub auto_read_only: bool,
    pub cache: CacheMode,
    pub discard: bool,
    pub write_error: ErrorAction,
    pub read_error: ErrorAction,
    /// The option as written, for messages.
    pub origin: String,
}

/// `if=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveInterface {
    /// A `-device` names it.
    None,
    /// The command line adds a `virtio-blk-device` for it to `devices`.
    Virtio,
    /// It is the bank of flash of its index.
    Pflash,
}

/// `format=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveFormat {
    Raw,
}

/// `cache=`, resolved into QEMU's three switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheMode {
    /// The device shows a volatile write cache.
    pub writeback: bool,
    /// Bypass the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// Flushes are ignored.
    pub no_flush: bool,
}

impl Default for CacheMode {
    fn default() -> Self {
        Self { writeback: true, direct: false, no_flush: false }
    }
}

/// `werror=` and `rerror=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorAction {
    Report,
    Ignore,
    Stop,
    /// Stop on a full disk, report everything else.
    Enospc,
}

impl ErrorAction {
    /// Whether an error of some kind stops the machine.
    pub fn may_stop(self) -> bool {
        matches!(self, Self::Stop | Self::Enospc)
    }
}

/// `-device`: its model is one of [`super::models::models`] and its properties are known to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    pub driver: String,
    pub id: Option<String>,
    pub bus: Option<String>,
    /// Properties in order; the last one of a name counts.
    pub props: Vec<(String, String)>,
    /// The option as written, for messages.
    pub origin: String,
}

impl DeviceSpec {
    /// The value of a property, as text.
    pub fn prop(&self, name: &str) -> Option<&str> {
        self.props.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// `-object`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSpec {
    pub id: String,
    pub kind: ObjectKind,
}

/// The kinds of object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectKind {
    /// Entropy from a file of the host.
    RngRandom {
        filename: PathBuf,
    },
    /// Entropy from the host's system call.
    RngBuiltin,
    /// `memory-backend-…`.
    Memory(MemorySpec),
    IoThread(IoThreadLimits),
    Secret(SecretOptions),
    TlsCredsX509(X509Options),
    /// `authz-simple` and `authz-list`.
    Authz(Authz),
}

/// `-global`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalSpec {
    pub driver: String,
    pub property: String,
    pub value: String,
}

/// `-action`, `-no-reboot`, `-no-shutdown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions {
    pub reboot: RebootAction,
    pub shutdown: ShutdownAction,
    pub panic: PanicAction,
    pub watchdog: WatchdogAction,
}

impl Default for Actions {
    fn default() -> Self {
        Self {
            reboot: RebootAction::Reset,
            shutdown: ShutdownAction::Poweroff,
            panic: PanicAction::Shutdown,
            watchdog: WatchdogAction::Reset,
        }
    }
}

/// QAPI `WatchdogAction`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum WatchdogAction {
    Reset,
    Shutdown,
    Poweroff,
    Pause,
    Debug,
    None,
    InjectNmi,
}

/// `-rtc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RtcSpec {
    pub base: RtcBase,
    pub clock: RtcClock,
}

/// What the guest's clock shows at start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RtcBase {
    #[default]
    Utc,
    Localtime,
    /// This moment.
    At(SystemTime),
}

/// What drives the guest's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RtcClock {
    /// The host's wall clock, with its adjustments.
    #[default]
    Host,
    /// The host's monotonic clock.
    Rt,
    /// The virtual clock, which stops with the machine.
    Vm,
}

/// `-boot`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootSpec {
    pub order: Option<String>,
    pub menu: Option<bool>,
    pub strict: bool,
    pub reboot_timeout: Option<Duration>,
    /// Milliseconds.
    pub splash_time: Option<u16>,
}

/// `-d`, `-D` and `-dfilter`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSpec {
    /// Names from [`LOG_ITEMS`], each once.
    pub items: Vec<&'static str>,
    /// Standard error when `None`; `%d` stands for the process's number.
    pub file: Option<PathBuf>,
    /// `-dfilter`: guest addresses whose code is shown; all when empty.
    pub filter: Vec<RangeInclusive<u64>>,
    /// `-trace`: names and patterns of trace events to switch, in order.
    pub trace: Vec<(String, bool)>,
}

/// What `-d` and the monitors' `log` accept, and what each shows, in QEMU's order.
pub const LOG_ITEMS: &[(&str, &str)] = &[
    ("out_asm", "host code of each translated block"),
    ("in_asm", "guest code of each translated block"),
    ("op", "intermediate code of each block, as translated"),
    ("op_opt", "intermediate code of each block, optimised"),
    ("int", "interrupts and exceptions taken"),
    ("exec", "each block before it runs (very much)"),
    ("cpu", "the registers before each block runs (very much)"),
    ("fpu", "the floating-point registers too, where 'cpu' shows registers"),
    ("mmu", "how addresses are translated"),
    ("pcall", "x86 only"),
    ("cpu_reset", "the registers before each reset"),
    ("unimp", "things the guest uses that are not implemented"),
    ("guest_errors", "things the guest does that make no sense"),
    ("page", "emulation of programs only, not of machines"),
    ("nochain", "nothing: blocks run one by one ('exec' and 'cpu' see to that themselves)"),
    ("strace", "emulation of programs only, not of machines"),
    ("invalid_mem", "accesses that nothing answers"),
];

/// Items of QEMU's log that are refused by name.
pub const LOG_ITEMS_UNAVAILABLE: &[&str] = &["op_ind", "op_plugin", "plugin", "tid", "vpu"];

/// `-msg`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageFormat {
    /// Each message starts with the time.
    pub timestamp: bool,
    /// Each message starts with the guest's name.
    pub guest_name: bool,
}

/// The process around the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessSpec {
    pub pidfile: Option<PathBuf>,
    pub daemonize: bool,
    /// `-nographic`: serial port and monitor share standard input and output.
    pub nographic: bool,
    /// `-sandbox on`
    pub sandbox: Option<Sandbox>,
    /// `-run-with chroot=`
    pub root: Option<PathBuf>,
    /// `-run-with user=`
    pub user: Option<RunAs>,
    /// `-run-with async-teardown=on`
    pub async_teardown: bool,
    /// `-overcommit mem-lock=`
    pub memory_lock: MemoryLock,
}

/// Who the process is once the machine is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
    /// Whose further groups are to be joined.
    pub name: Option<String>,
}

impl RunAs {
    /// A user by name, or `uid:gid`.
    pub fn find(text: &str) -> Option<Self> {
        if let Ok(Some(user)) = nix::unistd::User::from_name(text) {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            return Some(Self { uid, gid, name: Some(user.name) });
        }
        let number = |text: &str| {
            let value = crate::cli::value::uint(text)?;
            u32::try_from(value).ok().filter(|value| *value != u32::MAX)
        };
        let (uid, gid) = text.split_once(':')?;
        Some(Self { uid: number(uid)?, gid: number(gid)?, name: None })
    }
}

/// What is kept from being swapped out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryLock {
    #[default]
    None,
    /// What has been touched.
    Touched,
    All,
}

/// Whether a log file can be called so: one `%d`, which is the process's number, and no other `%`.
pub fn is_log_name(name: &str) -> bool {
    let (before, after) = name.split_once("%d").unwrap_or((name, ""));
    !before.contains('%') && !after.contains('%')
}
