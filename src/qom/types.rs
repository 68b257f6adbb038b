//! The types that there are: names, parents, interfaces and properties are QEMU's, and only those
//! of what this program has.

mod base;
mod boards;
mod cpus;
mod declared;
mod devices;
mod user;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

pub(crate) use cpus::SWITCHES;
pub(crate) use declared::declared;

/// The root of every type that there are objects of.
pub const OBJECT: &str = "object";
/// The root of the devices.
pub const DEVICE: &str = "device";
/// The root of the interfaces.
pub const INTERFACE: &str = "interface";

/// Who may read and change a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is read only.
    Fixed,
    /// It is neither read nor set, but listed.
    Hidden,
    /// A device's: set until the device is realized, which every device of the tree is.
    Device,
    /// Set at any time. Nothing but its own reader looks at it once the machine is there.
    Kept,
    /// Set at any time, but only to the value that it has.
    Same,
    /// The object itself is told (`Objects::set`).
    Told,
}

/// A property as its type has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    pub name: &'static str,
    /// QAPI's name of the values' type, or `link<TYPE>`.
    pub type_name: &'static str,
    /// Empty for none.
    pub description: &'static str,
    /// The value that is announced as the default.
    pub default: Option<Value>,
    pub access: Access,
}

impl Property {
    const fn new(name: &'static str, type_name: &'static str, access: Access) -> Self {
        Self { name, type_name, description: "", default: None, access }
    }

    /// Read only.
    pub(super) const fn fixed(name: &'static str, type_name: &'static str) -> Self {
        Self::new(name, type_name, Access::Fixed)
    }

    /// Set at any time to what it is.
    pub(super) const fn same(name: &'static str, type_name: &'static str) -> Self {
        Self::new(name, type_name, Access::Same)
    }

    /// Listed, and that is all.
    pub(super) const fn hidden(name: &'static str, type_name: &'static str) -> Self {
        Self::new(name, type_name, Access::Hidden)
    }

    /// Set at any time, without consequences.
    pub(super) const fn kept(name: &'static str, type_name: &'static str) -> Self {
        Self::new(name, type_name, Access::Kept)
    }

    /// An object's own to set.
    pub(super) const fn told(name: &'static str, type_name: &'static str) -> Self {
        Self::new(name, type_name, Access::Told)
    }

    /// A device's, without a default.
    pub(super) const fn device(name: &'static str, type_name: &'static str) -> Self {
        Self::new(name, type_name, Access::Device)
    }

    /// A device's number.
    pub(super) fn number(name: &'static str, type_name: &'static str, default: u64) -> Self {
        Self { default: Some(default.into()), ..Self::device(name, type_name) }
    }

    /// A device's switch.
    pub(super) fn switch(name: &'static str, default: bool) -> Self {
        let property = Self { default: Some(default.into()), ..Self::device(name, "bool") };
        property.described("on/off")
    }

    pub(super) const fn described(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }
}

/// What every object of a type has of its own, in the order in which it comes to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Own {
    Property(Property),
    /// Another object, `NAME[0]` to `NAME[count-1]` of them if there is a count.
    Part {
        name: &'static str,
        count: Option<u32>,
        type_name: &'static str,
    },
}

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub struct Type {
    pub name: &'static str,
    pub parent: Option<&'static str>,
    pub is_abstract: bool,
    /// Those that it adds to its parent's.
    pub interfaces: &'static [&'static str],
    /// What it adds to its parent's properties, in the order in which QEMU lists them.
    pub class: Vec<Property>,
    /// What its objects have besides.
    pub own: Vec<Own>,
}

impl Type {
    pub(super) fn concrete(name: &'static str, parent: &'static str) -> Self {
        Self {
            name,
            parent: Some(parent),
            is_abstract: false,
            interfaces: &[],
            class: Vec::new(),
            own: Vec::new(),
        }
    }

    pub(super) fn abstracted(name: &'static str, parent: &'static str) -> Self {
        Self { is_abstract: true, ..Self::concrete(name, parent) }
    }

