//! Everything that there is at one moment: objects by path, and what may be read and set of them.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::Value;

use super::error::QomError;
use super::node::{Node, PropertyInfo};
use super::types::{self, Access};
use super::value;

/// Objects, children in parents.
#[derive(Debug)]
pub struct Tree {
    root: Arc<Node>,
}

/// An object that has been looked up.
#[derive(Debug, Clone)]
pub struct Location {
    /// Where it is, by children's names.
    pub path: String,
    pub node: Arc<Node>,
}

/// Who has to know of a value that is set.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// It is what it was.
    Nothing,
    /// `Qom::keep`
    Keep { path: String, value: Value },
    /// `Objects::set`
    Tell { id: String, value: Value },
}

impl Tree {
    pub fn new(root: Node) -> Self {
        Self { root: Arc::new(root) }
    }

    fn root(&self) -> Location {
        Location { path: "/".into(), node: Arc::clone(&self.root) }
    }

    /// The object that a component of a path leads to: a child, or where a link points.
    fn step(&self, from: &Location, name: &str) -> Option<Location> {
        if let Some(node) = from.node.child(name) {
            let parent = from.path.trim_end_matches('/');
            return Some(Location { path: format!("{parent}/{name}"), node: Arc::clone(node) });
        }
        self.target(&self.link(&from.node, name)?)
    }

    /// Where a link points: `None` if the property is none.
    fn link(&self, node: &Node, name: &str) -> Option<String> {
        if let Some(path) = node.own_link(name) {
            return Some(path.to_owned());
        }
        let property = node.property(name)?;
        property.type_name.starts_with("link<").then_some(())?;
        Some(node.value(name)?.as_str()?.to_owned())
    }

    /// The object at a canonical path.
    fn target(&self, path: &str) -> Option<Location> {
        let mut names = path.strip_prefix('/')?.split('/').filter(|name| !name.is_empty());
        let mut at = Arc::clone(&self.root);
        names.try_for_each(|name| {
            at = Arc::clone(at.child(name)?);
            Some(())
        })?;
        Some(Location { path: path.to_owned(), node: at })
    }

    /// Follow components from an object.
    fn follow(&self, from: &Location, path: &str) -> Option<Location> {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        names.try_fold(from.clone(), |at, name| self.step(&at, name))
    }

    /// The object at a path: from the root, or the only one whose path ends so.
    pub fn resolve(&self, path: &str) -> Result<Location, QomError> {
        if let Some(absolute) = path.strip_prefix('/') {
            let found = self.follow(&self.root(), absolute);
            return found.ok_or_else(|| QomError::NoDevice(path.to_owned()));
        }
        let mut found = None;
        match self.partial(&self.root(), path, &mut found) {
            Err(()) => Err(QomError::Ambiguous(path.to_owned())),
            Ok(()) => found.ok_or_else(|| QomError::NoDevice(path.to_owned())),
        }
    }

    /// Look below an object; an error is a second find.
    fn partial(&self, from: &Location, path: &str, found: &mut Option<Location>) -> Result<(), ()> {
        if let Some(location) = self.follow(from, path)
            && found.replace(location).is_some()
        {
            return Err(());
        }
        for (name, _) in from.node.children() {
            if let Some(child) = self.step(from, name) {
                self.partial(&child, path, found)?;
            }
        }
        Ok(())
    }

    /// The same for what only knows of found and not found.
    pub fn find(&self, path: &str) -> Result<Location, QomError> {
        self.resolve(path).map_err(|_| QomError::NoDevice(path.to_owned()))
    }

    /// The value of a property.
    pub fn get(&self, at: &Location, name: &str) -> Result<Value, QomError> {
        let owner = || at.node.type_name().to_owned();
        let property = property(at, name)?;
        if property.access == Access::Hidden {
            return Err(QomError::NotReadable { owner: owner(), name: name.to_owned() });
        }
        if property.type_name.starts_with("child<") {
            let child = self.step(at, name).map(|child| child.path);
            return Ok(child.unwrap_or_default().into());
        }
        if let Some(path) = at.node.own_link(name) {
            return Ok(path.into());
        }
        Ok(at.node.value(name).unwrap_or_default())
    }

    /// Check a value for a property, and say who has to know of it.
    pub fn set(&self, at: &Location, name: &str, value: Value) -> Result<Effect, QomError> {
        let owner = || at.node.type_name().to_owned();
        let property = property(at, name)?;
        let is_link = property.type_name.starts_with("link<");
        match property.access {
            Access::Fixed | Access::Hidden => {
                return Err(QomError::NotWritable { owner: owner(), name: name.to_owned() });
            }
            Access::Device if !is_link => return Err(realized(at, name, false)),
            _ => {}
        }
        value::check(&property, &value)?;
        if is_link && let Some(path) = value.as_str().filter(|path| !path.is_empty()) {
            let target = self.resolve(path)?;
            let wanted = property.type_name.trim_start_matches("link<").trim_end_matches('>');
            if !target.node.of().is(wanted) {
                let expected = types::find(wanted).map_or("object", |of| of.name);
                return Err(QomError::WrongType { name: name.to_owned(), expected });
            }
            if property.access == Access::Same && self.link(&at.node, name) == Some(target.path) {
                return Ok(Effect::Nothing);
            }
        }
        let has = self.get(at, name)?;
        match property.access {
            Access::Device => Err(realized(at, name, true)),
            Access::Told => {
                let id = at.path.rsplit('/').next().unwrap_or_default().to_owned();
                Ok(Effect::Tell { id, value })
            }
            _ if value::is_part(&value, &has) => Ok(Effect::Nothing),
            Access::Kept => Ok(Effect::Keep { path: at.path.clone(), value }),
            Access::Same if at.node.of().is("cpu") => Err(realized(at, name, false)),
            _ => Err(QomError::Settled { owner: owner(), name: name.to_owned() }),
        }
    }

    /// `info qom-tree`: an object and all below it.
    pub fn composition(&self, at: &Location) -> String {
        let mut text = String::new();
        let name = at.path.rsplit('/').next().unwrap_or_default();
        compose(&mut text, 0, name, &at.node);
        text
    }
}

fn property(at: &Location, name: &str) -> Result<PropertyInfo, QomError> {
    let owner = || at.node.type_name().to_owned();
    let missing = || QomError::NoProperty { owner: owner(), name: name.to_owned() };
    at.node.property(name).ok_or_else(missing)
}

/// What QEMU says of a device that is in use.
fn realized(at: &Location, name: &str, link: bool) -> QomError {
    let id = at.path.strip_prefix("/machine/peripheral/").filter(|id| !id.contains('/'));
    let device = match (id, link) {
        (Some(id), _) => format!("device '{id}'"),
        (None, true) => "device '(null)'".to_owned(),
        (None, false) => "anonymous device".to_owned(),
    };
    let owner = at.node.type_name().to_owned();
    let what = if link { "link property" } else { "property" };
    QomError::Realized { what, name: name.to_owned(), device, owner }
}

fn compose(text: &mut String, depth: usize, name: &str, node: &Node) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:depth$}/{name} ({})", "", node.type_name());
    let mut children: Vec<_> = node.children().collect();
    children.sort_unstable_by_key(|(name, _)| *name);
    for (name, child) in children {
        compose(text, depth + 2, name, child);
    }
}
