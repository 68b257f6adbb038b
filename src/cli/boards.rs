//! `-machine`, `-accel`, `-smp`, `-m`, `-boot` and the boot images: the board and what it starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::opts::Opts;
use super::{CliError, Given, OptionError, Step, refused, value};
use crate::machine::memory::PAGE_SIZE;
use crate::machine::spec::{
    Accel, BoardKind, BootSpec, DEFAULT_RAM_SIZE, Firmware, FlashSpec, MAX_CPUS, MachineSpec,
    ObjectKind, ObjectSpec, Smp,
};
use crate::objects::memory::MemorySpec;

/// RAM is a multiple of this, as on QEMU.
const RAM_GRANULARITY: u64 = 8192;

/// The board's parameters, merged over all options that set some.
#[derive(Debug, Default)]
pub struct Board {
    /// Parameters of `-machine`, the last of a name counts.
    machine: Vec<(String, Given<String>)>,
    /// The `-machine none` in force.
    empty: Option<String>,
    accel: Vec<(Accel, String)>,
    /// An `-accel` that named none of ours, if no later one does.
    accel_unknown: Option<(String, OptionError)>,
    smp: Vec<(String, Given<String>)>,
    ram_size: Option<Given<u64>>,
    max_ram: Option<Given<u64>>,
    slots: Option<Given<u64>>,
    boot: Vec<(String, Given<String>)>,
    /// `-mem-prealloc`
    pub prealloc: bool,
    pub kernel: Option<Given<String>>,
    pub initrd: Option<Given<String>>,
    pub append: Option<Given<String>>,
    pub dtb: Option<Given<String>>,
    pub firmware: Option<Given<String>>,
}

fn given<T>(value: T, origin: &str) -> Given<T> {
    Given { value, origin: origin.into() }
}

fn accel_help() -> String {
    "Accelerators supported:\n\
     tcg     translation to host code (default; also 'jit')\n\
     interp  the reference interpreter\n\
     qtest   nothing runs: a program drives the devices (-qtest)\n"
        .into()
}

const MACHINE_HELP: &str = "Supported machines are:\n\
    none                 empty machine\n    \
    virt                 RISC-V VirtIO board (default)\n";

impl Board {
    /// `-machine`.
    pub fn machine(&mut self, text: &str, origin: &str) -> Result<Step, OptionError> {
        let mut opts = Opts::parse_keyval(text, "type")?;
        if opts.wants_help() {
            let help = match opts.get("type") {
                None => Some(MACHINE_HELP.to_owned()),
                Some(board) => crate::qom::machine_help(board),
            };
            if let Some(help) = help {
                return Ok(Step::Print(help));
            }
        }
        if let Some(kind) = opts.take("type") {
            self.empty = match kind.as_str() {
                "virt" => None,
                "none" => Some(origin.to_owned()),
                _ => {
                    return refused(format!(
                        "unsupported machine type: \"{kind}\" (use -machine help to list \
                         supported machines; there are virt and none)"
                    ));
                }
            };
        }
        for (key, value) in opts.items {
            match key.as_str() {
                "kernel" => self.kernel = Some(given(value, origin)),
                "initrd" => self.initrd = Some(given(value, origin)),
                "append" => self.append = Some(given(value, origin)),
                "dtb" => self.dtb = Some(given(value, origin)),
                "firmware" => self.firmware = Some(given(value, origin)),
                "memory.size" | "memory" => {
                    self.ram_size = Some(given(value::size("memory.size", &value, 1)?, origin));
                }
                "memory.max-size" => {
                    self.max_ram = Some(given(value::size(&key, &value, 1)?, origin));
                }
                "memory.slots" => {
                    self.slots = Some(given(value::number(&key, &value)?, origin));
                }
                _ => {
                    if let Some(key) = key.strip_prefix("smp.") {
                        self.smp.push((key.into(), given(value, origin)));
                    } else if let Some(key) = key.strip_prefix("boot.") {
                        self.boot.push((key.into(), given(value, origin)));
                    } else {
                        self.machine.push((key, given(value, origin)));
                    }
                }
            }
        }
        Ok(Step::Next)
    }

