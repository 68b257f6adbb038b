//! An object as the tree shows it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::types::{self, Access, Own, Property, Type};
use crate::qmp::hash_order::HashOrder;

/// An object: its type, the values of its properties, and what is its own.
#[derive(Debug, Clone)]
pub struct Node {
    of: &'static Type,
    values: HashMap<String, Value>,
    /// In the order in which they came to be.
    slots: Vec<Slot>,
    /// The slots are in the order of their table.
    ordered: bool,
    /// Links of a bus to what is plugged into it that there have been.
    plugged: usize,
}

/// What an object has beyond its class.
#[derive(Debug, Clone)]
enum Slot {
    Property(&'static Property),
    Child { name: String, node: Arc<Node> },
    Link { name: String, type_name: &'static str, path: String, access: Access },
}

impl Slot {
    fn name(&self) -> &str {
        match self {
            Self::Property(property) => property.name,
            Self::Child { name, .. } | Self::Link { name, .. } => name,
        }
    }
}

/// A property as lists show it.
#[derive(Debug, Clone, PartialEq)]
pub struct PropertyInfo {
    pub name: String,
    pub type_name: String,
    pub description: &'static str,
    pub default: Option<Value>,
    pub access: Access,
}

impl PropertyInfo {
    pub(super) fn of(property: &Property) -> Self {
        Self {
            name: property.name.to_owned(),
            type_name: property.type_name.to_owned(),
            description: property.description,
            default: property.default.clone(),
            access: property.access,
        }
    }

    fn of_slot(slot: &Slot) -> Self {
        let (name, type_name, access) = match slot {
            Slot::Property(property) => return Self::of(property),
            Slot::Child { name, node } => (name, format!("child<{}>", node.of.name), Access::Fixed),
            Slot::Link { name, type_name, access, .. } => {
                (name, format!("link<{type_name}>"), *access)
            }
        };
        Self { name: name.clone(), type_name, description: "", default: None, access }
    }
}

impl Node {
    /// An object of this type, with the parts that every one of them has.
    pub fn new(type_name: &str) -> Self {
        let of = types::named(type_name);
        let mut node =
            Self { of, values: HashMap::new(), slots: Vec::new(), ordered: false, plugged: 0 };
        for own in of.own_properties() {
            match own {
                Own::Property(property) => node.slots.push(Slot::Property(property)),
                Own::Part { name, count: None, type_name } => {
                    node.add(*name, Self::new(type_name));
                }
                Own::Part { name, count: Some(count), type_name } => {
                    let part = Arc::new(Self::new(type_name));
                    for index in 0..*count {
                        node.add(format!("{name}[{index}]"), Arc::clone(&part));
                    }
                }
            }
        }
        if of.is(types::DEVICE) || of.is("bus") {
            node.set("realized", true);
        }
        node
    }

    /// An object of this type with these children, in the order of the table that has them.
    pub(super) fn ordered(
        type_name: &str,
        children: impl IntoIterator<Item = (String, Self)>,
    ) -> Self {
        let mut node = Self::new(type_name);
        children.into_iter().for_each(|(name, child)| node.add(name, child));
        Self { ordered: true, ..node }
    }

    /// The properties that objects of a type have, with defaults and descriptions; for an abstract
    /// type those of its class.
    pub fn announced(of: &'static Type) -> Vec<PropertyInfo> {
        match of.is_abstract {
            true => of.class_properties().into_iter().map(PropertyInfo::of).collect(),
            false => Self::new(of.name).properties(),
        }
    }

    pub fn of(&self) -> &'static Type {
        self.of
    }

    pub fn type_name(&self) -> &'static str {
        self.of.name
    }

    /// The same with another value of a property.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// The same with another child.
    #[must_use]
    pub fn holding(mut self, name: impl Into<String>, child: Self) -> Self {
        self.add(name, child);
        self
    }

    /// Change the value of a property. A type may lack it: then nobody sees the value.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// Add a child.
    pub fn add(&mut self, name: impl Into<String>, child: impl Into<Arc<Self>>) {
        self.slots.push(Slot::Child { name: name.into(), node: child.into() });
    }

    /// Add a link to the object at `path`.
    pub fn link(
        &mut self,
        name: impl Into<String>,
        type_name: &'static str,
        path: impl Into<String>,
    ) {
        let (name, path) = (name.into(), path.into());
        self.slots.push(Slot::Link { name, type_name, path, access: Access::Same });
    }

