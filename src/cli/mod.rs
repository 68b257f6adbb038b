//! The command line, as QEMU's: options in, [`MachineSpec`] out.
//!
//! `options` is the table, `argv` finds the options in the words, `opts` is the comma grammar,
//! `value` the parameters' values; the other modules each translate one group of options.
//! Sentences are QEMU's where QEMU refuses the same thing; each starts with the option as typed.
#![forbid(unsafe_code)]

mod argv;
mod backends;
mod boards;
mod config;
mod disks;
mod migration;
mod models;
mod options;
pub(crate) mod opts;
pub mod parameters;
pub mod process;
mod settings;
pub(crate) mod value;

use std::ffi::OsString;
use std::path::Path;

use crate::chardev::spec::ChardevSpec;
use crate::cpu::cpu_model;
use crate::cpu::isa::IsaConfig;
use crate::machine::spec::{
    Accel, Actions, BootSpec, DeviceSpec, DriveSpec, Firmware, FwCfgSpec, GlobalSpec, Incoming,
    LoaderSpec, LogSpec, MachineOptions, MachineSpec, MessageFormat, MonitorSpec, ObjectSpec,
    ProcessSpec, RtcSpec, Smp,
};
use crate::migration::message::Settings;
use argv::Occurrence;
pub(crate) use backends::{kinds as chardev_kinds, of_monitor as chardev_of_monitor};

/// What the process is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run a machine; the warnings are to be shown first.
    Run { spec: Box<MachineSpec>, warnings: Vec<String> },
    /// Print this and exit successfully.
    Print(String),
}

/// Why a command line is refused: one line, without the program's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    #[error("{option}: invalid option")]
    InvalidOption { option: String },
    #[error("{option}: requires an argument")]
    MissingArgument { option: String },
    #[error("argument {0:?} is not valid UTF-8")]
    NotUtf8(OsString),
    #[error("{origin}: {reason}")]
    Option { origin: String, reason: OptionError },
    /// A `-global` that a device of the board cannot have.
    #[error("{0}")]
    Global(String),
}

/// What is wrong with an option. The sentences are QEMU's, so they start as QEMU's do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("Invalid parameter '{name}'")]
    InvalidParameter { name: String },
    #[error("Parameter '{name}' is missing")]
    Missing { name: String },
    #[error("Parameter '{name}' is unexpected")]
    Unexpected { name: String },
    #[error("Expected '=' after parameter '{name}'")]
    ExpectedEquals { name: String },
    #[error("Parameter '{name}' expects 'on' or 'off'")]
    ExpectsOnOff { name: String },
    #[error("Parameter '{name}' expects a number")]
    ExpectsNumber { name: String },
    #[error("Parameter '{name}' expects integer")]
    ExpectsInteger { name: String },
    #[error("Parameter '{name}' expects {kind}")]
    ExpectsKind { name: String, kind: &'static str },
    #[error("Invalid parameter type for '{name}', expected: string")]
    InvalidType { name: String },
    #[error(
        "Parameter '{name}' expects a non-negative number below 2^64 (optional suffix k, M, G, T, \
         P or E means kilo-, mega-, giga-, tera-, peta- and exabytes)"
    )]
    ExpectsSize { name: String },
    #[error("Value '{value}' is out of range for parameter '{name}'")]
    OutOfRange { name: String, value: String },
    #[error(
        "Parameter '{name}' expects an identifier (letters, digits, '-', '.', '_', starting with \
         a letter)"
    )]
    ExpectsIdentifier { name: String },
    #[error("Parameter '{name}' does not accept value '{value}' (valid: {allowed})")]
    NotAccepted { name: String, value: String, allowed: String },
    #[error("Property '{owner}.{name}' not found")]
    PropertyNotFound { owner: String, name: String },
    #[error("Duplicate ID '{id}' for {what}")]
    DuplicateId { id: String, what: &'static str },
    /// Anything said of one option only.
    #[error("{0}")]
    Refused(String),
}

impl OptionError {
    fn at(self, origin: &str) -> CliError {
        CliError::Option { origin: origin.into(), reason: self }
    }
}

/// A refusal in words of its own.
fn refused<T>(sentence: impl Into<String>) -> Result<T, OptionError> {
    Err(OptionError::Refused(sentence.into()))
}

