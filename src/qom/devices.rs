//! The types of device as help lists them.

use std::fmt::Write as _;

use super::error::QomError;
use super::node::{Node, PropertyInfo};
use super::types::{self, Access, DEVICE, Type};
use crate::devices::virtio::properties::Model;
use crate::machine::models;

/// The last heading.
const UNCATEGORIZED: &str = "Uncategorized devices";
/// Headings, in QEMU's order.
const CATEGORIES: [&str; 5] =
    ["Storage devices", "Input devices", "Misc devices", "CPU devices", UNCATEGORIZED];
/// What every device has, and help leaves out.
const OF_EVERY_DEVICE: [&str; 5] = ["type", "realized", "hotpluggable", "hotplugged", "parent_bus"];

/// A type that there are devices of.
fn device_type(name: &str) -> Result<&'static Type, QomError> {
    let of = types::find(name).ok_or_else(|| QomError::NoDevice(name.to_owned()))?;
    if of.is_abstract || !of.is(DEVICE) {
        let expected = "a non-abstract device type";
        return Err(QomError::TypeName { parameter: "typename", expected });
    }
    Ok(of)
}

/// A model for `-device` and `device_add`.
pub fn model(name: &str) -> Result<&'static Model, QomError> {
    let expects = |expected| Err(QomError::TypeName { parameter: "driver", expected });
    match (models::model(name), types::find(name)) {
        (Some(model), _) => Ok(model),
        (None, Some(of)) if of.is(DEVICE) && of.is_abstract => {
            expects("a non-abstract device type")
        }
        (None, Some(of)) if of.is(DEVICE) => expects("a pluggable device type"),
        (None, _) => Err(QomError::NoModel(name.to_owned())),
    }
}

/// `device-list-properties`: the properties that the devices of a type have beyond those of every
/// device.
pub fn device_properties(name: &str) -> Result<Vec<PropertyInfo>, QomError> {
    let mut properties = Node::announced(device_type(name)?);
    properties.retain(|property| {
        !OF_EVERY_DEVICE.contains(&property.name.as_str()) && !property.name.starts_with("legacy-")
    });
    Ok(properties)
}

/// `-device TYPE,help`
pub fn device_help(name: &str) -> Result<String, QomError> {
    let properties = device_properties(name)?;
    Ok(match properties.is_empty() {
        true => format!("There are no options for {name}.\n"),
        false => options_help(name, properties),
    })
}

/// `-object TYPE,help`
pub fn object_help(of: &'static Type) -> String {
    let settable = |property: &PropertyInfo| {
        property.access != Access::Fixed && !property.type_name.starts_with("child<")
    };
    let properties: Vec<_> = Node::announced(of).into_iter().filter(settable).collect();
    match properties.is_empty() {
        true => format!("There are no options for {}.\n", of.name),
        false => options_help(of.name, properties),
    }
}

/// `-machine TYPE,help`
pub fn machine_help(board: &str) -> Option<String> {
    let of = types::find(&format!("{board}-machine"))?;
    let properties = of.class_properties().into_iter().filter(|p| p.access != Access::Fixed);
    Some(options_help(of.name, properties.map(PropertyInfo::of)))
}

/// The properties of something, sorted, under a heading.
fn options_help(name: &str, properties: impl IntoIterator<Item = PropertyInfo>) -> String {
    let mut lines: Vec<String> = properties.into_iter().map(line).collect();
    lines.sort_unstable();
    format!("{name} options:\n{}", lines.concat())
}

fn line(property: PropertyInfo) -> String {
    let PropertyInfo { name, type_name, description, default, .. } = property;
    let assignment = format!("{name}=<{type_name}>");
    let default = match default {
        None => String::new(),
        Some(serde_json::Value::Bool(on)) => {
            format!(" (default: {})", if on { "on" } else { "off" })
        }
        Some(serde_json::Value::String(word)) => format!(" (default: {word})"),
        Some(other) => format!(" (default: {other})"),
    };
    match description.is_empty() && default.is_empty() {
        true => format!("  {assignment}\n"),
        false => format!("  {assignment:<22} - {description}{default}\n"),
    }
}

/// Whether a client may ask for one.
fn is_pluggable(of: &Type) -> bool {
    models::model(of.name).is_some()
}

