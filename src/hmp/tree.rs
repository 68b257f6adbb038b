//! The machine's structure: `info mtree`, `info qtree`, `info roms`.

use std::fmt::Write;
use std::sync::Arc;

use super::command::Call;
use crate::machine::message::{DeviceNode, MachineTree, MemoryNode, QueryTree};
use crate::qmp::command::Command;
use crate::qmp::commands::device_tree::Dumpdtb;
use crate::qmp::commands::machine::QueryCpusFast;
use crate::qmp::error::QmpError;

type Outcome = Result<(), QmpError>;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

async fn tree(call: &Call) -> Result<Arc<MachineTree>, QmpError> {
    call.services.ask(&call.services.link.query_tree, "machine tree", QueryTree).await
}

pub(super) async fn mtree(call: &mut Call) -> Outcome {
    let tree = tree(call).await?;
    let mut regions: Vec<&MemoryNode> = tree.memory.iter().collect();
    regions.sort_by_key(|region| region.start);
    let whole =
        MemoryNode { start: 0, end_inclusive: u64::MAX, kind: "i/o", name: "system".into() };
    if call.arguments.flag("flatview") {
        call.out.push_str("FlatView #0\n AS \"memory\", root: system\n");
        for cpu in (QueryCpusFast {}).run(&call.services).await? {
            let _ = writeln!(call.out, " AS \"cpu-memory-{}\", root: system", cpu.cpu_index);
        }
        call.out.push_str(" Root memory region: system\n");
        regions.iter().for_each(|region| memory(&mut call.out, 1, region));
    } else {
        call.out.push_str("address-space: memory\n");
        memory(&mut call.out, 1, &whole);
        regions.iter().for_each(|region| memory(&mut call.out, 2, region));
    }
    call.out.push('\n');
    Ok(())
}

fn memory(out: &mut String, depth: usize, region: &MemoryNode) {
    let MemoryNode { start, end_inclusive, kind, name } = region;
    let indent = "  ".repeat(depth);
    let _ = writeln!(out, "{indent}{start:016x}-{end_inclusive:016x} (prio 0, {kind}): {name}");
}

pub(super) async fn qtree(call: &mut Call) -> Outcome {
    let tree = tree(call).await?;
    let brief = call.arguments.flag("brief");
    bus(&mut call.out, 0, ("main-system-bus", "System"), &tree.devices, brief);
    Ok(())
}

fn bus(
    out: &mut String,
    indent: usize,
    (name, kind): (&str, &str),
    devices: &[DeviceNode],
    brief: bool,
) {
    let _ = writeln!(out, "{:indent$}bus: {name}", "");
    let indent = indent + 2;
    if !brief {
        let _ = writeln!(out, "{:indent$}type {kind}", "");
    }
    for node in devices {
        device(out, indent, node, brief);
    }
}

fn device(out: &mut String, indent: usize, node: &DeviceNode, brief: bool) {
    let _ = writeln!(out, "{:indent$}dev: {}, id \"{}\"", "", node.type_name, node.id);
    let indent = indent + 2;
    if !brief {
        for (name, value) in &node.properties {
            let _ = writeln!(out, "{:indent$}{name} = {value}", "");
        }
        for (addr, size) in &node.mmio {
            let _ = writeln!(out, "{:indent$}mmio {addr:016x}/{size:016x}", "");
        }
    }
    for (name, kind, devices) in &node.buses {
        bus(out, indent, (name, kind), devices, brief);
    }
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