    /// `-accel`.
    pub fn accel(&mut self, text: &str, origin: &str) -> Result<Step, OptionError> {
        let mut opts = Opts::parse(text, Some("accel"));
        let Some(name) = opts.take("accel") else {
            return Err(OptionError::Missing { name: "accel".into() });
        };
        if matches!(name.as_str(), "help" | "?") {
            return Ok(Step::Print(accel_help()));
        }
        match accel_named(&name) {
            Err(error) => self.accel_unknown = Some((origin.into(), error)),
            Ok(mut accel) => {
                accel_properties(&mut accel, opts)?;
                self.accel.push((accel, origin.into()));
            }
        }
        Ok(Step::Next)
    }

    /// `-smp`.
    pub fn smp(&mut self, text: &str, origin: &str) -> Result<Step, OptionError> {
        let opts = Opts::parse(text, Some("cpus"));
        if opts.wants_help() || text == "help" {
            return Ok(Step::Print(
                "smp-opts options:\n  cores=<num>\n  cpus=<num>\n  maxcpus=<num>\n  \
                 sockets=<num>\n  threads=<num>\n"
                    .into(),
            ));
        }
        self.smp.extend(opts.items.into_iter().map(|(key, value)| (key, given(value, origin))));
        Ok(Step::Next)
    }

    /// `-m`.
    pub fn memory(&mut self, text: &str, origin: &str) -> Result<Step, OptionError> {
        let mut opts = Opts::parse(text, Some("size"));
        let mebi = 1 << 20;
        if let Some(text) = opts.take("size") {
            self.ram_size = Some(given(value::size("size", &text, mebi)?, origin));
        }
        if let Some(text) = opts.take("maxmem") {
            self.max_ram = Some(given(value::size("maxmem", &text, 1)?, origin));
        }
        if let Some(slots) = opts.take_number("slots")? {
            self.slots = Some(given(slots, origin));
        }
        opts.finish()?;
        Ok(Step::Next)
    }

    /// `-boot`.
    pub fn boot(&mut self, text: &str, origin: &str) -> Result<(), OptionError> {
        let opts = Opts::parse(text, Some("order"));
        self.boot.extend(opts.items.into_iter().map(|(key, value)| (key, given(value, origin))));
        Ok(())
    }