/// What an option makes of the command line.
enum Step {
    Next,
    /// Help on the option was asked for.
    Print(String),
}

/// A value with the option that set it, for messages about it.
#[derive(Debug, Clone)]
struct Given<T> {
    value: T,
    origin: String,
}

/// The command line so far: the spec under construction and what it will be made of.
struct Session {
    spec: MachineSpec,
    warnings: Vec<String>,
    board: boards::Board,
    backends: backends::Backends,
    disks: disks::Disks,
    models: models::Models,
    data_dirs: Vec<String>,
}

/// Parse a command line; the first word is the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let mut words = Vec::new();
    for arg in args {
        words.push(arg.into_string().map_err(CliError::NotUtf8)?);
    }
    let program = words.first().map_or("understudy", |word| word.as_str());
    let program = Path::new(program).file_name().and_then(|name| name.to_str());
    let program = program.unwrap_or("understudy").to_owned();
    let mut session = Session::new(program);
    let occurrences = argv::occurrences(words.get(1..).unwrap_or_default())?;
    session.spec.embedded_guest = occurrences.is_empty();
    let occurrences = config::expand(occurrences)?;
    for occurrence in &occurrences {
        let step = session.option(occurrence).map_err(|error| error.at(&occurrence.origin))?;
        if let Step::Print(text) = step {
            return Ok(Invocation::Print(text));
        }
    }
    session.finish()
}

/// The name that messages start with, for a command line that could not be parsed.
pub fn program_name(first: Option<OsString>) -> String {
    first
        .and_then(|word| Path::new(&word).file_name().map(|name| name.to_string_lossy().into()))
        .unwrap_or_else(|| "understudy".into())
}

impl Session {
    fn new(program: String) -> Self {
        let spec = MachineSpec {
            program,
            name: None,
            process_name: None,
            debug_threads: false,
            uuid: None,
            seed: None,
            machine: MachineOptions::default(),
            accel: Accel::Jit { tb_size: None, one_insn_per_tb: false },
            cpu: "rv64".into(),
            smp: Smp::default(),
            ram_size: crate::machine::spec::DEFAULT_RAM_SIZE,
            firmware: Firmware::Builtin,
            kernel: None,
            initrd: None,
            append: None,
            dtb: None,
            loaders: Vec::<LoaderSpec>::new(),
            fw_cfg: Vec::<FwCfgSpec>::new(),
            chardevs: Vec::<ChardevSpec>::new(),
            serials: Vec::new(),
            monitors: Vec::<MonitorSpec>::new(),
            qtest: None,
            drives: Vec::<DriveSpec>::new(),
            devices: Vec::<DeviceSpec>::new(),
            objects: Vec::<ObjectSpec>::new(),
            descriptors: Vec::new(),
            globals: Vec::<GlobalSpec>::new(),
            incoming: None,
            only_migratable: false,
            migration: Settings::default(),
            start_paused: false,
            preconfig: false,
            actions: Actions::default(),
            rtc: RtcSpec::default(),
            boot: BootSpec::default(),
            log: LogSpec::default(),
            messages: MessageFormat::default(),
            process: ProcessSpec::default(),
            embedded_guest: false,
        };
        Self {
            spec,
            warnings: Vec::new(),
            board: boards::Board::default(),
            backends: backends::Backends::default(),
            disks: disks::Disks::default(),
            models: models::Models::default(),
            data_dirs: Vec::new(),
        }
    }

