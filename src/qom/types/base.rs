//! The types that others are derived from, interfaces, and what every machine is made of.

use super::{OBJECT, Own, Property, Type};

pub(super) fn types() -> Vec<Type> {
    let interface = |name| Type::abstracted(name, super::INTERFACE);
    let fixed = |name, type_name| Own::Property(Property::fixed(name, type_name));
    vec![
        Type { parent: None, ..Type::abstracted(OBJECT, OBJECT) }
            .class([Property::fixed("type", "string")]),
        Type { parent: None, ..Type::abstracted(super::INTERFACE, OBJECT) },
        interface("hotplug-handler"),
        interface("resettable"),
        interface("user-creatable"),
        interface("vmstate-if"),
        Type::concrete("container", OBJECT),
        Type::concrete("irq", OBJECT),
        Type::concrete("memory-region", OBJECT).own(vec![
            fixed("container", "link<memory-region>"),
            fixed("addr", "uint64"),
            fixed("size", "uint64"),
            fixed("priority", "uint32"),
        ]),
        Type::abstracted("accel", OBJECT),
        Type::concrete("interp-accel", "accel"),
        Type::concrete("qtest-accel", "accel"),
        Type::concrete("tcg-accel", "accel").class([
            Property::kept("one-insn-per-tb", "bool")
                .described("Only put one guest insn in each translation block"),
            Property::kept("tb-size", "int").described("TCG translation block cache size"),
        ]),
        Type::abstracted("device", OBJECT).implementing(&["resettable", "vmstate-if"]).class([
            Property::fixed("parent_bus", "link<bus>"),
            Property::same("realized", "bool"),
            Property::fixed("hotplugged", "bool"),
            Property::fixed("hotpluggable", "bool"),
        ]),
        Type::abstracted("sys-bus-device", "device"),
        Type::abstracted("bus", OBJECT).implementing(&["resettable"]).own(vec![
            Own::Property(Property::same("hotplug-handler", "link<hotplug-handler>")),
            Own::Property(Property::same("realized", "bool")),
        ]),
        Type::concrete("System", "bus"),
        Type::abstracted("chardev", OBJECT),
        Type::abstracted("chardev-fd", "chardev"),
        Type::concrete("chardev-file", "chardev-fd"),
        Type::concrete("chardev-mux", "chardev"),
        Type::concrete("chardev-null", "chardev"),
        Type::concrete("chardev-pipe", "chardev-fd"),
        Type::concrete("chardev-pty", "chardev"),
        Type::concrete("chardev-ringbuf", "chardev"),
        Type::concrete("chardev-memory", "chardev-ringbuf"),
        Type::concrete("chardev-socket", "chardev").class([
            Property::fixed("connected", "bool"),
            Property::fixed("addr", "SocketAddress"),
        ]),
        Type::concrete("chardev-serial", "chardev-fd"),
        Type::concrete("chardev-hub", "chardev"),
        Type::concrete("chardev-stdio", "chardev-fd"),
        Type::concrete("chardev-udp", "chardev"),
        Type::concrete("chardev-vc", "chardev"),
    ]
}
