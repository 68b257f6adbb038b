//! The machines.

use super::{OBJECT, Own, Property, Type};

fn part(name: &'static str, type_name: &'static str) -> Own {
    Own::Part { name, count: None, type_name }
}

fn flash(name: &'static str) -> Own {
    Own::Property(
        Property::same(name, "str")
            .described("Node name or ID of a block device to use as a backend"),
    )
}

pub(super) fn types() -> Vec<Type> {
    let text = |name, description| Property::kept(name, "string").described(description);
    let switch = |name, description| Property::kept(name, "bool").described(description);
    vec![
        Type::abstracted("machine", OBJECT).class([
            text("kernel", "Linux kernel image file"),
            Property::same("boot", "BootConfiguration").described("Boot configuration"),
            Property::same("memory", "MemorySizeConfiguration")
                .described("Memory size configuration"),
            text("initrd", "Linux initial ramdisk file"),
            switch("aux-ram-share", ""),
            switch("graphics", "Set on/off to enable/disable graphics emulation"),
            switch("usb", "Set on/off to enable/disable usb"),
            text("firmware", "Firmware image"),
            switch("dump-guest-core", "Include guest memory in a core dump"),
            Property::same("smp", "SMPConfiguration").described("CPU topology"),
            text("dumpdtb", "Dump current dtb to a file and quit"),
            Property::same("memory-backend", "link<memory-backend>")
                .described("Set RAM backendValid value is ID of hostmem based backend"),
            switch("mem-merge", "Enable/disable memory merge support"),
            text("dtb", "Linux kernel device tree file"),
            text("append", "Linux kernel command line"),
        ]),
        Type::concrete("none-machine", "machine"),
        Type::concrete("virt-machine", "machine")
            .implementing(&["hotplug-handler"])
            .class([
                Property::same("iommu-sys", "OnOffAuto").described("Enable IOMMU platform device"),
                Property::same("acpi", "OnOffAuto").described("Enable ACPI"),
                Property::same("aia", "string").described(
                    "Set type of AIA interrupt controller. Valid values are none, aplic, and \
                     aplic-imsic.",
                ),
                switch(
                    "aclint",
                    "(TCG only) Set on/off to enable/disable emulating ACLINT devices",
                ),
            ])
            .own(vec![
                part("virt.flash0", "cfi.pflash01"),
                flash("pflash0"),
                part("virt.flash1", "cfi.pflash01"),
                flash("pflash1"),
            ]),
    ]
}
