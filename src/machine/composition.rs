//! The machine as clients see it in the object model: the tree of what is wired, with QEMU's names
//! and places.
//!
//! Devices that QEMU's `virt` has and ours has not (the PCIe host bridge, the platform bus, ACPI's
//! tables in fw_cfg) leave gaps, so that what is there has the path that it has in QEMU.

use serde_json::{Value, json};

use super::clock::TIMEBASE_HZ;
use super::memory::RAM_BASE;
use super::memory_map as map;
use super::models;
use super::spec::{Accel, BoardKind, DeviceSpec, Firmware, MachineSpec};
use crate::cpu::cpu_model;
use crate::cpu::irq::{MEIP, MSIP, MTIP, SEIP, SSIP};
use crate::cpu::isa::IsaConfig;
use crate::devices::flash::{BANK_SIZE, SECTOR_SIZE};
use crate::qom::{MappedRam, Node, Qom};

/// Where a device without a place of its own is.
pub(super) const UNATTACHED: &str = "/machine/unattached";
const SYSTEM_MEMORY: &str = "/machine/unattached/system[0]";
const SYSBUS: &str = "/machine/unattached/sysbus";
/// Between the virtio transports and the serial port QEMU has the PCIe host bridge and the platform
/// bus.
const ABSENT: usize = 2;
/// Bytes of guest-physical addresses that the QEMU's regions of devices take.
const ACLINT_SWI: u64 = 0x4000;
const ACLINT_MTIMER: u64 = 0x8000;
const VIRTIO_MMIO: u64 = 0x200;
const UART: u64 = 8;
const RTC: u64 = 0x24;

/// A device that the machine has plugged in, with what it has made of its properties.
#[derive(Debug, Clone)]
pub(super) struct Plugged {
    /// Index into the spec's devices.
    pub(super) device: usize,
    /// Its virtio-mmio transport, unless it is a port of another device's.
    pub(super) slot: Option<u32>,
    /// Properties that are not what was given.
    pub(super) resolved: Vec<(&'static str, Value)>,
}

/// The object model of a machine.
pub(super) fn describe(spec: &MachineSpec, isa: &IsaConfig, plugged: &[Plugged]) -> Qom {
    let ram = MappedRam { backend: spec.machine.ram_id().to_owned(), base: ram_base(spec) };
    let ram = (spec.ram_size > 0).then_some(ram);
    let machine = match spec.machine.board {
        BoardKind::Empty => {
            let mut machine = of_all(spec, "none-machine");
            machine.add("peripheral-anon", Node::new("container"));
            machine.add("unattached", unattached(Vec::new(), System::default()));
            machine.add("peripheral", Node::new("container"));
            machine
        }
        BoardKind::Virt => virt(spec, isa, plugged),
    };
    Qom::new(machine, ram)
}

fn ram_base(spec: &MachineSpec) -> u64 {
    match spec.machine.board {
        BoardKind::Virt => RAM_BASE,
        BoardKind::Empty => 0,
    }
}

/// The machine with the properties that every type of machine has.
fn of_all(spec: &MachineSpec, type_name: &str) -> Node {
    let path = |path: &Option<std::path::PathBuf>| match path {
        Some(path) => path.display().to_string(),
        None => String::new(),
    };
    let firmware = match &spec.firmware {
        Firmware::Builtin => String::new(),
        Firmware::None => "none".to_owned(),
        Firmware::File(path) => path.display().to_string(),
    };
    let smp = spec.smp;
    let memory_backend = match spec.ram_size {
        0 => String::new(),
        _ => format!("/objects/{}", spec.machine.ram_id()),
    };
    Node::new(type_name)
        .with("kernel", path(&spec.kernel))
        .with("initrd", path(&spec.initrd))
        .with("dtb", path(&spec.dtb))
        .with("append", spec.append.clone().unwrap_or_default())
        .with("firmware", firmware)
        .with("dump-guest-core", spec.machine.memory.dump)
        .with("mem-merge", spec.machine.memory.merge)
        .with("memory", json!({"size": spec.ram_size}))
        .with("memory-backend", memory_backend)
        .with("boot", boot(spec))
        .with(
            "smp",
            json!({
                "cpus": smp.cpus, "drawers": 1, "books": 1, "sockets": smp.sockets, "dies": 1,
                "clusters": 1, "modules": 1, "cores": smp.cores, "threads": smp.threads,
                "maxcpus": smp.max_cpus,
            }),
        )
}

/// QAPI `BootConfiguration`.
fn boot(spec: &MachineSpec) -> Value {
    let boot = &spec.boot;
    let mut members = serde_json::Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            members.insert(name.to_owned(), value);
        }
    };
    add("order", boot.order.as_deref().map(Value::from));
    add("menu", boot.menu.map(Value::from));
    add("splash-time", boot.splash_time.map(Value::from));
    add("reboot-timeout", boot.reboot_timeout.map(|time| (time.as_millis() as u64).into()));
    add("strict", boot.strict.then_some(Value::from(true)));
    Value::Object(members)
}