fn category(of: &Type) -> &'static str {
    match models::model(of.name) {
        Some(model) => model.category,
        None if of.is("cpu") => "CPU devices",
        None if of.name == "cfi.pflash01" => "Storage devices",
        None if of.name == "virtio-mmio" => "Misc devices",
        None => UNCATEGORIZED,
    }
}

/// The kind of bus that a device sits on.
fn bus(of: &Type) -> &'static str {
    match models::model(of.name) {
        Some(model) => model.bus,
        None if of.is("sys-bus-device") => "System",
        None => "",
    }
}

/// `-device help`, and `info qdm` with those that the board alone has.
pub fn list(all: bool) -> String {
    let is_shown = |of: &&Type| of.is(DEVICE) && !of.is_abstract && (all || is_pluggable(of));
    let mut devices: Vec<&Type> = types::all().iter().filter(is_shown).collect();
    devices.sort_unstable_by_key(|of| of.name);
    let mut text = String::new();
    for heading in CATEGORIES {
        let mut members = devices.iter().filter(|of| category(of) == heading).peekable();
        if members.peek().is_some() {
            // QEMU starts with a category that we have nothing of. Writing to a string cannot fail.
            let _ = writeln!(text, "\n{heading}:");
        }
        for of in members {
            let bus = match bus(of) {
                "" => String::new(),
                bus => format!(", bus {bus}"),
            };
            let description = match of.name {
                "loader" => ", desc \"Generic Loader\"",
                _ => "",
            };
            let no_user = if is_pluggable(of) { "" } else { ", no-user" };
            let _ = writeln!(text, "name \"{}\"{bus}{description}{no_user}", of.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_the_properties_of_their_types() {
        for model in models::models() {
            let mut of_type: Vec<_> =
                device_properties(model.name).unwrap().into_iter().map(|p| p.name).collect();
            of_type.sort_unstable();
            let mut own: Vec<_> = model.properties.iter().map(|p| p.name).collect();
            own.sort_unstable();
            assert_eq!(of_type, own, "{}", model.name);
        }
    }

    #[test]
    fn help_is_qemus() {
        let expected = "virtconsole options:\n  \
                        chardev=<str>          - ID of a chardev to use as a backend\n  \
                        name=<str>\n  \
                        nr=<uint32>            -  (default: 4294967295)\n";
        assert_eq!(device_help("virtconsole").unwrap(), expected);
        let help = device_help("virtio-blk-device").unwrap();
        assert!(help.contains("\n  discard_granularity=<size> -  (default: 4294967295)\n"));
        assert!(help.contains("\n  write-cache=<OnOffAuto> - on/off/auto (default: auto)\n"));
        let help = device_help("virtio-rng-device").unwrap();
        assert!(help.contains("\n  rng=<link<rng-backend>>\n"));
        for (name, sentence) in [
            ("nope", "'nope' is not a valid device model name"),
            ("secret", "'secret' is not a valid device model name"),
            ("virtio-device", "Parameter 'driver' expects a non-abstract device type"),
            ("serial-mm", "Parameter 'driver' expects a pluggable device type"),
        ] {
            assert_eq!(model(name).unwrap_err().to_string(), sentence);
        }
        let error = |name| device_help(name).unwrap_err().to_string();
        assert_eq!(error("nope"), "Device 'nope' not found");
        for name in ["device", "irq", "resettable"] {
            assert_eq!(error(name), "Parameter 'typename' expects a non-abstract device type");
        }
        let help = |name: &str| object_help(types::find(name).unwrap());
        assert_eq!(help("rng-builtin"), "There are no options for rng-builtin.\n");
        let expected = "authz-simple options:\n  identity=<string>\n";
        assert_eq!(help("authz-simple"), expected);
        let help = machine_help("virt").unwrap();
        assert!(help.starts_with("virt-machine options:\n  aclint=<bool>          - (TCG only)"));
        assert!(help.contains("\n  acpi=<OnOffAuto>       - Enable ACPI\n"));
        assert_eq!(machine_help("sifive_u"), None);
        let pluggable = "\nStorage devices:\nname \"virtio-blk-device\", bus virtio-bus\n\nInput";
        assert!(list(false).starts_with(pluggable), "{}", list(false));
        let all = list(true);
        for line in [
            "name \"cfi.pflash01\", bus System, no-user\n",
            "name \"rv64-riscv-cpu\", no-user\n",
            "name \"loader\", desc \"Generic Loader\"\n",
        ] {
            assert!(all.contains(line), "{line}");
        }
    }
}