    /// Take one option.
    fn option(&mut self, option: &Occurrence) -> Result<Step, OptionError> {
        if let Some(reason) = options::refusal(&option.name) {
            return refused(reason);
        }
        let text = option.value.as_str();
        let origin = option.origin.as_str();
        let given = || Some(Given { value: text.to_owned(), origin: origin.to_owned() });
        match option.name.as_str() {
            "h" => return Ok(Step::Print(options::help(&self.spec.program))),
            "version" => return Ok(Step::Print(options::version())),
            "machine" => return self.board.machine(text, origin),
            "accel" => return self.board.accel(text, origin),
            "cpu" if matches!(text, "help" | "?") => return Ok(Step::Print(cpu_model::cpu_help())),
            "cpu" => {
                IsaConfig::from_cpu_option(text)
                    .map_err(|error| OptionError::Refused(error.to_string()))?;
                let model = text.split(',').next().unwrap_or_default();
                if let Some(extensions) = cpu_model::lacks(model) {
                    self.warnings.push(format!("warning: CPU '{model}' lacks {extensions} here"));
                }
                self.spec.cpu = text.into();
            }
            "smp" => return self.board.smp(text, origin),
            "m" => return self.board.memory(text, origin),
            "mem-path" => self.spec.machine.memory_path = Some(text.into()),
            "mem-prealloc" => self.board.prealloc = true,
            "boot" => self.board.boot(text, origin)?,
            "kernel" => self.board.kernel = given(),
            "initrd" => self.board.initrd = given(),
            "append" => self.board.append = given(),
            "dtb" => self.board.dtb = given(),
            "bios" => self.board.firmware = given(),
            "L" if matches!(text, "help" | "?") => {
                let dirs = self.data_dirs.iter().map(|dir| format!("{dir}\n")).collect();
                return Ok(Step::Print(dirs));
            }
            "L" => self.data_dirs.push(text.into()),
            "device" => return self.models.device(text, origin),
            "object" => return self.models.object(text, &mut self.spec.objects),
            "global" => {
                let global = models::global(text)?;
                self.spec.globals.push(global);
            }
            "incoming" => self.spec.incoming = Some(migration::incoming(text, origin)?),
            "add-fd" => self.spec.descriptors.push(settings::add_fd(text, origin)?),
            "only-migratable" => self.spec.only_migratable = true,
            "fw_cfg" => models::fw_cfg(text, origin, &mut self.spec.fw_cfg, &mut self.warnings)?,
            "drive" => self.disks.drive(text, origin, &mut self.warnings)?,
            "pflash" => self.disks.flash(text, origin)?,
            "blockdev" => self.disks.blockdev(text, origin)?,
            "hda" | "disk_image" => self.disks.image(0, text, origin)?,
            "hdb" => self.disks.image(1, text, origin)?,
            "hdc" => self.disks.image(2, text, origin)?,
            "hdd" => self.disks.image(3, text, origin)?,
            "chardev" => return self.backends.chardev(text, origin, &mut self.warnings),
            "serial" => self.backends.serials.push(backends::Port::new(text, origin)),
            "monitor" => self.backends.monitor_on(text, origin, backends::HMP)?,
            "qmp" => self.backends.monitor_on(text, origin, backends::QMP)?,
            "qmp-pretty" => self.backends.monitor_on(text, origin, backends::QMP_PRETTY)?,
            "mon" => self.backends.mon(text, origin, &mut self.warnings)?,
            "qtest" => self.backends.qtest = given(),
            "qtest-log" => self.backends.qtest_log = given(),
            "nodefaults" => self.backends.no_defaults = true,
            "nographic" => self.spec.process.nographic = true,
            "parallel" => {
                self.backends.parallel_given = true;
                return settings::option(option, &mut self.spec, &mut self.warnings);
            }
            "display" => {
                self.backends.no_display = true;
                return settings::display(text);
            }
            _ => return settings::option(option, &mut self.spec, &mut self.warnings),
        }
        Ok(Step::Next)
    }

    /// Everything that needs to know the whole command line.
    fn finish(mut self) -> Result<Invocation, CliError> {
        self.models.check_links(&self.spec)?;
        self.board.finish(&mut self.spec, &self.data_dirs, &mut self.warnings)?;
        self.backends.finish(&mut self.spec, &mut self.warnings)?;
        self.disks.finish(&mut self.spec)?;
        migration::globals(&mut self.spec)?;
        if self.spec.preconfig && matches!(self.spec.incoming, Some(Incoming::At { .. })) {
            let sentence = "'preconfig' supports '-incoming defer' only";
            return Err(OptionError::Refused(sentence.into()).at("-preconfig"));
        }
        self.models.finish(&mut self.spec, &mut self.warnings)?;
        Ok(Invocation::Run { spec: Box::new(self.spec), warnings: self.warnings })
    }
}

#[cfg(test)]
mod tests;
