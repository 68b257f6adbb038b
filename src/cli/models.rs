//! `-device`, `-object`, `-global`, `-fw_cfg`: what is plugged into the board.

use super::opts::Opts;
use super::{CliError, OptionError, Step, backends, refused, value};
use crate::cpu::cpu_model::{self, CpuError};
use crate::cpu::isa::IsaConfig;
use crate::devices::virtio::properties::Model;
use crate::machine::models;
use crate::machine::spec::{
    BoardKind, DeviceSpec, FwCfgContent, FwCfgSpec, GlobalSpec, LoaderSpec, LoaderWhat,
    MachineSpec, ObjectKind, ObjectSpec,
};
use crate::objects::options::{self, ObjectOptions};
use crate::qom::types::{self, DEVICE};
use crate::qom::{self, Node, QomError};

/// virtio-mmio transports of the board, each with a bus for one device.
const VIRTIO_TRANSPORTS: usize = 8;

/// Bytes of a fw_cfg item's name, without the terminating zero.
const FW_CFG_NAME_MAX: usize = 55;

/// `cpu-num` of a loader that sets no program counter.
const CPU_NONE: u64 = 0xffff_ffff;

/// The devices so far.
#[derive(Debug, Default)]
pub struct Models {
    devices: Vec<DeviceSpec>,
    loaders: Vec<DeviceSpec>,
}

impl Models {
    /// `-device`.
    pub fn device(&mut self, text: &str, origin: &str) -> Result<Step, OptionError> {
        let mut opts = Opts::parse_or_json(text, "driver")?;
        let driver = opts.take("driver");
        if matches!(driver.as_deref(), Some("help" | "?")) {
            return Ok(Step::Print(qom::list(false)));
        }
        let Some(driver) = driver else {
            return Err(OptionError::Missing { name: "driver".into() });
        };
        let refusal = |error: QomError| OptionError::Refused(error.to_string());
        if opts.wants_help() {
            return Ok(Step::Print(qom::device_help(&driver).map_err(refusal)?));
        }
        let model = qom::model(&driver).map_err(refusal)?;
        let id = opts.take("id").map(|id| value::identifier(&id)).transpose()?;
        if let Some(id) = &id
            && self.devices.iter().chain(&self.loaders).any(|device| device.id.as_ref() == Some(id))
        {
            return Err(OptionError::DuplicateId { id: id.clone(), what: "device" });
        }
        let bus = opts.take("bus");
        check_properties(model, &opts.items)?;
        let device = DeviceSpec { driver, id, bus, props: opts.items, origin: origin.into() };
        if model.name == "loader" { &mut self.loaders } else { &mut self.devices }.push(device);
        Ok(Step::Next)
    }

    /// `-object`.
    pub fn object(
        &mut self,
        text: &str,
        objects: &mut Vec<ObjectSpec>,
    ) -> Result<Step, OptionError> {
        if let Some(help) = options::help(text) {
            return Ok(Step::Print(help));
        }
        let object = ObjectOptions::parse(text).and_then(ObjectOptions::into_spec);
        let object = object.map_err(|error| OptionError::Refused(error.to_string()))?;
        if objects.iter().any(|other| other.id == object.id) {
            return Err(OptionError::DuplicateId { id: object.id, what: "object" });
        }
        objects.push(object);
        Ok(Step::Next)
    }

    /// Turn loaders into what they load.
    pub fn finish(
        &mut self,
        spec: &mut MachineSpec,
        warnings: &mut Vec<String>,
    ) -> Result<(), CliError> {
        for global in spec.globals.clone() {
            self.apply(&global, spec, warnings)?;
        }
        let cpus = spec.smp.cpus;
        for device in std::mem::take(&mut self.loaders) {
            let loader = loader(&device, cpus).map_err(|error| error.at(&device.origin))?;
            spec.loaders.push(loader);
        }
        // Devices of -drive if=virtio come after those of -device, as on QEMU.
        let implied = std::mem::take(&mut spec.devices);
        for device in std::mem::take(&mut self.devices).into_iter().chain(implied) {
            let origin = device.origin.clone();
            check_device(&device, spec).map_err(|error| error.at(&origin))?;
            spec.devices.push(device);
            if let Some(device) = spec.devices.last()
                && let Some(id) = device.prop("chardev")
            {
                backends::check_use(id, &spec.chardevs, spec).map_err(|error| {
                    let property = format!("Property '{}.chardev'", device.driver);
                    let sentence = format!("{property} can't take value '{id}': {error}");
                    OptionError::Refused(sentence).at(&origin)
                })?;
            }
        }
        Ok(())
    }

