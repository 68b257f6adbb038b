//! The object model, QOM: everything that a client can see of objects and of their types.
//!
//! `types` says which types there are. A [`Node`] is an object as the tree shows it: its type, the
//! values of its properties, its children. `machine::composition` makes the machine's node from what
//! is wired, `objects` and `chardev` tell what they have at the moment, and [`Tree`] is all of it at
//! one moment, with QEMU's rules of looking up, reading and setting.
#![forbid(unsafe_code)]

mod devices;
mod error;
mod node;
mod tree;
pub mod types;
mod value;

use std::sync::Arc;

use parking_lot::Mutex;

pub use devices::{device_help, device_properties, list, machine_help, model, object_help};
pub use error::QomError;
pub use node::{Node, PropertyInfo};
pub use tree::{Effect, Location, Tree};
pub use value::{check as check_value, parse as parse_value};

/// The memory of a machine: the backend's identifier, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedRam {
    pub backend: String,
    /// Guest-physical address.
    pub base: u64,
}

/// The machine's part of the tree; clones are the same one. Its lock is held for one look or change.
#[derive(Debug, Clone)]
pub struct Qom {
    machine: Arc<Mutex<Machine>>,
    ram: Option<MappedRam>,
}

#[derive(Debug)]
struct Machine {
    node: Arc<Node>,
    /// Devices without an identifier that there have been.
    anonymous: usize,
}

impl Default for Qom {
    /// A machine without anything.
    fn default() -> Self {
        Self::new(Node::new("none-machine"), None)
    }
}

impl Qom {
    /// The tree of this machine.
    pub fn new(machine: Node, ram: Option<MappedRam>) -> Self {
        let anonymous =
            machine.child("peripheral-anon").map_or(0, |devices| devices.children().count());
        let machine = Machine { node: Arc::new(machine), anonymous };
        Self { machine: Arc::new(Mutex::new(machine)), ram }
    }

    /// Everything that there is now: the machine, with what others have at the moment. The objects
    /// and character devices are in the order of the tables that have them.
    pub fn tree(
        &self,
        objects: impl IntoIterator<Item = (String, Node)>,
        chardevs: impl IntoIterator<Item = (String, Node)>,
    ) -> Tree {
        let machine = Arc::clone(&self.machine.lock().node);
        let mut objects = Node::ordered("container", objects);
        if let Some(MappedRam { backend, base }) = &self.ram
            && let Some(region) =
                objects.child_mut(backend).and_then(|backend| backend.only_child_mut())
        {
            region.set("container", "/machine/unattached/system[0]");
            region.set("addr", *base);
        }
        let mut root = Node::new("container");
        root.add("chardevs", Node::ordered("container", chardevs));
        root.add("objects", objects);
        root.add("backend", Node::new("container"));
        root.add("machine", machine);
        Tree::new(root)
    }

    /// A device has been plugged into the bus at `bus`, a path. Its own path.
    pub fn plug(&self, id: Option<&str>, mut device: Node, bus: &str) -> String {
        let mut machine = self.machine.lock();
        let (place, name) = match id {
            Some(id) => ("peripheral", id.to_owned()),
            None => {
                machine.anonymous += 1;
                ("peripheral-anon", format!("device[{}]", machine.anonymous - 1))
            }
        };
        let path = format!("/machine/{place}/{name}");
        device.set("parent_bus", bus);
        let type_name = device.type_name();
        let node = Arc::make_mut(&mut machine.node);
        if let Some(bus) = bus.strip_prefix("/machine").and_then(|bus| node.at_mut(bus)) {
            bus.link_child(type_name, &path);
        }
        if let Some(place) = node.child_mut(place) {
            place.add(name, device);
        }
        path
    }

    /// The device at `path`, as `plug` gave it, is gone.
    pub fn unplug(&self, path: &str) {
        let mut machine = self.machine.lock();
        let node = Arc::make_mut(&mut machine.node);
        let bus = path.strip_prefix("/machine").and_then(|path| node.at_mut(path));
        let bus = bus.and_then(|device| Some(device.value("parent_bus")?.as_str()?.to_owned()));
        if let Some(bus) = bus.as_deref().and_then(|bus| node.at_mut(bus.strip_prefix("/machine")?))
        {
            bus.unlink(path);
        }
        if let Some((place, name)) =
            path.strip_prefix("/machine").and_then(|path| path.rsplit_once('/'))
            && let Some(place) = node.at_mut(place)
        {
            place.remove(name);
        }
    }

    /// Keep the value of a property of the machine's: `path` is canonical, and the value has been
    /// checked.
    pub fn keep(&self, path: &str, property: &str, value: serde_json::Value) {
        let mut machine = self.machine.lock();
        let node = Arc::make_mut(&mut machine.node);
        if let Some(object) = path.strip_prefix("/machine").and_then(|path| node.at_mut(path)) {
            object.set(property, value);
        }
    }
}

#[cfg(test)]
mod tests;
