//! The object model: types, the tree of objects, and their properties.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;
use crate::qom::types::{self, Type};
use crate::qom::{Effect, Location, Node, PropertyInfo, QomError, Tree};

/// Everything that there is at the moment.
pub fn tree(services: &Services) -> Tree {
    let info = &services.info;
    // A list begins with what is last in its table.
    let chardevs = info.chardevs.list().into_iter().rev();
    info.qom.tree(info.objects.nodes(), chardevs.map(|chardev| chardev.node()))
}

/// Change a property, and whatever has to change with it.
pub fn set(
    services: &Services,
    tree: &Tree,
    at: &Location,
    property: &str,
    value: Value,
) -> Result<(), QmpError> {
    match tree.set(at, property, value)? {
        Effect::Nothing => Ok(()),
        Effect::Keep { path, value } => {
            services.info.qom.keep(&path, property, value);
            Ok(())
        }
        Effect::Tell { id, value } => {
            let has = tree.get(at, property)?;
            services.info.objects.set(&id, property, &value, &has).map_err(QmpError::from)
        }
    }
}

/// QAPI `ObjectTypeInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct ObjectTypeInfo {
    pub name: &'static str,
    #[serde(rename = "abstract", skip_serializing_if = "std::ops::Not::not")]
    pub is_abstract: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<&'static str>,
}

/// QAPI `ObjectPropertyInfo`.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ObjectPropertyInfo {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_value: Option<Value>,
}

impl ObjectPropertyInfo {
    /// As a type announces it.
    fn announced(property: PropertyInfo) -> Self {
        let PropertyInfo { name, type_name, description, default: default_value, .. } = property;
        let description = Some(description).filter(|text| !text.is_empty());
        Self { name, type_name, description, default_value }
    }

    /// As an object has it.
    fn owned(property: PropertyInfo) -> Self {
        let PropertyInfo { name, type_name, .. } = property;
        Self { name, type_name, description: None, default_value: None }
    }
}

/// `qom-list-types`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QomListTypes {
    implements: Option<String>,
    r#abstract: Option<bool>,
}

impl Command for QomListTypes {
    const NAME: &'static str = "qom-list-types";
    type Return = Vec<ObjectTypeInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<ObjectTypeInfo>, QmpError> {
        let with_abstract = self.r#abstract.unwrap_or(false);
        let wanted = |of: &&Type| {
            self.implements.as_ref().is_none_or(|name| of.is(name))
                && (with_abstract || !of.is_abstract)
        };
        let info = |of: &Type| ObjectTypeInfo {
            name: of.name,
            is_abstract: of.is_abstract,
            parent: of.parent,
        };
        Ok(types::all().iter().filter(wanted).map(info).collect())
    }
}

/// `qom-list-properties`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QomListProperties {
    typename: String,
}

impl Command for QomListProperties {
    const NAME: &'static str = "qom-list-properties";
    type Return = Vec<ObjectPropertyInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<ObjectPropertyInfo>, QmpError> {
        let Some(of) = types::find(&self.typename) else {
            return Err(QomError::NoClass(self.typename).into());
        };
        if of.is_interface() {
            return Err(QomError::TypeName { parameter: "typename", expected: "a QOM type" }.into());
        }
        Ok(Node::announced(of).into_iter().map(ObjectPropertyInfo::announced).collect())
    }
}

/// `device-list-properties`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct DeviceListProperties {
    pub typename: String,
}

impl Command for DeviceListProperties {
    const NAME: &'static str = "device-list-properties";
    type Return = Vec<ObjectPropertyInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<ObjectPropertyInfo>, QmpError> {
        let properties = crate::qom::device_properties(&self.typename)?;
        Ok(properties.into_iter().map(ObjectPropertyInfo::announced).collect())
    }
}

/// `qom-list`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QomList {
    pub path: String,
}

impl Command for QomList {
    const NAME: &'static str = "qom-list";
    type Return = Vec<ObjectPropertyInfo>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<ObjectPropertyInfo>, QmpError> {
        let at = tree(services).resolve(&self.path)?;
        Ok(at.node.properties().into_iter().map(ObjectPropertyInfo::owned).collect())
    }
}

/// `qom-get`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QomGet {
    pub path: String,
    pub property: String,
}

impl Command for QomGet {
    const NAME: &'static str = "qom-get";
    type Return = Value;

    async fn run(self, services: &Arc<Services>) -> Result<Value, QmpError> {
        let tree = tree(services);
        Ok(tree.get(&tree.find(&self.path)?, &self.property)?)
    }
}

/// `qom-set`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QomSet {
    pub path: String,
    pub property: String,
    pub value: Value,
}

impl Command for QomSet {
    const NAME: &'static str = "qom-set";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let tree = tree(services);
        let at = tree.find(&self.path)?;
        set(services, &tree, &at, &self.property, self.value)?;
        Ok(Empty {})
    }
}
