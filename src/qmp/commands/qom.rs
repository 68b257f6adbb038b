//! `qom-list-types`: which types of object this program has, under the names and parents that QEMU
//! gives them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::machine::models;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// A type that others are derived from, and its parent.
const ABSTRACT: &[(&str, Option<&str>)] = &[
    ("object", None),
    ("accel", Some("object")),
    ("authz", Some("object")),
    ("device", Some("object")),
    ("event-loop-base", Some("object")),
    ("cpu", Some("device")),
    ("riscv-cpu", Some("cpu")),
    ("riscv-dynamic-cpu", Some("riscv-cpu")),
    ("machine", Some("object")),
    ("memory-backend", Some("object")),
    ("rng-backend", Some("object")),
    ("secret_common", Some("object")),
    ("sys-bus-device", Some("device")),
    ("fw_cfg", Some("sys-bus-device")),
    ("tls-creds", Some("object")),
    ("virtio-device", Some("device")),
    ("virtio-serial-port", Some("device")),
];

/// Types that there are objects of, but for the models of `-device`.
const CONCRETE: &[(&str, &str)] = &[
    ("authz-list", "authz"),
    ("authz-simple", "authz"),
    ("cfi.pflash01", "sys-bus-device"),
    ("fw_cfg_mem", "fw_cfg"),
    ("goldfish_rtc", "sys-bus-device"),
    ("interp-accel", "accel"),
    ("max-riscv-cpu", "riscv-dynamic-cpu"),
    ("iothread", "event-loop-base"),
    ("memory-backend-file", "memory-backend"),
    ("memory-backend-memfd", "memory-backend"),
    ("memory-backend-ram", "memory-backend"),
    ("none-machine", "machine"),
    ("qtest-accel", "accel"),
    ("riscv.aclint.mtimer", "sys-bus-device"),
    ("riscv.aclint.swi", "sys-bus-device"),
    ("riscv.sifive.plic", "sys-bus-device"),
    ("riscv.sifive.test", "sys-bus-device"),
    ("rng-builtin", "rng-backend"),
    ("rng-random", "rng-backend"),
    ("rv64-riscv-cpu", "riscv-dynamic-cpu"),
    ("secret", "secret_common"),
    ("serial-mm", "sys-bus-device"),
    ("tcg-accel", "accel"),
    ("tls-creds-x509", "tls-creds"),
    ("virt-machine", "machine"),
    ("virtio-mmio", "sys-bus-device"),
];

/// The parent of a model of `-device`.
fn parent_of_model(name: &str) -> &'static str {
    match name {
        "virtconsole" => "virtserialport",
        "virtserialport" => "virtio-serial-port",
        _ if name.starts_with("virtio-") => "virtio-device",
        _ => "device",
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

/// Every type.
fn types() -> Vec<ObjectTypeInfo> {
    let concrete = |name, parent| ObjectTypeInfo { name, is_abstract: false, parent: Some(parent) };
    let roots = ABSTRACT.iter().map(|(name, parent)| ObjectTypeInfo {
        name,
        is_abstract: true,
        parent: *parent,
    });
    let named = CONCRETE.iter().map(|(name, parent)| concrete(name, parent));
    let models = models::models().map(|model| concrete(model.name, parent_of_model(model.name)));
    roots.chain(named).chain(models).collect()
}

/// The types that are, or are derived from, `ancestor`.
fn derived(types: &[ObjectTypeInfo], ancestor: &str) -> Vec<ObjectTypeInfo> {
    let parent = |child: &ObjectTypeInfo| types.iter().find(|t| Some(t.name) == child.parent);
    let is_derived = |t: &&ObjectTypeInfo| {
        std::iter::successors(Some(*t), |child| parent(child)).any(|t| t.name == ancestor)
    };
    types.iter().filter(is_derived).cloned().collect()
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
        let mut found = types();
        if let Some(ancestor) = &self.implements {
            found = derived(&found, ancestor);
        }
        if !self.r#abstract.unwrap_or(false) {
            found.retain(|t| !t.is_abstract);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_from_object() {
        let all = types();
        assert_eq!(derived(&all, "object"), all);
        let mut names: Vec<_> = all.iter().map(|t| t.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len(), "a name is there twice");
    }

    #[test]
    fn derived_types() {
        let all = types();
        let names = |of: &str| derived(&all, of).iter().map(|t| t.name).collect::<Vec<_>>();
        assert_eq!(names("accel"), ["accel", "interp-accel", "qtest-accel", "tcg-accel"]);
        assert_eq!(names("virtio-serial-port").len(), 3);
        assert_eq!(names("nosuch"), [""; 0]);
        assert!(names("device").contains(&"rv64-riscv-cpu"));
    }
}