    /// Check everything together and fill in the spec.
    pub fn finish(
        &mut self,
        spec: &mut MachineSpec,
        data_dirs: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<(), CliError> {
        if self.empty.is_some() {
            spec.machine.board = BoardKind::Empty;
        }
        let mut machine_accel = None;
        for (key, option) in std::mem::take(&mut self.machine) {
            if key == "accel" {
                machine_accel = Some(option);
            } else {
                machine_property(spec, &key, &option.value).map_err(|e| e.at(&option.origin))?;
            }
        }
        self.finish_accel(spec, machine_accel, warnings)?;
        if let Some((_, first)) = self.smp.first() {
            let origin = self.smp.last().map_or(&first.origin, |(_, last)| &last.origin).clone();
            let values: Vec<_> = self
                .smp
                .iter()
                .map(|(key, option)| (key.as_str(), option.value.as_str()))
                .collect();
            spec.smp = topology(&values).map_err(|error| error.at(&origin))?;
        }
        self.finish_memory(spec)?;
        if self.prealloc {
            spec.machine.memory.prealloc_threads = Some(spec.smp.cpus);
        }
        for (key, option) in &self.boot {
            boot_property(&mut spec.boot, key, &option.value).map_err(|e| e.at(&option.origin))?;
        }
        self.finish_images(spec, data_dirs)
    }

    fn finish_accel(
        &mut self,
        spec: &mut MachineSpec,
        machine_accel: Option<Given<String>>,
        warnings: &mut Vec<String>,
    ) -> Result<(), CliError> {
        if let Some(option) = machine_accel {
            if !self.accel.is_empty() || self.accel_unknown.is_some() {
                return Err(OptionError::Refused(
                    "The -accel and \"-machine accel=\" options are incompatible".into(),
                )
                .at(&option.origin));
            }
            for name in option.value.split(':') {
                match accel_named(name) {
                    Ok(accel) => self.accel.push((accel, option.origin.clone())),
                    Err(error) => self.accel_unknown = Some((option.origin.clone(), error)),
                }
            }
        }
        match (self.accel.first(), self.accel_unknown.take()) {
            (Some((accel, _)), unknown) => {
                spec.accel = *accel;
                warnings.extend(unknown.map(|(origin, error)| format!("{origin}: {error}")));
                Ok(())
            }
            (None, Some((origin, error))) => Err(error.at(&origin)),
            (None, None) => Ok(()),
        }
    }

    fn finish_memory(&self, spec: &mut MachineSpec) -> Result<(), CliError> {
        let size = self.ram_size.as_ref().filter(|given| given.value != 0);
        if let Some(given) = size {
            spec.ram_size =
                given.value.checked_next_multiple_of(RAM_GRANULARITY).ok_or_else(|| {
                    OptionError::Refused("ram size too large".into()).at(&given.origin)
                })?;
        } else {
            spec.ram_size = if self.empty.is_some() { 0 } else { DEFAULT_RAM_SIZE };
        }
        if let Some(id) = &spec.machine.memory_backend {
            let origin = format!("-machine memory-backend={id}");
            let backend = spec.objects.iter().find(|object| object.id == *id);
            let Some(ObjectKind::Memory(MemorySpec { size: bytes, .. })) = backend.map(|o| &o.kind)
            else {
                return Err(
                    OptionError::Refused(format!("Memory backend '{id}' not found")).at(&origin)
                );
            };
            if spec.machine.memory_path.is_some() {
                let sentence = "'-mem-path' can't be used together with'-machine memory-backend'";
                return Err(OptionError::Refused(sentence.into()).at(&origin));
            }
            if !bytes.is_multiple_of(PAGE_SIZE) {
                return Err(OptionError::Refused(format!(
                    "RAM of {bytes:#x} bytes: whole pages of {PAGE_SIZE} bytes are needed"
                ))
                .at(&origin));
            }
            if size.is_some() && spec.ram_size != *bytes {
                return Err(OptionError::Refused(
                    "Machine memory size does not match the size of the memory backend".into(),
                )
                .at(&origin));
            }
            spec.ram_size = *bytes;
        }
        let reserved = spec.machine.board.default_ram_id();
        let in_the_way = |object: &ObjectSpec| object.id == reserved;
        if spec.machine.memory_backend.is_none()
            && spec.ram_size > 0
            && spec.objects.iter().any(in_the_way)
        {
            return Err(OptionError::Refused(format!(
                "object's id '{reserved}' is reserved for the default RAM backend, it can't be \
                 used for any other purposes (unless '-machine memory-backend={reserved}' is given)"
            ))
            .at("-object"));
        }
        match (&self.max_ram, &self.slots) {
            (Some(max), _) if max.value < spec.ram_size => Err(OptionError::Refused(format!(
                "invalid value of maxmem: maximum memory size ({:#x}) must be at least the initial \
                 memory size ({:#x})",
                max.value, spec.ram_size
            ))
            .at(&max.origin)),
            (None, Some(slots)) => {
                Err(OptionError::Refused("slots specified but no max-size".into())
                    .at(&slots.origin))
            }
            _ => Ok(()),
        }
    }

    fn finish_images(&self, spec: &mut MachineSpec, data_dirs: &[String]) -> Result<(), CliError> {
        if self.empty.is_some() {
            let images = [&self.kernel, &self.initrd, &self.append, &self.dtb, &self.firmware];
            if let Some(image) = images.into_iter().flatten().next() {
                let sentence = "machine 'none' has nothing that would run it";
                return Err(OptionError::Refused(sentence.into()).at(&image.origin));
            }
        }
        if self.kernel.is_none() {
            for (option, name) in [(&self.initrd, "-initrd"), (&self.append, "-append")] {
                if let Some(option) = option {
                    let sentence = format!("{name} only allowed with -kernel option");
                    return Err(OptionError::Refused(sentence).at(&option.origin));
                }
            }
        }
        let path = |option: &Option<Given<String>>| option.as_ref().map(|o| o.value.clone().into());
        spec.kernel = path(&self.kernel);
        spec.initrd = path(&self.initrd);
        spec.dtb = path(&self.dtb);
        spec.append = self.append.as_ref().map(|option| option.value.clone());
        if let Some(option) = &self.firmware {
            spec.firmware = match option.value.as_str() {
                "none" => Firmware::None,
                "default" => Firmware::Builtin,
                name => Firmware::File(firmware_file(name, data_dirs).ok_or_else(|| {
                    OptionError::Refused(format!("Unable to find the RISC-V BIOS \"{name}\""))
                        .at(&option.origin)
                })?),
            };
        }
        Ok(())
    }
}

/// A firmware file: as named, or in one of the data directories.
fn firmware_file(name: &str, data_dirs: &[String]) -> Option<PathBuf> {
    let named = PathBuf::from(name);
    std::iter::once(named)
        .chain(data_dirs.iter().map(|dir| Path::new(dir).join(name)))
        .find(|path| path.is_file())
}

fn accel_named(name: &str) -> Result<Accel, OptionError> {
    match name {
        "tcg" | "jit" => Ok(Accel::Jit { tb_size: None, one_insn_per_tb: false }),
        "interp" => Ok(Accel::Interp),
        "qtest" => Ok(Accel::Qtest),
        _ => refused(format!("invalid accelerator {name} (valid: tcg, jit, interp, qtest)")),
    }
}

fn accel_properties(accel: &mut Accel, opts: Opts) -> Result<(), OptionError> {
    for (key, text) in opts.items {
        match (&mut *accel, key.as_str()) {
            (Accel::Jit { tb_size, .. }, "tb-size") => {
                let mebibytes = value::uint(&text)
                    .ok_or(OptionError::ExpectsKind { name: key.clone(), kind: "uint64" })?;
                *tb_size = match mebibytes {
                    0 => None,
                    n => Some(
                        n.checked_mul(1 << 20)
                            .ok_or(OptionError::OutOfRange { name: key, value: text })?,
                    ),
                };
            }
            (Accel::Jit { one_insn_per_tb, .. }, "one-insn-per-tb") => {
                *one_insn_per_tb = value::switch(&key, &text)?;
            }
            (Accel::Jit { .. }, "split-wx") => {
                if !value::switch(&key, &text)? {
                    return refused("split-wx=off: code is never writable and executable at once");
                }
            }
            (Accel::Jit { .. } | Accel::Interp, "thread") => match text.as_str() {
                "multi" => {}
                "single" => return refused("thread=single: every hart has a thread of its own"),
                _ => return refused(format!("Invalid 'thread' setting {text} (valid: multi)")),
            },
            (Accel::Jit { .. }, _) => {
                return Err(OptionError::PropertyNotFound { owner: "tcg-accel".into(), name: key });
            }
            (Accel::Interp, _) => {
                let owner = "interp-accel".into();
                return Err(OptionError::PropertyNotFound { owner, name: key });
            }
            (Accel::Qtest, _) => {
                let owner = "qtest-accel".into();
                return Err(OptionError::PropertyNotFound { owner, name: key });
            }
        }
    }
    Ok(())
}

/// A property of the machine.
fn machine_property(spec: &mut MachineSpec, key: &str, text: &str) -> Result<(), OptionError> {
    const OF_ALL: [&str; 4] = ["memory-backend", "dump-guest-core", "graphics", "mem-merge"];
    if spec.machine.board == BoardKind::Empty && !OF_ALL.contains(&key) {
        let owner = "none-machine".into();
        return Err(OptionError::PropertyNotFound { owner, name: key.into() });
    }
    let only_off = |why: &str| match text {
        "on" | "yes" | "true" | "y" => refused(format!("{key}={text}: {why}; only {key}=off")),
        "off" | "no" | "false" | "n" => Ok(()),
        "auto" if matches!(key, "acpi" | "iommu-sys") => Ok(()),
        _ if matches!(key, "acpi" | "iommu-sys") => Err(OptionError::NotAccepted {
            name: key.into(),
            value: text.into(),
            allowed: "off, auto".into(),
        }),
        _ => Err(OptionError::ExpectsOnOff { name: key.into() }),
    };
    match key {
        "aclint" => spec.machine.aclint = value::switch(key, text)?,
        "dumpdtb" => spec.machine.dumpdtb = Some(text.into()),
        "memory-backend" => spec.machine.memory_backend = Some(text.into()),
        "pflash0" | "pflash1" => {
            let origin = format!("-machine {key}={text}");
            let bank = usize::from(key == "pflash1");
            spec.machine.flash[bank] = Some(FlashSpec { drive: text.into(), origin });
        }
        "dump-guest-core" => spec.machine.memory.dump = value::switch(key, text)?,
        "mem-merge" => spec.machine.memory.merge = value::switch(key, text)?,
        "acpi" => only_off("there are no ACPI tables")?,
        "iommu-sys" => only_off("there is no IOMMU")?,
        "usb" => only_off("there is no USB controller")?,
        "graphics" => only_off("there is no graphical output")?,
        "aux-ram-share" => only_off("memory is not shared with other processes")?,
        "aia" => match text {
            "none" => {}
            "aplic" | "aplic-imsic" => {
                return refused(format!("aia={text}: there is no APLIC or IMSIC; only aia=none"));
            }
            _ => {
                return refused(format!(
                    "Invalid AIA interrupt controller type '{text}' (valid: none)"
                ));
            }
        },
        "aia-guests"
        | "suppress-vmdesc"
        | "memory-encryption"
        | "confidential-guest-support"
        | "dt-compatible"
        | "phandle-start"
        | "shim"
        | "smp-cache" => {
            return refused(format!("{key}={text}: the property '{key}' is not available"));
        }
        _ => {
            let owner = "virt-machine".into();
            return Err(OptionError::PropertyNotFound { owner, name: key.into() });
        }
    }
    Ok(())
}

/// A key of `-boot`.
fn boot_property(boot: &mut BootSpec, key: &str, text: &str) -> Result<(), OptionError> {
    match key {
        "order" => {
            for (index, device) in text.char_indices() {
                if !('a'..='p').contains(&device) {
                    return refused(format!("Invalid boot device '{device}' (valid: a to p)"));
                }
                if text[..index].contains(device) {
                    return refused(format!("Boot device '{device}' was given twice"));
                }
            }
            boot.order = Some(text.into());
        }
        "menu" => boot.menu = Some(value::switch("boot.menu", text)?),
        "strict" => boot.strict = value::switch("boot.strict", text)?,
        "reboot-timeout" => {
            boot.reboot_timeout = match text {
                "-1" => None,
                _ => match value::number("boot.reboot-timeout", text)? {
                    ms @ 0..=0xffff => Some(Duration::from_millis(ms)),
                    _ => {
                        return refused(
                            "reboot timeout is invalid,it should be a value between -1 and 65535",
                        );
                    }
                },
            };
        }
        "splash-time" => {
            let time = match text.strip_prefix('-') {
                Some(_) => None,
                None => u16::try_from(value::number("boot.splash-time", text)?).ok(),
            };
            let sentence = "splash-time is invalid,it should be a value between 0 and 65535";
            let refusal = OptionError::Refused(sentence.into());
            boot.splash_time = Some(time.ok_or(refusal)?);
        }
        "once" => {
            return refused("no function defined to set boot device list for this architecture");
        }
        "splash" => return refused(format!("splash={text}: there is no graphical output")),
        _ => return Err(OptionError::Unexpected { name: format!("boot.{key}") }),
    }
    Ok(())
}

/// QEMU's computation of a topology from the parameters that were given.
fn topology(given: &[(&str, &str)]) -> Result<Smp, OptionError> {
    const KEYS: [&str; 10] = [
        "cpus", "maxcpus", "sockets", "cores", "threads", "modules", "dies", "clusters", "books",
        "drawers",
    ];
    let mut parsed: [Option<i64>; 10] = [None; 10];
    for (key, text) in given {
        let Some(slot) = KEYS.iter().position(|known| known == key) else {
            return Err(OptionError::Unexpected { name: format!("smp.{key}") });
        };
        let number = value::uint(text).map(|n| n as i64);
        parsed[slot] =
            Some(number.ok_or(OptionError::ExpectsInteger { name: format!("smp.{key}") })?);
    }
    let too_many = |n: i64| {
        OptionError::Refused(format!(
            "Invalid SMP CPUs {n}. The max CPUs supported by machine 'virt' is {MAX_CPUS}"
        ))
    };
    if parsed.contains(&Some(0)) {
        return refused("Invalid CPU topology: CPU topology parameters must be greater than zero");
    }
    if let Some(n) = parsed.into_iter().flatten().find(|n| !(1..=i64::from(i32::MAX)).contains(n)) {
        return Err(too_many(n));
    }
    for (key, n) in KEYS.into_iter().zip(parsed).skip(5) {
        if n.unwrap_or(1) > 1 {
            return refused(format!("{key} > 1 not supported by this machine's CPU topology"));
        }
    }
    // Zero is "not given" from here on; every number fits 31 bits, so products of two fit.
    let [cpus, max_cpus, sockets, cores, threads, ..] = parsed.map(|n| n.unwrap_or(0));
    let (mut cpus, mut max_cpus) = (cpus, max_cpus);
    let (mut sockets, mut cores, mut threads) = (sockets, cores, threads);
    if cpus == 0 && max_cpus == 0 {
        sockets = sockets.max(1);
        cores = cores.max(1);
        threads = threads.max(1);
    } else {
        max_cpus = if max_cpus > 0 { max_cpus } else { cpus };
        if cores == 0 {
            sockets = sockets.max(1);
            threads = threads.max(1);
            cores = max_cpus / (sockets * threads);
        } else if sockets == 0 {
            threads = threads.max(1);
            sockets = max_cpus / (cores * threads);
        }
        if threads == 0 {
            threads = max_cpus / (sockets * cores);
        }
    }
    let total = i128::from(sockets) * i128::from(cores) * i128::from(threads);
    let hierarchy = format!("sockets ({sockets}) * cores ({cores}) * threads ({threads})");
    if max_cpus == 0 {
        max_cpus = i64::try_from(total).unwrap_or(i64::MAX);
    }
    cpus = if cpus > 0 { cpus } else { max_cpus };
    if total != i128::from(max_cpus) {
        return refused(format!(
            "Invalid CPU topology: product of the hierarchy must match maxcpus: {hierarchy} != \
             maxcpus ({max_cpus})"
        ));
    }
    if max_cpus < cpus {
        return refused(format!(
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: {hierarchy} == \
             maxcpus ({max_cpus}) < smp_cpus ({cpus})"
        ));
    }
    let narrow = |n: i64| match u32::try_from(n) {
        Ok(n) if n <= MAX_CPUS => Ok(n),
        _ => Err(too_many(n)),
    };
    Ok(Smp {
        max_cpus: narrow(max_cpus)?,
        cpus: narrow(cpus)?,
        sockets: narrow(sockets)?,
        cores: narrow(cores)?,
        threads: narrow(threads)?,
    })
}