    /// Have every device that `-global` speaks of know of it.
    fn apply(
        &mut self,
        global: &GlobalSpec,
        spec: &mut MachineSpec,
        warnings: &mut Vec<String>,
    ) -> Result<(), CliError> {
        let GlobalSpec { driver, property, value } = global;
        let Some(of) = types::find(driver).filter(|of| of.is(DEVICE)) else {
            warnings.push(format!("warning: global {driver}.{property} has invalid class name"));
            return Ok(());
        };
        let is_meant = |name: &str| types::find(name).is_some_and(|known| known.is(driver));
        let refusal =
            |error: &str| format!("can't apply global {driver}.{property}={value}: {error}");
        let mut used = false;
        for name in board_types(spec).into_iter().filter(|name| is_meant(name)) {
            used = true;
            apply_to_board(&name, global, spec)
                .map_err(|error| CliError::Global(refusal(&error)))?;
        }
        let devices = self.devices.iter_mut().chain(&mut self.loaders).chain(&mut spec.devices);
        for device in devices.filter(|device| is_meant(&device.driver)) {
            used = true;
            let given = [(property.clone(), value.clone())];
            qom::model(&device.driver)
                .map_err(|error| OptionError::Refused(error.to_string()))
                .and_then(|model| check_properties(model, &given))
                .map_err(|error| {
                    OptionError::Refused(refusal(&error.to_string())).at(&device.origin)
                })?;
            device.props.insert(0, (property.clone(), value.clone()));
        }
        // One of a class that can come later may be.
        if !used && of.is("sys-bus-device") {
            warnings.push(format!("warning: global {driver}.{property}={value} not used"));
        }
        Ok(())
    }

    /// Objects that devices refer to must exist.
    pub fn check_links(&self, spec: &MachineSpec) -> Result<(), CliError> {
        for device in &self.devices {
            let Some(id) = device.prop("rng") else { continue };
            let rng = spec.objects.iter().any(|object| {
                object.id == id
                    && matches!(object.kind, ObjectKind::RngBuiltin | ObjectKind::RngRandom { .. })
            });
            if !rng {
                let sentence = format!("Device '{id}' not found");
                return Err(OptionError::Refused(sentence).at(&device.origin));
            }
        }
        Ok(())
    }
}

/// The types of the devices that the board comes with.
fn board_types(spec: &MachineSpec) -> Vec<String> {
    if spec.machine.board == BoardKind::Empty {
        return Vec::new();
    }
    let mut all: Vec<String> = [
        "cfi.pflash01",
        "riscv.hart_array",
        "riscv.aclint.swi",
        "riscv.aclint.mtimer",
        "riscv.sifive.plic",
        "fw_cfg_mem",
        "riscv.sifive.test",
        "virtio-mmio",
        "serial-mm",
        "serial",
        "goldfish_rtc",
    ]
    .map(str::to_owned)
    .into();
    let model = spec.cpu.split(',').next().unwrap_or_default();
    all.push(cpu_model::type_name(model));
    all
}

/// A property of a device of the board, for all devices of its type. The error says what is wrong.
fn apply_to_board(
    type_name: &str,
    global: &GlobalSpec,
    spec: &mut MachineSpec,
) -> Result<(), String> {
    let GlobalSpec { property: name, value, .. } = global;
    let known = Node::new(type_name).property(name).ok_or_else(|| {
        QomError::NoProperty { owner: type_name.to_owned(), name: name.clone() }.to_string()
    })?;
    let wanted = qom::parse_value(&known, value).map_err(|error| error.to_string())?;
    if let Some(model) = type_name.strip_suffix("-riscv-cpu") {
        // -cpu has the last word.
        let given = spec.cpu.split_once(',').map(|(_, given)| format!(",{given}"));
        spec.cpu = format!("{model},{name}={value}{}", given.unwrap_or_default());
        return match IsaConfig::from_cpu_option(&spec.cpu) {
            Err(CpuError::Property { reason, .. }) => Err(reason),
            Err(other) => Err(other.to_string()),
            Ok(_) => Ok(()),
        };
    }
    if (type_name, name.as_str()) == ("virtio-mmio", "force-legacy") {
        return Ok(());
    }
    match known.default {
        Some(default) if default == wanted => Ok(()),
        _ => Err(format!("the board's {type_name} has a '{name}' of its own")),
    }
}

