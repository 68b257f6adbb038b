//! The devices of the board, and the models of `-device`, whose properties are their own tables'.

use serde_json::Value;

use super::{Access, Own, Property, Type};
use crate::devices::virtio::properties::Model;
use crate::machine::models;

fn list(name: &'static str) -> Property {
    Property { default: Some(Value::Array(Vec::new())), ..Property::device(name, "list") }
}

/// These properties of a model.
fn of(model: &str, names: &[&str]) -> Vec<Property> {
    let known = models::model(model).map_or(&[][..], |model: &Model| model.properties);
    let find = |name: &&str| known.iter().find(|property| property.name == *name);
    let convert = |property: &crate::devices::virtio::properties::Property| Property {
        name: property.name,
        type_name: property.kind.name(),
        description: property.description,
        default: property.default_value(),
        access: Access::Device,
    };
    names.iter().filter_map(find).map(convert).collect()
}

/// And what is no option.
fn with(mut properties: Vec<Property>, also: Property) -> Vec<Property> {
    properties.push(also);
    properties
}

const CHARDEV: Property =
    Property::device("chardev", "str").described("ID of a chardev to use as a backend");

const BOOTINDEX: Own = Own::Property(Property::same("bootindex", "int32"));

/// The same property of a part.
fn alias(property: Property) -> Own {
    Own::Property(property)
}

