//! Devices that come and go while the machine runs: ports on the buses of virtio-serial devices, the
//! only buses of these boards that take any then. Every refusal is in QEMU's words, and in the order
//! in which QEMU looks for reasons.

use std::collections::HashSet;
use std::time::Duration;

use actix::prelude::*;
use serde_json::Value;

use super::composition::device_node;
use super::message::{Announce, PlugDevice, PropertyValue, UnplugDevice, VmEvent};
use super::models;
use super::spec::DeviceSpec;
use crate::actors::outlet::Outlet;
use crate::chardev::message::{Place, PortOpened};
use crate::chardev::{Chardev, Chardevs};
use crate::devices::virtio::console::{PlugPort, PortBus, UnplugPort};
use crate::devices::virtio::create::{self, PortDevice};
use crate::devices::virtio::properties::{DeviceError, Kind, Model, Property};
use crate::qom::Qom;
use crate::qom::types::{self, DEVICE};

/// How long a bus may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a device is told to be gone after the reply that it goes, as on QEMU, where what is left
/// of it is taken away later.
const AFTERWARDS: Duration = Duration::from_millis(2);

/// Why a device cannot come or go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HotplugError {
    #[error("Device '{0}' not found")]
    NotFound(String),
    #[error(transparent)]
    Property(#[from] DeviceError),
    #[error("{0}")]
    Refused(String),
}

fn refused<T>(sentence: impl Into<String>) -> Result<T, HotplugError> {
    Err(HotplugError::Refused(sentence.into()))
}

/// A bus of ports.
#[derive(Debug, Clone)]
pub struct SerialBus {
    /// `vs0.0`
    pub name: String,
    /// In the tree of objects.
    pub path: String,
    pub ports: PortBus,
}

/// A port that is there.
#[derive(Debug, Clone)]
pub struct PluggedPort {
    pub id: Option<String>,
    /// In the tree of objects.
    pub path: String,
    /// Index of its bus.
    pub bus: usize,
    pub nr: u32,
    /// Its back end, and its place there.
    pub chardev: Option<(String, Place)>,
}

/// What the board has from the start.
#[derive(Debug, Clone)]
pub struct HotplugParts {
    pub buses: Vec<SerialBus>,
    pub ports: Vec<PluggedPort>,
    /// Identifiers of devices.
    pub ids: HashSet<String>,
    /// Who announces what the guest does with ports that have an identifier.
    pub ports_opened: Outlet<PortOpened>,
    /// Transports of the board.
    pub slots: u32,
    /// That which the next virtio device would go to.
    pub free_slot: Option<u32>,
}

impl Default for HotplugParts {
    /// No bus, and no device.
    fn default() -> Self {
        Self {
            buses: Vec::new(),
            ports: Vec::new(),
            ids: HashSet::new(),
            ports_opened: Outlet::Unconnected,
            slots: 0,
            free_slot: None,
        }
    }
}

/// The actor.
#[derive(Debug)]
pub struct Hotplug {
    parts: HotplugParts,
    qom: Qom,
    chardevs: Chardevs,
    announce: Recipient<Announce>,
}

/// A port that has passed every check but the bus's.
#[derive(Debug)]
struct Prepared {
    spec: DeviceSpec,
    port: PortDevice,
    bus: usize,
    chardev: Option<Chardev>,
}

impl Hotplug {
    /// Over the board's buses. Whoever tells clients of events is told of devices that are gone.
    pub fn new(
        parts: HotplugParts,
        qom: Qom,
        chardevs: Chardevs,
        announce: Recipient<Announce>,
    ) -> Self {
        Self { parts, qom, chardevs, announce }
    }

    fn prepare(&self, request: PlugDevice) -> Result<Prepared, HotplugError> {
        let PlugDevice { driver, id, bus, properties } = request;
        let model = model_of(&driver)?;
        let bus = self.bus_for(model, bus.as_deref())?;
        if let Some(id) = &id
            && self.parts.ids.contains(id)
        {
            return refused(format!("Duplicate device ID '{id}'"));
        }
        let mut props = Vec::new();
        let mut chardev = None;
        for (name, value) in properties {
            let property = model.properties.iter().find(|property| property.name == name);
            let property = property.ok_or(DeviceError::Unknown { model: model.name, name })?;
            let text = text_of(property, value)?;
            if property.name == "chardev" {
                chardev = Some(self.chardev(model, &text)?);
            }
            props.push((property.name.to_owned(), text));
        }
        let port = create::port(driver == "virtconsole", &props)?;
        let spec = DeviceSpec { driver, id, bus: None, props, origin: String::new() };
        Ok(Prepared { spec, port, bus, chardev })
    }