    /// A bus' link to the device at `path`, numbered.
    pub(super) fn link_child(&mut self, type_name: &'static str, path: &str) {
        let (name, path) = (format!("child[{}]", self.plugged), path.to_owned());
        self.plugged += 1;
        self.slots.push(Slot::Link { name, type_name, path, access: Access::Fixed });
    }

    /// The same after `gap` devices that are not there.
    pub fn holds_device(&mut self, type_name: &'static str, path: &str, gap: usize) {
        self.plugged += gap;
        self.link_child(type_name, path);
    }

    pub(super) fn unlink(&mut self, target: &str) {
        self.slots.retain(|slot| !matches!(slot, Slot::Link { path, .. } if path == target));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.slots.retain(|slot| !matches!(slot, Slot::Child { .. }) || slot.name() != name);
    }

    /// The children with their names, in the order in which they came to be.
    pub fn children(&self) -> impl Iterator<Item = (&str, &Arc<Self>)> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Child { name, node } => Some((name.as_str(), node)),
            _ => None,
        })
    }

    pub fn child(&self, name: &str) -> Option<&Arc<Self>> {
        self.children().find(|(known, _)| *known == name).map(|(_, node)| node)
    }

    pub fn child_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.slots.iter_mut().find_map(|slot| match slot {
            Slot::Child { name: known, node } if known == name => Some(Arc::make_mut(node)),
            _ => None,
        })
    }

    pub(super) fn only_child_mut(&mut self) -> Option<&mut Self> {
        self.slots.iter_mut().find_map(|slot| match slot {
            Slot::Child { node, .. } => Some(Arc::make_mut(node)),
            _ => None,
        })
    }

    /// The object's own links, with where they lead, in the order in which they came to be.
    pub fn links(&self) -> impl Iterator<Item = (&str, &str)> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Link { name, path, .. } => Some((name.as_str(), path.as_str())),
            _ => None,
        })
    }

    /// The object at this path below, of children's names.
    pub fn at_mut(&mut self, path: &str) -> Option<&mut Self> {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        names.try_fold(self, |node, name| node.child_mut(name))
    }

    /// Where the link of this name leads, of the object's own.
    pub(super) fn own_link(&self, name: &str) -> Option<&str> {
        self.slots.iter().find_map(|slot| match slot {
            Slot::Link { name: known, path, .. } if known == name => Some(path.as_str()),
            _ => None,
        })
    }

    /// The properties of the class, then the object's own, in QEMU's order.
    pub fn properties(&self) -> Vec<PropertyInfo> {
        let mut list: Vec<_> =
            self.of.class_properties().into_iter().map(PropertyInfo::of).collect();
        let by_name: HashMap<_, _> = self.slots.iter().map(|slot| (slot.name(), slot)).collect();
        let mut order = HashOrder::default();
        let own: Vec<&str> = match self.ordered {
            true => self.slots.iter().map(Slot::name).collect(),
            false => {
                self.slots.iter().for_each(|slot| order.insert(slot.name()));
                order.iter().collect()
            }
        };
        // QEMU's lists begin with what it came upon last.
        let slots = own.into_iter().rev().filter_map(|name| by_name.get(name));
        list.extend(slots.map(|slot| PropertyInfo::of_slot(slot)));
        list
    }

    /// The property of this name.
    pub fn property(&self, name: &str) -> Option<PropertyInfo> {
        let slot = self.slots.iter().find(|slot| slot.name() == name);
        slot.map(PropertyInfo::of_slot).or_else(|| {
            let class = self.of.class_properties();
            class.into_iter().find(|property| property.name == name).map(PropertyInfo::of)
        })
    }

    /// The value of a property that is neither a child nor a link of the object's own; `None` if it
    /// has no such property.
    pub fn value(&self, name: &str) -> Option<Value> {
        let property = self.property(name)?;
        if property.name == "type" {
            return Some(self.of.name.into());
        }
        let default = || property.default.unwrap_or_else(|| nothing(&property.type_name));
        Some(self.values.get(name).cloned().unwrap_or_else(default))
    }
}

/// The value of a property that nobody has set.
fn nothing(type_name: &str) -> Value {
    match type_name {
        "bool" => false.into(),
        "int" | "size" => 0.into(),
        _ if type_name.starts_with("uint") || type_name.starts_with("int") => 0.into(),
        _ if type_name.ends_with("List") || type_name == "list" => Value::Array(Vec::new()),
        _ if type_name.ends_with("Configuration") => Value::Object(serde_json::Map::new()),
        _ => "".into(),
    }
}
