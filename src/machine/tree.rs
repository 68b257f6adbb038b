//! The machine as `info mtree` and `info qtree` show it.

use super::memory::RAM_BASE;
use super::message::{DeviceNode, MachineTree, MemoryNode};
use super::spec::MachineSpec;
use crate::devices::bus::Region;

/// QEMU's type name of a device of the board, by the name of its region.
fn type_name(region: &str) -> &str {
    match region {
        "serial" => "serial-mm",
        "fw_cfg" => "fw_cfg_mem",
        "riscv.aclint" => "riscv.aclint.mtimer",
        "virt.flash0" | "virt.flash1" => "cfi.pflash01",
        other => other,
    }
}

/// Describe the memory map and the devices on it.
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
    let mut plugged = spec.devices.iter().filter(|d| d.driver.starts_with("virtio-"));
    let mut sorted: Vec<&Region> = regions.iter().collect();
    sorted.sort_by_key(|r| std::cmp::Reverse(r.range.start));
    let mut devices = Vec::new();
    for region in sorted.iter().filter(|r| !r.name.ends_with(".mrom")) {
        let mut device = DeviceNode {
            type_name: type_name(&region.name).to_owned(),
            mmio: vec![(region.range.start, region.range.end - region.range.start)],
            ..DeviceNode::default()
        };
        if region.name == "virtio-mmio" {
            let child = plugged.next().map(|spec| DeviceNode {
                type_name: spec.driver.clone(),
                id: spec.id.clone().unwrap_or_default(),
                properties: spec.props.clone(),
                ..DeviceNode::default()
            });
            let number = (region.range.start - super::memory_map::virtio(0).base) / 0x1000;
            let bus = format!("virtio-mmio-bus.{number}");
            device.buses.push((bus, "virtio-mmio-bus".into(), child.into_iter().collect()));
        }
        devices.push(device);
    }
    MachineTree {
        memory: regions.iter().map(node).chain([ram]).collect(),
        devices,
        ..MachineTree::default()
    }
}