    /// The bus that a device goes to.
    fn bus_for(&self, model: &Model, named: Option<&str>) -> Result<usize, HotplugError> {
        let transport = |bus: &str| {
            let number = bus.strip_prefix("virtio-mmio-bus.")?.parse::<u32>().ok()?;
            (number < self.parts.slots).then_some("virtio-mmio-bus")
        };
        let serial = self.parts.buses.iter().position(|bus| named.is_none_or(|n| n == bus.name));
        let cannot_grow = |bus: &str| refused(format!("Bus '{bus}' does not support hotplugging"));
        if model.bus.is_empty() {
            let name = model.name;
            return refused(format!("Device '{name}' can not be hotplugged on this machine"));
        }
        let ports = model.bus == "virtio-serial-bus";
        let Some(named) = named else {
            return match (ports, serial, self.parts.free_slot) {
                (true, Some(bus), _) => Ok(bus),
                (false, _, Some(slot)) => cannot_grow(&format!("virtio-mmio-bus.{slot}")),
                _ => refused(format!("No '{}' bus found for device '{}'", model.bus, model.name)),
            };
        };
        let kind = match (serial, transport(named), named) {
            (Some(bus), _, _) if ports => return Ok(bus),
            (Some(_), _, _) => "virtio-serial-bus",
            (None, Some(_), _) if !ports => return cannot_grow(named),
            (None, Some(kind), _) => kind,
            (None, None, "main-system-bus") => "System",
            _ => return refused(format!("Bus '{named}' not found")),
        };
        refused(format!("Device '{}' can't go on {kind} bus", model.name))
    }

    fn chardev(&self, model: &Model, id: &str) -> Result<Chardev, HotplugError> {
        let (model, name, value) = (model.name, "chardev", id.to_owned());
        let found = self.chardevs.get(id);
        let found = found.ok_or(DeviceError::NoSuchBackend { model, name, value })?;
        match found.room() {
            Ok(()) => Ok(found),
            Err(why) => {
                refused(format!("Property '{model}.{name}' can't take value '{id}': {why}"))
            }
        }
    }

    /// The bus has taken the port.
    fn plugged(&mut self, spec: DeviceSpec, bus: usize, nr: u32, chardev: Option<(String, Place)>) {
        let mut node = device_node(&spec);
        node.set("nr", nr);
        node.set("hotplugged", true);
        let place = self.parts.buses.get(bus).map_or("", |bus| &bus.path);
        let path = self.qom.plug(spec.id.as_deref(), node, place);
        self.parts.ports.push(PluggedPort { id: spec.id, path, bus, nr, chardev });
    }
}

/// The model of which a client may ask for a device.
fn model_of(driver: &str) -> Result<&'static Model, HotplugError> {
    let unknown = || HotplugError::Refused(format!("'{driver}' is not a valid device model name"));
    let of = types::find(driver).filter(|of| of.is(DEVICE)).ok_or_else(unknown)?;
    if of.is_abstract {
        return refused("Parameter 'driver' expects a non-abstract device type");
    }
    match models::model(driver) {
        Some(model) => Ok(model),
        None => refused("Parameter 'driver' expects a pluggable device type"),
    }
}

