//! `info mtree`: the address spaces, as trees of regions or flat, as the object model has them.

use std::fmt::Write;
use std::sync::Arc;

use super::command::Call;
use crate::qmp::command::Command;
use crate::qmp::commands::machine::QueryCpusFast;
use crate::qmp::commands::qom;
use crate::qmp::error::QmpError;
use crate::qom::Node;
use crate::qom::types::DEVICE;

/// What holds regions that nobody owns.
const UNATTACHED: &str = "/machine/unattached";
/// The region that all of an address space is in.
const SYSTEM: &str = "/machine/unattached/system[0]";
const IO: &str = "/machine/unattached/io[0]";

// Writing to a String cannot fail, so results of `write!` below are dropped.

/// A region of memory.
#[derive(Debug, Clone)]
struct Region {
    start: u64,
    /// Its last byte.
    end: u64,
    kind: &'static str,
    name: String,
    /// Who made it, as `-o` shows.
    owner: String,
}

impl Region {
    fn new(path: &str, node: &Node, parent: &Node) -> Self {
        let number = |name: &str| node.value(name).and_then(|value| value.as_u64()).unwrap_or(0);
        let (holder, own) = path.rsplit_once('/').unwrap_or(("", path));
        let name = own.strip_suffix("[0]").unwrap_or(own).to_owned();
        let (start, size) = (number("addr"), number("size"));
        // The size of everything does not fit.
        let end = if size == u64::MAX { size } else { start.wrapping_add(size).wrapping_sub(1) };
        let kind = match name.as_str() {
            _ if parent.of().is("memory-backend") => "ram",
            _ if parent.type_name() == "cfi.pflash01" => "romd",
            name if name.ends_with(".mrom") => "rom",
            _ => "i/o",
        };
        let owner = match holder.strip_prefix("/machine/peripheral/") {
            _ if holder == UNATTACHED => format!("parent:{{obj path={holder}}}"),
            Some(id) => format!("owner:{{dev id={id}}}"),
            None if parent.of().is(DEVICE) => format!("owner:{{dev path={holder}}}"),
            None => format!("owner:{{obj path={holder}}}"),
        };
        Self { start, end, kind, name, owner }
    }

    fn show(&self, out: &mut String, depth: usize, owners: bool) {
        let Self { start, end, kind, name, owner } = self;
        let _ =
            write!(out, "{}{start:016x}-{end:016x} (prio 0, {kind}): {name}", "  ".repeat(depth));
        if owners {
            let _ = write!(out, " {owner}");
        }
        out.push('\n');
    }
}

/// All there is, by address.
struct Memory {
    system: Option<Region>,
    io: Option<Region>,
    regions: Vec<Region>,
}

impl Memory {
    fn collect(&mut self, path: &str, node: &Node) {
        for (name, child) in node.children() {
            let path = format!("{path}/{name}");
            if child.of().is("memory-region") {
                let region = || Region::new(&path, child, node);
                match path.as_str() {
                    SYSTEM => self.system = Some(region()),
                    IO => self.io = Some(region()),
                    _ if child.value("container").is_some_and(|at| at == SYSTEM) => {
                        self.regions.push(region());
                    }
                    _ => {}
                }
            }
            self.collect(&path, child);
        }
    }
}

pub(super) async fn mtree(call: &mut Call) -> Result<(), QmpError> {
    let services = Arc::clone(&call.services);
    let mut memory = Memory { system: None, io: None, regions: Vec::new() };
    if let Ok(root) = qom::tree(&services).resolve("/") {
        memory.collect("", &root.node);
    }
    memory.regions.sort_by_key(|region| region.start);
    let cpus = QueryCpusFast {}.run(&services).await?;
    let cpus: Vec<_> = cpus.iter().map(|cpu| format!("cpu-memory-{}", cpu.cpu_index)).collect();
    let owners = call.arguments.flag("owner");
    match call.arguments.flag("flatview") {
        true => flat(&mut call.out, &memory, &cpus, owners, call.arguments.flag("dispatch_tree")),
        false => nested(&mut call.out, &memory, cpus, owners),
    }
    Ok(())
}

/// As trees. Every region is enabled, so `-D` has no more to show.
fn nested(out: &mut String, memory: &Memory, mut spaces: Vec<String>, owners: bool) {
    spaces.push("memory".to_owned());
    spaces.sort_unstable();
    for name in spaces {
        let _ = writeln!(out, "address-space: {name}");
    }
    memory.system.iter().for_each(|region| region.show(out, 1, owners));
    memory.regions.iter().for_each(|region| region.show(out, 2, owners));
    out.push_str("\naddress-space: I/O\n");
    memory.io.iter().for_each(|region| region.show(out, 1, owners));
    out.push('\n');
}

/// As they are looked up.
fn flat(out: &mut String, memory: &Memory, cpus: &[String], owners: bool, dispatch: bool) {
    out.push_str("FlatView #0\n AS \"I/O\", root: io\n Root memory region: io\n");
    memory.io.iter().for_each(|region| region.show(out, 1, owners));
    if dispatch {
        sections(out, memory.io.as_slice());
    }
    out.push_str("\nFlatView #1\n AS \"memory\", root: system\n");
    for name in cpus {
        let _ = writeln!(out, " AS \"{name}\", root: system");
    }
    // A single region at the start stands for all.
    let root = match memory.regions.as_slice() {
        [] => "(none)",
        [only] if only.start == 0 => &only.name,
        _ => "system",
    };
    let _ = writeln!(out, " Root memory region: {root}");
    if memory.regions.is_empty() {
        out.push_str("  No rendered FlatView\n\n");
        return;
    }
    memory.regions.iter().for_each(|region| region.show(out, 1, owners));
    if dispatch {
        sections(out, &memory.regions);
    }
    out.push('\n');
}

/// What an access is sent to, found by bisection: there is no tree below it.
fn sections(out: &mut String, regions: &[Region]) {
    out.push_str("  Dispatch\n    Physical sections\n");
    let _ = writeln!(out, "      #0 @{:016x}..{:016x} (noname) [unassigned]", 0, u64::MAX);
    for (number, Region { start, end, name, .. }) in (1..).zip(regions) {
        let _ = writeln!(out, "      #{number} @{start:016x}..{end:016x} {name}");
    }
}