pub(super) fn types() -> Vec<Type> {
    vec![
        Type::abstracted("fw_cfg", "sys-bus-device")
            .class([Property::switch("acpi-mr-restore", true)]),
        Type::concrete("fw_cfg_mem", "fw_cfg").class([
            Property::number("x-file-slots", "uint16", 32),
            Property::number("data_width", "uint32", u32::MAX.into()),
            Property::switch("dma_enabled", true),
        ]),
        Type::concrete("cfi.pflash01", "sys-bus-device").class([
            Property::number("id3", "uint16", 0),
            Property::number("id2", "uint16", 0),
            Property::switch("secure", false),
            Property::switch("big-endian", false),
            Property::number("num-blocks", "uint32", 0),
            Property::number("max-device-width", "uint8", 0),
            Property::switch("old-multiple-chip-handling", false),
            Property::device("name", "str"),
            Property::device("drive", "str")
                .described("Node name or ID of a block device to use as a backend"),
            Property::number("sector-length", "uint64", 0),
            Property::number("device-width", "uint8", 0),
            Property::number("width", "uint8", 0),
            Property::number("id0", "uint16", 0),
            Property::number("id1", "uint16", 0),
        ]),
        Type::concrete("goldfish_rtc", "sys-bus-device")
            .class([Property::switch("big-endian", false)]),
        Type::concrete("riscv.aclint.mtimer", "sys-bus-device").class([
            Property::number("hartid-base", "uint32", 0),
            Property::number("aperture-size", "uint32", 32768),
            Property::number("timebase-freq", "uint32", 0),
            Property::number("num-harts", "uint32", 1),
            Property::number("timecmp-base", "uint32", 0),
            Property::number("time-base", "uint32", 32760),
        ]),
        Type::concrete("riscv.aclint.swi", "sys-bus-device").class([
            Property::number("hartid-base", "uint32", 0),
            Property::number("sswi", "uint32", 0),
            Property::number("num-harts", "uint32", 1),
        ]),
        Type::concrete("riscv.hart_array", "sys-bus-device").class([
            Property::number("hartid-base", "uint32", 0),
            Property::device("cpu-type", "str"),
            Property::number("resetvec", "uint64", 4096),
            list("rnmi-interrupt-vector"),
            Property::number("num-harts", "uint32", 1),
            list("rnmi-exception-vector"),
        ]),
        Type::concrete("riscv.sifive.plic", "sys-bus-device").class([
            Property::number("context-stride", "uint32", 0),
            Property::number("hartid-base", "uint32", 0),
            Property::number("num-sources", "uint32", 1),
            Property::number("num-priorities", "uint32", 0),
            Property::number("priority-base", "uint32", 0),
            Property::number("enable-stride", "uint32", 0),
            Property::number("pending-base", "uint32", 0),
            Property::number("aperture-size", "uint32", 0),
            Property::device("hart-config", "str"),
            Property::number("context-base", "uint32", 0),
            Property::number("enable-base", "uint32", 0),
        ]),
        Type::concrete("riscv.sifive.test", "sys-bus-device").own(vec![Own::Part {
            name: "riscv.sifive.test",
            count: Some(1),
            type_name: "memory-region",
        }]),
        Type::concrete("serial", "device").class([
            Property::switch("wakeup", false),
            CHARDEV,
            Property::number("baudbase", "uint32", 115_200),
        ]),
        Type::concrete("serial-mm", "sys-bus-device")
            .class([
                Property::number("endianness", "uint8", 0),
                Property::number("regshift", "uint8", 0),
            ])
            .own(vec![
                Own::Part { name: "serial", count: None, type_name: "serial" },
                alias(CHARDEV),
                alias(Property::number("baudbase", "uint32", 115_200)),
                alias(Property::switch("wakeup", false)),
            ]),
        Type::concrete("virtio-mmio", "sys-bus-device").class([
            Property::switch("force-legacy", true),
            Property::switch("ioeventfd", true),
            Property::switch("format_transport_address", true),
        ]),
        Type::abstracted("virtio-bus", "bus"),
        Type::concrete("virtio-mmio-bus", "virtio-bus"),
        Type::concrete("virtio-serial-bus", "bus"),
        Type::abstracted("virtio-device", "device").class(of(
            "virtio-rng-device",
            &[
                "use-disabled-flag",
                "queue_reset",
                "packed",
                "in_order",
                "iommu_platform",
                "event_idx",
                "x-disable-legacy-check",
                "notify_on_empty",
                "any_layout",
                "use-started",
                "indirect_desc",
            ],
        )),
        Type::concrete("virtio-blk-device", "virtio-device")
            .class(
                [
                    vec![Property::hidden("legacy-iothread", "str")],
                    of(
                        "virtio-blk-device",
                        &[
                            "share-rw",
                            "lcyls",
                            "queue-size",
                            "lsecs",
                            "serial",
                            "account-invalid",
                            "num-queues",
                            "iothread",
                            "cyls",
                            "lheads",
                            "secs",
                            "heads",
                            "min_io_size",
                            "config-wce",
                            "seg-max-adjust",
                            "drive",
                            "werror",
                            "iothread-vq-mapping",
                            "report-discard-granularity",
                            "rerror",
                            "write-cache",
                            "physical_block_size",
                            "opt_io_size",
                            "logical_block_size",
                            "max-discard-sectors",
                            "discard",
                            "discard_granularity",
                            "request-merging",
                            "write-zeroes",
                            "max-write-zeroes-sectors",
                            "account-failed",
                            "x-enable-wce-if-config-wce",
                            "backend_defaults",
                        ],
                    ),
                ]
                .concat(),
            )
            .own(vec![BOOTINDEX]),
        Type::concrete("virtio-rng-device", "virtio-device").class(with(
            of("virtio-rng-device", &["rng", "period", "max-bytes"]),
            Property::hidden("legacy-rng", "str"),
        )),
        Type::concrete("virtio-serial-device", "virtio-device")
            .implementing(&["hotplug-handler"])
            .class(of("virtio-serial-device", &["max_ports", "emergency-write"])),
        Type::abstracted("virtio-serial-port", "device")
            .class(of("virtserialport", &["nr", "name"])),
        Type::concrete("virtserialport", "virtio-serial-port")
            .class(of("virtserialport", &["chardev"])),
        Type::concrete("virtconsole", "virtserialport"),
        Type::concrete("loader", "device").class(of(
            "loader",
            &["file", "data-be", "force-raw", "addr", "cpu-num", "data-len", "data"],
        )),
    ]
}