/// A value, as text: JSON has types of its own.
fn text_of(property: &Property, value: PropertyValue) -> Result<String, DeviceError> {
    let value = match value {
        PropertyValue::Text(text) => return Ok(text),
        PropertyValue::Json(value) => value,
    };
    let name = property.name;
    match (property.kind, value) {
        (Kind::Uint16 | Kind::Uint32 | Kind::Uint64, Value::Number(number)) => {
            let integer = number.as_i64().map(|n| n.to_string());
            let integer = integer.or_else(|| number.as_u64().map(|n| n.to_string()));
            let in_range = |digits: &String| property.read(digits).is_some();
            match (integer, property.kind) {
                (None, _) => Err(DeviceError::Expects { name, expected: "uint64" }),
                (Some(digits), _) if in_range(&digits) => Ok(digits),
                (_, Kind::Uint16) => Err(DeviceError::Expects { name, expected: "uint16_t" }),
                (_, Kind::Uint32) => Err(DeviceError::Expects { name, expected: "uint32_t" }),
                _ => Err(DeviceError::Expects { name, expected: "uint64" }),
            }
        }
        (Kind::Uint16 | Kind::Uint32 | Kind::Uint64, _) => {
            Err(DeviceError::Expects { name, expected: "uint64" })
        }
        (Kind::Bool, Value::Bool(on)) => Ok(if on { "on" } else { "off" }.to_owned()),
        (Kind::Bool, _) => wrong_type(name, "boolean"),
        (_, Value::String(text)) => Ok(text),
        _ => wrong_type(name, "string"),
    }
}

fn wrong_type<T>(name: &str, expected: &str) -> Result<T, DeviceError> {
    let sentence = format!("Invalid parameter type for '{name}', expected: {expected}");
    Err(DeviceError::Refused(sentence))
}

impl Actor for Hotplug {
    type Context = Context<Self>;
}

impl Handler<PlugDevice> for Hotplug {
    type Result = ResponseActFuture<Self, Result<(), HotplugError>>;

    fn handle(&mut self, request: PlugDevice, _: &mut Self::Context) -> Self::Result {
        let Prepared { spec, port, bus, chardev } = match self.prepare(request) {
            Ok(prepared) => prepared,
            Err(error) => return Box::pin(actix::fut::ready(Err(error))),
        };
        let Some(place) = self.parts.buses.get(bus) else {
            return Box::pin(actix::fut::ready(refused("the bus is gone")));
        };
        // Nobody else is to have them while the bus decides.
        self.parts.ids.extend(spec.id.clone());
        let backend = chardev.as_ref().map(Chardev::front_end_of_any);
        let chardev = chardev.zip(backend.as_ref().map(|backend| backend.place.clone()));
        let announce = spec.id.clone().map(|id| (id, self.parts.ports_opened.clone()));
        let answer = place.ports.plug.send(PlugPort { port, backend, announce });
        let answer = async move { tokio::time::timeout(LIMIT, answer).await };
        Box::pin(answer.into_actor(self).map(move |answer, hotplug: &mut Self, _| {
            let refusal = match answer {
                Ok(Ok(Ok(nr))) => {
                    let chardev = chardev.map(|(chardev, place)| (chardev.id, place));
                    hotplug.plugged(spec, bus, nr, chardev);
                    return Ok(());
                }
                Ok(Ok(Err(refusal))) => HotplugError::Property(refusal),
                Ok(Err(_)) => HotplugError::Refused("the bus has failed".to_owned()),
                Err(_) => HotplugError::Refused("the bus does not answer".to_owned()),
            };
            if let Some((chardev, place)) = chardev {
                chardev.release(&place);
            }
            if let Some(id) = &spec.id {
                hotplug.parts.ids.remove(id);
            }
            Err(refusal)
        }))
    }
}

impl Handler<UnplugDevice> for Hotplug {
    type Result = Result<(), HotplugError>;

    fn handle(
        &mut self,
        UnplugDevice { id }: UnplugDevice,
        ctx: &mut Self::Context,
    ) -> Self::Result {
        let is_it = |port: &PluggedPort| port.path == id || port.id.as_ref() == Some(&id);
        let found = self.parts.ports.iter().position(is_it);
        let Some(found) = found else { return Err(HotplugError::NotFound(id)) };
        let port = self.parts.ports.remove(found);
        if let Some(bus) = self.parts.buses.get(port.bus) {
            bus.ports.unplug.do_send(UnplugPort { nr: port.nr });
        }
        // The bus hears nothing of it any more when the next front end attaches.
        if let Some((id, place)) = port.chardev
            && let Some(chardev) = self.chardevs.get(&id)
        {
            chardev.release(&place);
        }
        if let Some(id) = &port.id {
            self.parts.ids.remove(id);
        }
        self.qom.unplug(&port.path);
        let gone = VmEvent::DeviceDeleted { device: port.id, path: port.path };
        ctx.run_later(AFTERWARDS, move |hotplug, _| hotplug.announce.do_send(Announce(gone)));
        Ok(())
    }
}
