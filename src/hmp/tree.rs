//! The machine's structure: `info qtree`, `info roms`, `dumpdtb`.

use std::fmt::Write;
use std::sync::Arc;

use serde_json::Value;

use super::block::scaled;
use super::command::Call;
use crate::devices::virtio::inspect::PortReport;
use crate::machine::message::{MachineTree, MemoryNode, QueryTree};
use crate::qmp::command::Command;
use crate::qmp::commands::device_tree::Dumpdtb;
use crate::qmp::commands::{qom, virtio};
use crate::qmp::error::QmpError;
use crate::qom::types::{DEVICE, declared};
use crate::qom::{Location, Node, Tree};

type Outcome = Result<(), QmpError>;

/// Where devices of the board are.
const SYSBUS: &str = "/machine/unattached/sysbus";

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

/// What `info qtree` needs to know.
struct Devices {
    tree: Tree,
    /// Ports by the path of their bus' device.
    ports: Vec<(String, Vec<PortReport>)>,
    brief: bool,
}

pub(super) async fn qtree(call: &mut Call) -> Outcome {
    let brief = call.arguments.flag("brief");
    let services = Arc::clone(&call.services);
    let mut ports = Vec::new();
    for link in services.info.virtio.iter().filter(|_| !brief) {
        ports.push((link.path.clone(), virtio::report(&services, link).await?.ports));
    }
    let devices = Devices { tree: qom::tree(&services), ports, brief };
    if let Ok(at) = devices.tree.resolve(SYSBUS) {
        devices.bus(&mut call.out, 0, "main-system-bus", &at);
    }
    Ok(())
}

impl Devices {
    /// A bus and what is plugged into it, the last first.
    fn bus(&self, out: &mut String, indent: usize, name: &str, at: &Location) {
        let _ = writeln!(out, "{:indent$}bus: {name}", "");
        let indent = indent + 2;
        let _ = writeln!(out, "{:indent$}type {}", "", at.node.type_name());
        let plugged: Vec<&str> = at.node.links().map(|(_, path)| path).collect();
        for path in plugged.into_iter().rev() {
            if let Ok(device) = self.tree.resolve(path) {
                self.device(out, indent, &device, at);
            }
        }
    }

    fn device(&self, out: &mut String, indent: usize, at: &Location, bus: &Location) {
        let id = at.path.strip_prefix("/machine/peripheral/").unwrap_or_default();
        let _ = writeln!(out, "{:indent$}dev: {}, id \"{id}\"", "", at.node.type_name());
        let indent = indent + 2;
        if !self.brief {
            lines(out, indent, &at.node);
            properties(out, indent, &at.node);
            regions(out, indent, &at.node);
            self.port(out, indent, &at.node, bus);
        }
        for (name, child) in at.node.children().filter(|(_, child)| child.of().is("bus")) {
            let path = format!("{}/{name}", at.path);
            self.bus(out, indent, name, &Location { path, node: Arc::clone(child) });
        }
    }

    /// What a port of a serial bus has to add.
    fn port(&self, out: &mut String, indent: usize, node: &Node, bus: &Location) {
        let Some((device, _)) = bus.path.rsplit_once('/') else { return };
        let Some((_, ports)) = self.ports.iter().find(|(path, _)| path == device) else { return };
        let nr = node.value("nr");
        let is_it = |port: &&PortReport| nr.as_ref() == Some(&Value::from(port.nr));
        let Some(port) = ports.iter().find(is_it) else { return };
        let state = |on: bool| if on { "on" } else { "off" };
        let _ = writeln!(
            out,
            "{:indent$}port {}, guest {}, host {}, throttle {}",
            "",
            port.nr,
            state(port.guest_open),
            state(port.host_open),
            state(port.throttled),
        );
    }
}

/// Interrupt lines in and out.
fn lines(out: &mut String, indent: usize, node: &Node) {
    let named = node.properties();
    let count = |prefix: &str| named.iter().filter(|p| p.name.starts_with(prefix)).count();
    for (kind, name, prefix) in [
        ("in", "", "unnamed-gpio-in["),
        ("out", "", "unnamed-gpio-out["),
        ("out", "sysbus-irq", "sysbus-irq["),
    ] {
        match count(prefix) {
            0 => {}
            lines => {
                let _ = writeln!(out, "{:indent$}gpio-{kind} \"{name}\" {lines}", "");
            }
        }
    }
}