    pub(super) fn implementing(mut self, interfaces: &'static [&'static str]) -> Self {
        self.interfaces = interfaces;
        self
    }

    pub(super) fn class(mut self, properties: impl Into<Vec<Property>>) -> Self {
        self.class = properties.into();
        self
    }

    pub(super) fn own(mut self, own: Vec<Own>) -> Self {
        self.own = own;
        self
    }

    /// The type and its ancestors, itself first.
    pub fn lineage(&self) -> impl Iterator<Item = &'static Type> + use<'_> {
        std::iter::successors(find(self.name), |of| of.parent.and_then(find))
    }

    /// Whether objects of it count as `name`, a type or an interface.
    pub fn is(&self, name: &str) -> bool {
        self.lineage().any(|of| of.name == name || of.interfaces.contains(&name))
            || (name == INTERFACE && self.lineage().any(|of| !of.interfaces.is_empty()))
    }

    /// Whether it is an interface, which nothing is an object of.
    pub fn is_interface(&self) -> bool {
        self.lineage().any(|of| of.name == INTERFACE)
    }

    /// The properties that its class has, its ancestors' first.
    pub fn class_properties(&self) -> Vec<&'static Property> {
        let mut layers: Vec<_> = self.lineage().map(|of| &of.class).collect();
        layers.reverse();
        layers.into_iter().flatten().collect()
    }

    /// What its objects have besides, its ancestors' first.
    pub fn own_properties(&self) -> Vec<&'static Own> {
        let mut layers: Vec<_> = self.lineage().map(|of| &of.own).collect();
        layers.reverse();
        layers.into_iter().flatten().collect()
    }
}

struct Types {
    list: Vec<Type>,
    by_name: HashMap<&'static str, usize>,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let mut list = base::types();
    list.extend(boards::types());
    list.extend(cpus::types());
    list.extend(devices::types());
    list.extend(user::types());
    let by_name = list.iter().enumerate().map(|(index, of)| (of.name, index)).collect();
    Types { list, by_name }
});

/// Every type.
pub fn all() -> &'static [Type] {
    &TYPES.list
}

/// The type of this name.
pub fn find(name: &str) -> Option<&'static Type> {
    TYPES.by_name.get(name).and_then(|index| TYPES.list.get(*index))
}

/// What comes with the type's name, or `container` for a name that no type has.
pub(super) fn named(name: &str) -> &'static Type {
    let found = find(name).or_else(|| find("container"));
    found.unwrap_or_else(|| &TYPES.list[0])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_type_comes_from_object_or_interface() {
        let mut names = HashSet::new();
        for of in all() {
            assert!(names.insert(of.name), "{} is there twice", of.name);
            let root = of.lineage().last().unwrap().name;
            assert!(root == OBJECT || root == INTERFACE, "{} comes from {root}", of.name);
            let mut properties = HashSet::new();
            for property in of.class_properties() {
                assert!(properties.insert(property.name), "{}.{} twice", of.name, property.name);
            }
            for interface in of.interfaces {
                assert!(find(interface).is_some_and(Type::is_interface), "{interface}");
            }
            for own in &of.own {
                match own {
                    Own::Property(property) => {
                        assert!(properties.insert(property.name), "{}", property.name);
                    }
                    Own::Part { type_name, .. } => assert!(find(type_name).is_some()),
                }
            }
        }
    }

    #[test]
    fn kinship_is_by_parents_and_interfaces() {
        for (name, ancestor, is) in [
            ("virtconsole", "virtserialport", true),
            ("virtconsole", "device", true),
            ("virtconsole", "resettable", true),
            ("virtconsole", "interface", true),
            ("virtconsole", "virtio-device", false),
            ("secret", "user-creatable", true),
            ("irq", "interface", false),
            ("resettable", "interface", true),
            ("resettable", "object", false),
            ("virt-machine", "hotplug-handler", true),
            ("none-machine", "hotplug-handler", false),
            ("irq", "nosuch", false),
        ] {
            assert_eq!(find(name).unwrap().is(ancestor), is, "{name} {ancestor}");
        }
    }
}
