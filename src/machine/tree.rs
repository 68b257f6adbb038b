//! What is at which physical address.

use super::memory::RAM_BASE;
use super::message::{MachineTree, MemoryNode};
use super::spec::MachineSpec;
use crate::devices::bus::Region;

/// Describe the memory map.
pub(super) fn describe(spec: &MachineSpec, regions: &[Region]) -> MachineTree {
    let node = |region: &Region| MemoryNode {
        start: region.range.start,
        end_inclusive: region.range.end - 1,
        kind: match &region.name {
            name if name.ends_with(".mrom") => "rom",
            name if name.starts_with("virt.flash") => "romd",
            _ => "i/o",
        },
        name: region.name.clone(),
    };
    let ram = MemoryNode {
        start: RAM_BASE,
        end_inclusive: RAM_BASE + spec.ram_size - 1,
        kind: "ram",
        name: "riscv_virt_board.ram".into(),
    };
    MachineTree {
        memory: regions.iter().map(node).chain([ram]).collect(),
        ..MachineTree::default()
    }
}
