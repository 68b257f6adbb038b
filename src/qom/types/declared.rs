//! The properties of devices in the order in which QEMU declares them, which is how `info qtree`
//! shows them. Everywhere else they are in the order of a hash table.

/// Of each type that adds properties to its parent's.
const DECLARED: [(&str, &[&str]); 14] = [
    (
        "cfi.pflash01",
        &[
            "drive",
            "num-blocks",
            "sector-length",
            "width",
            "device-width",
            "max-device-width",
            "big-endian",
            "secure",
            "id0",
            "id1",
            "id2",
            "id3",
            "name",
            "old-multiple-chip-handling",
        ],
    ),
    ("fw_cfg", &["acpi-mr-restore"]),
    ("fw_cfg_mem", &["data_width", "dma_enabled", "x-file-slots"]),
    ("goldfish_rtc", &["big-endian"]),
    (
        "riscv.aclint.mtimer",
        &[
            "hartid-base",
            "num-harts",
            "timecmp-base",
            "time-base",
            "aperture-size",
            "timebase-freq",
        ],
    ),
    ("riscv.aclint.swi", &["hartid-base", "num-harts", "sswi"]),
    (
        "riscv.hart_array",
        &[
            "num-harts",
            "hartid-base",
            "cpu-type",
            "resetvec",
            "rnmi-interrupt-vector",
            "rnmi-exception-vector",
        ],
    ),
    (
        "riscv.sifive.plic",
        &[
            "hart-config",
            "hartid-base",
            "num-sources",
            "num-priorities",
            "priority-base",
            "pending-base",
            "enable-base",
            "enable-stride",
            "context-base",
            "context-stride",
            "aperture-size",
        ],
    ),
    ("serial-mm", &["regshift", "endianness"]),
    (
        "virtio-blk-device",
        &[
            "drive",
            "backend_defaults",
            "logical_block_size",
            "physical_block_size",
            "min_io_size",
            "opt_io_size",
            "discard_granularity",
            "write-cache",
            "share-rw",
            "account-invalid",
            "account-failed",
            "rerror",
            "werror",
            "cyls",
            "heads",
            "secs",
            "lcyls",
            "lheads",
            "lsecs",
            "serial",
            "config-wce",
            "request-merging",
            "num-queues",
            "queue-size",
            "seg-max-adjust",
            "iothread-vq-mapping",
            "discard",
            "report-discard-granularity",
            "write-zeroes",
            "max-discard-sectors",
            "max-write-zeroes-sectors",
            "x-enable-wce-if-config-wce",
        ],
    ),
    (
        "virtio-device",
        &[
            "indirect_desc",
            "event_idx",
            "notify_on_empty",
            "any_layout",
            "iommu_platform",
            "packed",
            "queue_reset",
            "in_order",
            "use-started",
            "use-disabled-flag",
            "x-disable-legacy-check",
        ],
    ),
    ("virtio-mmio", &["format_transport_address", "force-legacy", "ioeventfd"]),
    ("virtio-rng-device", &["max-bytes", "period"]),
    ("virtio-serial-device", &["max_ports", "emergency-write"]),
];

/// And of ports, which are of two kinds.
const PORTS: [(&str, &[&str]); 2] =
    [("virtio-serial-port", &["nr", "name"]), ("virtserialport", &["chardev"])];

/// What a type adds to its parent's properties. Links are not among them: QEMU shows none.
pub(crate) fn declared(type_name: &str) -> &'static [&'static str] {
    let known = DECLARED.iter().chain(&PORTS);
    let mut of_type = known.filter(|(name, _)| *name == type_name);
    of_type.next().map_or(&[], |(_, names)| names)
}

#[cfg(test)]
mod tests {
    use super::super::{Access, DEVICE, Type, all, find};
    use super::*;

    #[test]
    fn what_is_declared_is_what_types_have() {
        for (name, declared) in DECLARED.iter().chain(&PORTS) {
            let of = find(name).unwrap();
            for property in *declared {
                assert!(of.class.iter().any(|own| own.name == *property), "{name}.{property}");
            }
        }
        // And of devices on a bus, nothing is missing but links.
        let off_a_bus = ["loader", "serial"];
        let on_a_bus = |of: &&Type| {
            of.is(DEVICE) && of.name != DEVICE && !of.is("cpu") && !off_a_bus.contains(&of.name)
        };
        for of in all().iter().filter(on_a_bus) {
            let hidden = |name: &str| {
                of.class.iter().any(|own| {
                    own.access == Access::Hidden && own.name.strip_prefix("legacy-") == Some(name)
                })
            };
            for own in of.class.iter().filter(|own| own.access == Access::Device) {
                let known = declared(of.name).contains(&own.name) || hidden(own.name);
                assert!(known, "{}.{}", of.name, own.name);
            }
        }
    }
}
