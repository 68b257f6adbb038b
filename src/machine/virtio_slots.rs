//! Which device of the command line is plugged into which virtio-mmio slot.
//!
//! As on QEMU's `virt`, slots are filled from the last to the first, in the order of the command
//! line.

use std::sync::Arc;

use actix::Arbiter;

use super::build::{Board, BuildError};
use super::composition::Plugged;
use super::drives::{Drives, PluggedDrive};
use super::guest_random::GuestRandom;
use super::hotplug::{PluggedPort, SerialBus};
use super::memory::GuestRam;
use super::memory_map as map;
use super::spec::{DeviceSpec, GlobalSpec, MachineSpec, ObjectKind};
use crate::actors::cell::DeviceCell;
use crate::actors::message::IrqLevel;
use crate::actors::outlet::Outlet;
use crate::actors::timer::TimerLine;
use crate::block::message::BlockFailed;
use crate::chardev::message::CharBackend;
use crate::devices::shell::Shell;
use crate::devices::virtio::blk::Blk;
use crate::devices::virtio::console::{Console, PortBus};
use crate::devices::virtio::create::{self, BlkConnections, Properties, SerialDevice};
use crate::devices::virtio::device::VirtioDevice;
use crate::devices::virtio::entropy;
use crate::devices::virtio::inspect::VirtioLink;
use crate::devices::virtio::rng::{AssignTimer, Rng};
use crate::devices::virtio::transport::{EmptySlot, MmioSlot, VirtioMmio};
use crate::objects::Objects;

type Chardevs<'a> = &'a dyn Fn(&str) -> Option<CharBackend>;