/// What a device was made with: its own type's properties, then its ancestors'.
fn properties(out: &mut String, indent: usize, node: &Node) {
    for of in node.of().lineage().take_while(|of| of.name != DEVICE) {
        for name in declared(of.name) {
            let (Some(property), Some(value)) = (node.property(name), node.value(name)) else {
                continue;
            };
            let value = shown(&property.type_name, &value);
            let _ = writeln!(out, "{:indent$}{name} = {value}", "");
        }
    }
}

/// A value as people read it.
fn shown(type_name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{text}\""),
        Value::Array(list) if list.is_empty() => "<null>".to_owned(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(bytes), _) if type_name == "size" => format!("{bytes} ({})", scaled(bytes)),
            (Some(number), _) => format!("{number} ({number:#x})"),
            (None, Some(number)) => format!("{number} ({number:#x})"),
            (None, None) => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// Registers of a device of the board. Some are put into memory by the board itself, so the device
/// does not know where.
fn regions(out: &mut String, indent: usize, node: &Node) {
    if !node.of().is("sys-bus-device") {
        return;
    }
    let by_the_board = matches!(node.type_name(), "cfi.pflash01" | "serial-mm");
    for (_, region) in node.children().filter(|(_, child)| child.of().is("memory-region")) {
        let number = |name: &str| region.value(name).and_then(|value| value.as_u64());
        let addr = if by_the_board { None } else { number("addr") };
        let (addr, size) = (addr.unwrap_or(u64::MAX), number("size").unwrap_or_default());
        let _ = writeln!(out, "{:indent$}mmio {addr:016x}/{size:016x}", "");
    }
}

async fn tree(call: &Call) -> Result<Arc<MachineTree>, QmpError> {
    call.services.ask(&call.services.link.query_tree, "machine tree", QueryTree).await
}

pub(super) async fn dumpdtb(call: &mut Call) -> Outcome {
    let filename = call.arguments.text("filename").unwrap_or_default().to_owned();
    Dumpdtb { filename: filename.clone() }.run(&call.services).await?;
    let _ = writeln!(call.out, "DTB dumped to '{filename}'");
    Ok(())
}

pub(super) async fn roms(call: &mut Call) -> Outcome {
    let tree = tree(call).await?;
    for rom in &tree.roms {
        let holds =
            |region: &&MemoryNode| (region.start..=region.end_inclusive).contains(&rom.addr);
        let is_ram = tree.memory.iter().find(holds).is_none_or(|region| region.kind == "ram");
        let kind = if is_ram { "ram" } else { "rom" };
        let (addr, size, name) = (rom.addr, rom.size, &rom.name);
        let _ = writeln!(call.out, "addr={addr:016x} size=0x{size:06x} mem={kind} name=\"{name}\"");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_as_qemu_shows_them() {
        for (type_name, value, expected) in [
            ("bool", json!(true), "true"),
            ("str", json!("x"), "\"x\""),
            ("OnOffAuto", json!("auto"), "\"auto\""),
            ("list", json!([]), "<null>"),
            ("uint32", json!(31), "31 (0x1f)"),
            ("uint64", json!(i64::MAX), "9223372036854775807 (0x7fffffffffffffff)"),
            ("int32", json!(-1), "-1 (0xffffffffffffffff)"),
            ("size", json!(0), "0 (0 B)"),
            ("size", json!(999), "999 (999 B)"),
            ("size", json!(1000), "1000 (0.977 KiB)"),
            ("size", json!(4294967295u64), "4294967295 (4 GiB)"),
            ("size", json!(1536), "1536 (1.5 KiB)"),
            ("size", json!(268_435_456), "268435456 (256 MiB)"),
            ("size", json!(u64::MAX), "18446744073709551615 (16 EiB)"),
        ] {
            assert_eq!(shown(type_name, &value), expected);
        }
    }
}