/// Properties must be the model's, and their values what their types say.
fn check_properties(model: &Model, given: &[(String, String)]) -> Result<(), OptionError> {
    model.parse(given).map(drop).map_err(|error| OptionError::Refused(error.to_string()))
}

/// What a device needs must be there, and free. `spec.devices` holds those before it.
fn check_device(device: &DeviceSpec, spec: &MachineSpec) -> Result<(), OptionError> {
    let Some(model) = models::model(&device.driver) else {
        return refused(format!("'{}' is not a valid device model name", device.driver));
    };
    let no_bus = || refused(format!("No '{}' bus found for device '{}'", model.bus, model.name));
    let on_bus = |bus: &str| {
        spec.devices
            .iter()
            .filter(|other| models::model(&other.driver).is_some_and(|model| model.bus == bus))
            .count()
    };
    match model.bus {
        "virtio-bus" => {
            if on_bus("virtio-bus") >= VIRTIO_TRANSPORTS {
                return no_bus();
            }
            if let Some(bus) = &device.bus {
                let number = bus.strip_prefix("virtio-mmio-bus.");
                let number = number.and_then(|number| number.parse::<usize>().ok());
                if number.is_none_or(|number| number >= VIRTIO_TRANSPORTS) {
                    return refused(format!("Bus '{bus}' not found"));
                }
                if spec.devices.iter().any(|other| other.bus.as_ref() == Some(bus)) {
                    return refused(format!("Bus '{bus}' is full"));
                }
            }
        }
        "virtio-serial-bus" => {
            let mut controllers =
                spec.devices.iter().filter(|other| other.driver == "virtio-serial-device");
            match &device.bus {
                None if controllers.next().is_none() => return no_bus(),
                None => {}
                Some(bus) => {
                    let mut names = controllers.enumerate().map(|(index, other)| match &other.id {
                        Some(id) => format!("{id}.0"),
                        None => format!("virtio-serial-bus.{index}"),
                    });
                    if !names.any(|name| name == *bus) {
                        return refused(format!("Bus '{bus}' not found"));
                    }
                }
            }
        }
        _ => {}
    }
    let missing = |name: &str, text: &str| {
        refused(format!("Property '{}.{name}' can't find value '{text}'", model.name))
    };
    if let Some(text) = device.prop("drive") {
        if !spec.drives.iter().any(|drive| drive.id == text) {
            return missing("drive", text);
        }
        if spec.devices.iter().any(|other| other.prop("drive") == Some(text)) {
            return refused(format!("Drive '{text}' is already in use by another device"));
        }
    }
    if let Some(text) = device.prop("chardev")
        && !spec.chardevs.iter().any(|chardev| chardev.id == text)
    {
        return missing("chardev", text);
    }
    match model.name {
        "virtio-blk-device" if device.prop("drive").is_none() => refused("drive property not set"),
        "virtio-blk-device" if device.prop("serial").is_some_and(|serial| serial.len() > 20) => {
            refused("serial: at most 20 characters fit")
        }
        "virtio-rng-device" => {
            let of = |name| device.prop(name).and_then(value::uint);
            if of("max-bytes").is_some_and(|n| n == 0 || n > i64::MAX as u64) {
                refused("'max-bytes' parameter must be positive, and less than 2^63")
            } else if of("period") == Some(0) {
                refused("'period' parameter expects a positive integer")
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

/// A loader's properties, in the order in which QEMU checks them.
fn loader(device: &DeviceSpec, cpus: u32) -> Result<LoaderSpec, OptionError> {
    let of = |name| device.prop(name).and_then(value::uint);
    let on = |name| device.prop(name).is_some_and(|text| value::switch(name, text) == Ok(true));
    let (addr, data, len) = (of("addr"), of("data"), of("data-len"));
    let file = device.prop("file");
    let cpu = of("cpu-num").filter(|cpu| *cpu != CPU_NONE);
    let big_endian = on("data-be");
    let what = if data.unwrap_or(0) != 0 || len.unwrap_or(0) != 0 || big_endian {
        if file.is_some() {
            return refused("Specifying a file is not supported when loading memory values");
        }
        if on("force-raw") {
            return refused("Specifying force-raw is not supported when loading memory values");
        }
        let len = match len.unwrap_or(0) {
            0 => return refused("Both data and data-len must be specified"),
            len @ 1..=8 => len as u8,
            _ => return refused("data-len cannot be greater then 8 bytes"),
        };
        LoaderWhat::Data { addr: addr.unwrap_or(0), value: data.unwrap_or(0), len, big_endian }
    } else if let Some(file) = file {
        LoaderWhat::File { path: file.into(), addr, force_raw: on("force-raw") }
    } else if let Some(addr) = addr.filter(|addr| *addr != 0 || cpu.is_some()) {
        if cpu.is_none() {
            return refused("cpu_num must be specified when setting a program counter");
        }
        LoaderWhat::ProgramCounter { addr }
    } else {
        return refused("please include valid arguments");
    };
    let cpu_num = match cpu {
        None => None,
        Some(number) => match u32::try_from(number) {
            Ok(number) if number < cpus => Some(number),
            _ => return refused(format!("Specified boot CPU#{number} is nonexistent")),
        },
    };
    Ok(LoaderSpec { what, cpu_num, origin: device.origin.clone() })
}

/// `-global`: `driver.property=value`, or the three by name.
pub fn global(text: &str) -> Result<GlobalSpec, OptionError> {
    if let Some((driver, rest)) = text.split_once('.')
        && !driver.is_empty()
        && !driver.contains('=')
        && let Some((property, value)) = rest.split_once('=')
        && !property.is_empty()
    {
        let [driver, property, value] = [driver, property, value].map(str::to_owned);
        return Ok(GlobalSpec { driver, property, value });
    }
    let mut opts = Opts::parse(text, None);
    let parts = (opts.take("driver"), opts.take("property"), opts.take("value"));
    opts.finish()?;
    match parts {
        (Some(driver), Some(property), Some(value)) => Ok(GlobalSpec { driver, property, value }),
        _ => refused("Invalid 'global': needs driver.property=value"),
    }
}

/// `-fw_cfg`.
pub fn fw_cfg(
    text: &str,
    origin: &str,
    items: &mut Vec<FwCfgSpec>,
    warnings: &mut Vec<String>,
) -> Result<(), OptionError> {
    let mut opts = Opts::parse(text, Some("name"));
    let name = opts.take("name").filter(|name| !name.is_empty());
    let file = opts.take("file").filter(|file| !file.is_empty());
    let string = opts.take("string").filter(|string| !string.is_empty());
    let generated = opts.take("gen_id").filter(|id| !id.is_empty());
    opts.finish()?;
    let (name, content) = match (name, file, string, generated) {
        (Some(name), Some(file), None, None) => (name, FwCfgContent::File(file.into())),
        (Some(name), None, Some(string), None) => (name, FwCfgContent::String(string)),
        (Some(_), None, None, Some(id)) => return refused(format!("Cannot find object ID '{id}'")),
        _ => return refused("name, plus exactly one of file, string and gen_id, are needed"),
    };
    if name.len() > FW_CFG_NAME_MAX {
        return refused(format!("name too long (max. {FW_CFG_NAME_MAX} char)"));
    }
    if items.iter().any(|item| item.name == name) {
        return refused(format!("duplicate fw_cfg file name: {name}"));
    }
    if !name.starts_with("opt/") {
        warnings.push(format!(
            "{origin}: warning: externally provided fw_cfg item names should be prefixed with \
             \"opt/\""
        ));
    }
    items.push(FwCfgSpec { name, content, origin: origin.into() });
    Ok(())
}