/// A device of the command line that takes a slot; ports go with the bus that they name.
enum Plug<'a> {
    Blk(&'a DeviceSpec),
    Rng(&'a DeviceSpec),
    Serial(&'a DeviceSpec, SerialDevice),
}

impl<'a> Plug<'a> {
    fn device(&self) -> &'a DeviceSpec {
        match self {
            Self::Blk(device) | Self::Rng(device) | Self::Serial(device, _) => device,
        }
    }
}

fn refused(device: &DeviceSpec, reason: impl std::fmt::Display) -> BuildError {
    BuildError::Device { origin: device.origin.clone(), reason: reason.to_string() }
}

/// The properties of a device, those that `-global` sets for its model first.
fn properties(spec: &MachineSpec, device: &DeviceSpec) -> Vec<(String, String)> {
    let global = |g: &&GlobalSpec| g.driver == device.driver;
    let globals = spec.globals.iter().filter(global);
    let mut all: Vec<_> = globals.map(|g| (g.property.clone(), g.value.clone())).collect();
    all.extend(device.props.iter().cloned());
    all
}

/// `-global virtio-mmio.force-legacy=`; on by default, as in QEMU.
pub(super) fn force_legacy(spec: &MachineSpec) -> bool {
    let set = spec.globals.iter().rev();
    let mut set = set.filter(|g| g.driver == "virtio-mmio" && g.property == "force-legacy");
    set.next().is_none_or(|g| !matches!(g.value.as_str(), "off" | "false" | "no" | "n"))
}

/// What a migration calls the device in the slot at `base`.
fn idstr<D: VirtioDevice>(base: u64) -> String {
    format!("virtio-mmio@{base:016x}/{}", D::VMSD.name)
}

/// Where QEMU's tree of objects has a device.
fn qom_path(spec: &MachineSpec, device: &DeviceSpec) -> String {
    match &device.id {
        Some(id) => format!("/machine/peripheral/{id}"),
        None => {
            let unnamed = spec.devices.iter().filter(|other| other.id.is_none());
            let before = unnamed.take_while(|other| !std::ptr::eq(*other, device)).count();
            format!("/machine/peripheral-anon/device[{before}]")
        }
    }
}

/// The device at this path, for monitors.
fn link<D: VirtioDevice>(path: String, cell: &DeviceCell<Shell<VirtioMmio<D>>>) -> VirtioLink {
    VirtioLink { path, inspect: cell.recipient(), element: cell.recipient() }
}

/// What is said of the failures of a device over the drive `id`.
fn failure_of(spec: &MachineSpec, id: &str, qom_path: &str) -> BlockFailed {
    let drive = spec.drives.iter().find(|drive| drive.id == id);
    let nodes = drive.map(|drive| drive.nodes.clone()).unwrap_or_default();
    let back_end = drive.filter(|drive| drive.is_back_end).map(|drive| drive.id.clone());
    let node_name = nodes.format.unwrap_or(nodes.file);
    BlockFailed::of_device(qom_path.to_owned(), back_end.unwrap_or_default(), node_name)
}

/// What the bus of a virtio-serial device is called.
fn serial_bus_name(spec: &MachineSpec, device: &DeviceSpec) -> String {
    match &device.id {
        Some(id) => format!("{id}.0"),
        None => {
            let is_like = |other: &&DeviceSpec| other.driver == device.driver && other.id.is_none();
            let before = spec.devices.iter().filter(is_like);
            let before = before.take_while(|other| !std::ptr::eq(*other, device)).count();
            format!("virtio-serial-bus.{before}")
        }
    }
}

/// Make every slot. The drives, and what has become of the devices.
pub(super) fn plug_all(
    board: &mut Board,
    spec: &MachineSpec,
    ram: &Arc<GuestRam>,
    irq: &Outlet<IrqLevel>,
    (chardevs, objects): (Chardevs<'_>, &Objects),
    drives: &mut Drives,
) -> Result<(Vec<PluggedDrive>, Vec<Plugged>), BuildError> {
    let mut plugged = Vec::new();
    let mut plugs = Vec::new();
    board.hotplug.ids = spec.devices.iter().filter_map(|device| device.id.clone()).collect();
    board.hotplug.slots = map::VIRTIO_COUNT;
    board.hotplug.ports_opened = board.ports_opened.clone();
    for (index, device) in spec.devices.iter().enumerate() {
        let given = properties(spec, device);
        match device.driver.as_str() {
            "virtio-blk-device" => plugs.push(Plug::Blk(device)),
            "virtio-rng-device" => plugs.push(Plug::Rng(device)),
            "virtio-serial-device" => {
                let serial = create::serial(&given).map_err(|e| refused(device, e))?;
                plugs.push(Plug::Serial(device, serial));
            }
            "virtconsole" | "virtserialport" => {
                let console = device.driver == "virtconsole";
                let port = create::port(console, &given).map_err(|e| refused(device, e))?;
                let named = |id: &Option<String>| {
                    device
                        .bus
                        .as_ref()
                        .is_none_or(|bus| id.as_ref().is_some_and(|id| *bus == format!("{id}.0")))
                };
                let buses = plugs.iter_mut().filter_map(|plug| match plug {
                    Plug::Serial(spec, serial) => Some((spec, serial)),
                    _ => None,
                });
                let bus = buses.enumerate().find(|(_, (spec, _))| named(&spec.id));
                let missing = "No 'virtio-serial-bus' bus found for device";
                let (bus_index, (_, bus)) =
                    bus.ok_or_else(|| refused(device, format!("{missing} '{}'", device.driver)))?;
                let backend = match &port.chardev {
                    Some(id) => Some(chardevs(id).ok_or_else(|| {
                        let property = format!("{}.chardev", device.driver);
                        refused(device, format!("Property '{property}' can't find value '{id}'"))
                    })?),
                    None => None,
                };
                let chardev = port.chardev.clone();
                let place = backend.as_ref().map(|backend| backend.place.clone());
                // A port without an identifier cannot be told apart.
                let announce = device.id.clone().map(|id| (id, board.ports_opened.clone()));
                let number = bus.add(port, backend, announce).map_err(|e| refused(device, e))?;
                board.hotplug.ports.push(PluggedPort {
                    id: device.id.clone(),
                    path: qom_path(spec, device),
                    bus: bus_index,
                    nr: number,
                    chardev: chardev.zip(place),
                });
                plugged.push(Plugged {
                    device: index,
                    slot: None,
                    resolved: vec![("nr", number.into())],
                });
            }
            other => {
                return Err(refused(device, format!("'{other}' is not a valid device model name")));
            }
        }
    }
    if plugs.len() > map::VIRTIO_COUNT as usize
        && let Some(d) = plugs.get(map::VIRTIO_COUNT as usize).map(Plug::device)
    {
        return Err(refused(d, format!("No 'virtio-bus' bus found for device '{}'", d.driver)));
    }

    board.hotplug.free_slot = map::VIRTIO_COUNT.checked_sub(plugs.len() as u32 + 1);
    let legacy = force_legacy(spec);
    let mut nodes = Vec::new();
    let mut plugs = plugs.into_iter();
    for number in (0..map::VIRTIO_COUNT).rev() {
        let region = map::virtio(number);
        let line = map::virtio_irq(number);
        let slot = MmioSlot { legacy, ram: Arc::clone(ram), irq: irq.clone(), line };
        let name = "virtio-mmio";
        let plug = plugs.next();
        let device = plug.as_ref().map(Plug::device);
        let device = spec.devices.iter().position(|d| device.is_some_and(|it| std::ptr::eq(it, d)));
        let mut resolved = Vec::new();
        match plug {
            None => {
                board.map(name, region.base, EmptySlot::new(legacy));
            }
            Some(Plug::Blk(device)) => {
                let given: &Properties = &properties(spec, device);
                let blk = create::blk(given).map_err(|e| refused(device, e))?;
                let thread = blk.iothread.as_deref().map(|id| objects.iothread(id)).transpose();
                let thread = thread.map_err(|e| refused(device, e))?;
                let taken = drives.take("virtio-blk-device.drive", &blk.drive);
                let mut drive = taken.map_err(|e| refused(device, e))?;
                drive.attach(blk.share_write).map_err(|e| refused(device, e))?;
                let info = drive.info();
                resolved = blk.resolved(&info);
                let failure = board.failure.clone();
                let node = match &thread {
                    Some(thread) => drive.into_bounded_node(failure, thread.limits().threads()),
                    None => drive.into_node(failure),
                };
                let node = node.map_err(|e| refused(device, e))?;
                let path = qom_path(spec, device);
                let (id, may_stop) = (blk.drive.clone(), blk.may_stop(&info));
                let connections = BlkConnections {
                    requests: node.requests(),
                    account: node.account(),
                    failures: board.block_failures.clone(),
                    name: failure_of(spec, &id, &path),
                };
                let virtio = blk.plug(info, connections, slot).map_err(|e| refused(device, e))?;
                let shared = Arbiter::current();
                let arbiter = thread.as_ref().map_or(&shared, |thread| thread.arbiter());
                let cell = board.map_on(arbiter, name, region.base, virtio);
                board.virtio.push(link(path.clone(), &cell));
                board.manage(idstr::<Blk>(region.base), &cell);
                let device = Some(device.id.clone().unwrap_or(path));
                nodes.push(PluggedDrive { id, node, device, may_stop, thread });
            }
            Some(Plug::Rng(device)) => {
                let given: &Properties = &properties(spec, device);
                let rng = create::rng(given).map_err(|e| refused(device, e))?;
                let source = entropy_source(spec, device, rng.source.as_deref(), &board.random)?;
                let clock = Arc::clone(&board.clock);
                let limited = rng.needs_timer();
                let virtio = rng.plug(source, clock, board.timers.arm_outlet(), slot);
                let cell = board.map(name, region.base, virtio);
                board.virtio.push(link(qom_path(spec, device), &cell));
                if limited {
                    let fired = Outlet::Mailbox(cell.recipient());
                    let line: TimerLine = board.timers.register(fired)?;
                    cell.addr().do_send(AssignTimer { slot: line.slot() });
                }
                board.manage(idstr::<Rng>(region.base), &cell);
            }
            Some(Plug::Serial(device, serial)) => {
                let cell = board.map(name, region.base, serial.plug(slot));
                let name = serial_bus_name(spec, device);
                let path = qom_path(spec, device);
                board.virtio.push(link(path.clone(), &cell));
                let path = format!("{path}/{name}");
                let ports = PortBus { plug: cell.recipient(), unplug: cell.recipient() };
                board.hotplug.buses.push(SerialBus { name, path, ports });
                board.manage(idstr::<Console>(region.base), &cell);
            }
        }
        plugged.extend(device.map(|device| Plugged { device, slot: Some(number), resolved }));
    }
    Ok((nodes, plugged))
}

fn entropy_source(
    spec: &MachineSpec,
    device: &DeviceSpec,
    id: Option<&str>,
    random: &GuestRandom,
) -> Result<Outlet<entropy::EntropyWanted>, BuildError> {
    let Some(id) = id else { return Ok(entropy::builtin(random.clone())) };
    let object = spec.objects.iter().find(|o| o.id == id);
    match object.map(|o| &o.kind) {
        Some(ObjectKind::RngBuiltin) => Ok(entropy::builtin(random.clone())),
        Some(ObjectKind::RngRandom { filename }) => {
            entropy::from_file(&filename.to_string_lossy()).map_err(|e| refused(device, e))
        }
        Some(_) => {
            let text = format!("Invalid parameter type for 'rng', expected: rng-backend ('{id}')");
            Err(refused(device, text))
        }
        None => Err(refused(device, format!("Device '{id}' not found"))),
    }
}