/// A range of guest-physical addresses; without an address one that is not mapped.
fn region(addr: Option<u64>, size: u64) -> Node {
    let node = Node::new("memory-region").with("size", size);
    match addr {
        Some(addr) => node.with("container", SYSTEM_MEMORY).with("addr", addr),
        None => node,
    }
}

/// The bus of the devices that are the board's own, as it fills.
#[derive(Default)]
struct System {
    /// Types and paths, and how many before each are missing.
    devices: Vec<(&'static str, String, usize)>,
    missing: usize,
}

impl System {
    /// A device at `path` is on it.
    fn has(&mut self, device: Node, path: &str) -> Node {
        let gap = std::mem::take(&mut self.missing);
        self.devices.push((device.type_name(), path.to_owned(), gap));
        device.with("parent_bus", SYSBUS)
    }
}

/// What has no parent of its own.
fn unattached(objects: Vec<(String, Node)>, system: System) -> Node {
    let mut node = Node::new("container");
    let mut bus = Node::new("System").with("realized", false);
    for (type_name, path, gap) in system.devices {
        bus.holds_device(type_name, &path, gap);
    }
    node.add("sysbus", bus);
    node.add("system[0]", region(None, u64::MAX));
    node.add("io[0]", region(None, 0x1_0000));
    for (name, object) in objects {
        node.add(name, object);
    }
    node
}

/// The place of an interrupt line among the PLIC's.
struct Plic(String);

impl Plic {
    fn wire(&self, device: &mut Node, output: usize, line: u32) {
        let input = format!("{}/unnamed-gpio-in[{line}]", self.0);
        device.link(format!("sysbus-irq[{output}]"), "irq", input);
    }
}

/// The path of bit `bit` of a hart's pending interrupts.
fn hart_input(hart: u32, bit: u64) -> String {
    format!("/machine/soc0/harts[{hart}]/unnamed-gpio-in[{}]", bit.trailing_zeros())
}

fn virt(spec: &MachineSpec, isa: &IsaConfig, plugged: &[Plugged]) -> Node {
    let harts = spec.smp.cpus;
    let mut system = System::default();
    let mut machine = of_all(spec, "virt-machine");
    machine.set("aclint", spec.machine.aclint);
    for (name, value) in [("acpi", "off"), ("iommu-sys", "off"), ("aia", "none")] {
        machine.set(name, value);
    }
    machine.add("peripheral", Node::new("container"));
    machine.add("peripheral-anon", Node::new("container"));
    let soc = system.has(hart_array(spec, isa), "/machine/soc0");
    machine.add("soc0", soc);

    let mut devices: Vec<(String, Node)> = Vec::new();
    let place = |devices: &Vec<(String, Node)>, also: usize| {
        format!("{UNATTACHED}/device[{}]", devices.len() + also)
    };
    let attach = |devices: &mut Vec<(String, Node)>, system: &mut System, absent, node| {
        let path = place(devices, absent);
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        devices.push((name, system.has(node, &path)));
        path
    };
    // As QEMU, no interruptor and no timer where nothing runs.
    if spec.accel != Accel::Qtest {
        for device in aclint(spec, harts) {
            attach(&mut devices, &mut system, 0, device);
        }
    }
    let plic = Plic(attach(&mut devices, &mut system, 0, plic(harts)));
    let fw_cfg = system.has(fw_cfg(), "/machine/fw_cfg");
    let mut finisher = Node::new("riscv.sifive.test");
    if let Some(registers) = finisher.child_mut("riscv.sifive.test[0]") {
        *registers = region(Some(map::FINISHER.base), map::FINISHER.size);
    }
    attach(&mut devices, &mut system, 0, finisher);
    let slots: Vec<String> = (0..map::VIRTIO_COUNT)
        .map(|slot| attach(&mut devices, &mut system, 0, transport(spec, &plic, slot)))
        .collect();
    system.missing = ABSENT;
    attach(&mut devices, &mut system, ABSENT, serial(spec, &plic));
    let mut rtc =
        Node::new("goldfish_rtc").holding("goldfish_rtc[0]", region(Some(map::RTC.base), RTC));
    plic.wire(&mut rtc, 0, map::RTC_IRQ);
    attach(&mut devices, &mut system, ABSENT, rtc);
    for bank in 0..2 {
        let name = format!("virt.flash{bank}");
        let drive = spec.machine.flash[bank].as_ref().map(|flash| flash.drive.as_str());
        let drive = drive.unwrap_or_default();
        if let Some(node) = machine.child_mut(&name) {
            let described = flash(node.clone(), &name, bank as u64, drive);
            *node = system.has(described, &format!("/machine/{name}"));
        }
        machine.set(&format!("pflash{bank}"), drive);
    }
    let mrom = region(Some(map::MROM.base), map::MROM.size);
    devices.insert(0, ("riscv_virt_board.mrom[0]".to_owned(), mrom));
    machine.add("unattached", unattached(devices, system));
    machine.add("fw_cfg", fw_cfg);
    plug(&mut machine, spec, plugged, &slots);
    machine
}

fn hart_array(spec: &MachineSpec, isa: &IsaConfig) -> Node {
    let model = spec.cpu.split(',').next().unwrap_or_default();
    let type_name = cpu_model::type_name(model);
    let mut array = Node::new("riscv.hart_array")
        .with("cpu-type", type_name.as_str())
        .with("num-harts", spec.smp.cpus)
        .with("resetvec", map::MROM.base);
    for hart in 0..spec.smp.cpus {
        let mut node = Node::new(&type_name).with("memory", SYSTEM_MEMORY);
        node.set("hotpluggable", true);
        node.set("resetvec", map::MROM.base);
        for (name, value) in isa.properties() {
            node.set(name, value);
        }
        array.add(format!("harts[{hart}]"), node);
    }
    array
}

/// The software interruptors and the timer.
fn aclint(spec: &MachineSpec, harts: u32) -> Vec<Node> {
    let swi = |base: u64, bit: u64| {
        let mut node = Node::new("riscv.aclint.swi")
            .with("num-harts", harts)
            .with("sswi", u32::from(bit == SSIP));
        for hart in 0..harts {
            node.link(format!("unnamed-gpio-out[{hart}]"), "irq", hart_input(hart, bit));
        }
        node.holding("riscv.aclint.swi[0]", region(Some(base), ACLINT_SWI))
    };
    let mut timer = Node::new("riscv.aclint.mtimer")
        .with("num-harts", harts)
        .with("aperture-size", ACLINT_MTIMER)
        .with("timebase-freq", TIMEBASE_HZ);
    for hart in 0..harts {
        timer.link(format!("unnamed-gpio-out[{hart}]"), "irq", hart_input(hart, MTIP));
    }
    let base = Some(map::CLINT.base + ACLINT_SWI);
    let timer = timer.holding("riscv.aclint.mtimer[0]", region(base, ACLINT_MTIMER));
    let machine = swi(map::CLINT.base, MSIP);
    let mut devices = vec![machine, timer];
    devices.extend(spec.machine.aclint.then(|| swi(map::ACLINT_SSWI.base, SSIP)));
    devices
}

fn plic(harts: u32) -> Node {
    let config = vec!["MS"; harts as usize].join(",");
    let mut node = Node::new("riscv.sifive.plic")
        .with("hart-config", config)
        .with("num-sources", map::PLIC_SOURCES + 1)
        .with("num-priorities", 7)
        .with("pending-base", 0x1000)
        .with("enable-base", 0x2000)
        .with("enable-stride", 0x80)
        .with("context-base", 0x20_0000)
        .with("context-stride", 0x1000)
        .with("aperture-size", map::PLIC.size)
        .holding("riscv.sifive.plic[0]", region(Some(map::PLIC.base), map::PLIC.size));
    for input in 0..=map::PLIC_SOURCES {
        node.add(format!("unnamed-gpio-in[{input}]"), Node::new("irq"));
    }
    for (output, hart) in (0..harts).enumerate() {
        let machine = output + harts as usize;
        node.link(format!("unnamed-gpio-out[{output}]"), "irq", hart_input(hart, SEIP));
        node.link(format!("unnamed-gpio-out[{machine}]"), "irq", hart_input(hart, MEIP));
    }
    node
}

fn fw_cfg() -> Node {
    let base = map::FW_CFG.base;
    Node::new("fw_cfg_mem")
        .with("data_width", 8)
        .holding("fwcfg.ctl[0]", region(Some(base + 8), 2))
        .holding("fwcfg.data[0]", region(Some(base), 8))
        .holding("fwcfg.dma[0]", region(Some(base + 16), 8))
}

/// Name of a transport's bus.
fn bus_name(slot: u32) -> String {
    format!("virtio-mmio-bus.{slot}")
}

fn transport(spec: &MachineSpec, plic: &Plic, slot: u32) -> Node {
    let mut node = Node::new("virtio-mmio")
        .with("force-legacy", super::virtio_slots::force_legacy(spec))
        .holding(bus_name(slot), Node::new("virtio-mmio-bus"));
    plic.wire(&mut node, 0, map::virtio_irq(slot));
    node.holding("virtio-mmio[0]", region(Some(map::virtio(slot).base), VIRTIO_MMIO))
}

fn serial(spec: &MachineSpec, plic: &Plic) -> Node {
    let chardev = spec.serials.first().and_then(Option::as_deref).unwrap_or_default();
    // QEMU's constant, which it rounds up to a divisor of the clock.
    let baud_base = 399_193;
    let mut node = Node::new("serial-mm")
        .with("endianness", 2)
        .with("chardev", chardev)
        .with("baudbase", baud_base);
    node.add("serial[0]", region(Some(map::UART.base), UART));
    plic.wire(&mut node, 0, map::UART_IRQ);
    if let Some(serial) = node.child_mut("serial") {
        serial.set("chardev", chardev);
        serial.set("baudbase", baud_base);
        serial.set("hotpluggable", true);
    }
    node
}

fn flash(node: Node, name: &str, bank: u64, drive: &str) -> Node {
    let base = map::FLASH.base + bank * BANK_SIZE;
    node.with("name", name)
        .with("drive", drive)
        .with("num-blocks", BANK_SIZE / SECTOR_SIZE)
        .with("sector-length", SECTOR_SIZE)
        .with("width", 4)
        .with("device-width", 2)
        .with("max-device-width", 2)
        .with("id0", 0x89)
        .with("id1", 0x18)
        .holding(format!("{name}[0]"), region(Some(base), BANK_SIZE))
}

/// Put the devices of the command line where they belong.
fn plug(machine: &mut Node, spec: &MachineSpec, plugged: &[Plugged], slots: &[String]) {
    // Paths of the buses of ports, by the identifier of their device.
    let mut buses: Vec<(Option<&str>, String)> = Vec::new();
    let mut anonymous = 0;
    for (index, device) in spec.devices.iter().enumerate() {
        let Some(found) = plugged.iter().find(|plugged| plugged.device == index) else { continue };
        let mut node = device_node(device);
        for (name, value) in &found.resolved {
            node.set(name, value.clone());
        }
        let (place, name) = match &device.id {
            Some(id) => ("peripheral", id.clone()),
            None => ("peripheral-anon", format!("device[{anonymous}]")),
        };
        anonymous += usize::from(device.id.is_none());
        let path = format!("/machine/{place}/{name}");
        let bus = match found.slot {
            Some(slot) => {
                let transport = slots.get(slot as usize).map_or("", String::as_str);
                format!("{transport}/{}", bus_name(slot))
            }
            None => port_bus(device, &buses).unwrap_or_default(),
        };
        node.set("parent_bus", bus.as_str());
        if device.driver == "virtio-blk-device" && super::virtio_slots::force_legacy(spec) {
            node.set("any_layout", false);
        }
        if device.driver == "virtio-rng-device" && device.prop("rng").is_none() {
            node.set("rng", format!("{path}/default-backend"));
            node.add("default-backend", Node::new("rng-builtin").with("opened", true));
        }
        if device.driver == "virtio-serial-device" {
            let bus = match &device.id {
                Some(id) => format!("{id}.0"),
                None => format!(
                    "virtio-serial-bus.{}",
                    buses.iter().filter(|(id, _)| id.is_none()).count()
                ),
            };
            node.add(
                bus.clone(),
                Node::new("virtio-serial-bus").with("hotplug-handler", path.as_str()),
            );
            buses.push((device.id.as_deref(), format!("{path}/{bus}")));
        }
        let type_name = node.type_name();
        if let Some(bus) = bus.strip_prefix("/machine").and_then(|bus| machine.at_mut(bus)) {
            bus.holds_device(type_name, &path, 0);
        }
        if let Some(place) = machine.child_mut(place) {
            place.add(name, node);
        }
    }
}

/// The bus that a port is on: the one that it names, or the first.
fn port_bus(device: &DeviceSpec, buses: &[(Option<&str>, String)]) -> Option<String> {
    let named =
        |path: &str| device.bus.as_deref().is_none_or(|bus| path.ends_with(&format!("/{bus}")));
    buses.iter().find(|(_, path)| named(path)).map(|(_, path)| path.clone())
}

/// A device of the command line, without its place.
pub(super) fn device_node(device: &DeviceSpec) -> Node {
    let mut node = Node::new(&device.driver);
    for (name, text) in &device.props {
        let model = models::model(&device.driver);
        let property = model.and_then(|model| model.properties.iter().find(|p| p.name == *name));
        if let Some(value) = property.and_then(|property| property.read(text)) {
            let value = match value.as_str() {
                Some(id) if property.is_some_and(|p| p.kind.name().starts_with("link<")) => {
                    format!("/objects/{id}").into()
                }
                _ => value,
            };
            node.set(name, value);
        }
    }
    if node.of().is("virtio-serial-port") {
        node.set("hotpluggable", true);
    }
    node
}
