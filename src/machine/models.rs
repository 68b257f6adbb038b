//! The device models that `-device` and `device_add` know, with their properties.

/// A device model.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    pub name: &'static str,
    /// Heading under which `-device help` lists it.
    pub category: &'static str,
    /// Kind of bus it sits on; empty for none.
    pub bus: &'static str,
    pub properties: &'static [Property],
}

/// A property of a device model.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    pub name: &'static str,
    pub kind: PropertyKind,
    pub description: &'static str,
}

/// What text a property's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyKind {
    Bool,
    Uint32,
    Uint64,
    /// Bytes, with an optional suffix.
    Size,
    Str,
    /// Identifier of a `-drive`.
    Drive,
    /// Identifier of a character device.
    Chardev,
    /// Identifier of an object whose type starts with this.
    Link(&'static str),
}

impl PropertyKind {
    /// The type's name in `-device MODEL,help`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Size => "size",
            Self::Str | Self::Drive | Self::Chardev => "str",
            Self::Link("rng") => "link<rng-backend>",
            Self::Link(_) => "link<object>",
        }
    }
}

const fn property(name: &'static str, kind: PropertyKind, description: &'static str) -> Property {
    Property { name, kind, description }
}

/// Every model, sorted by category and name.
pub const MODELS: &[Model] = &[
    Model {
        name: "virtio-blk-device",
        category: "Storage devices",
        bus: "virtio-bus",
        properties: &[
            property("drive", PropertyKind::Drive, "block back end (-drive id=)"),
            property("serial", PropertyKind::Str, "serial number, at most 20 characters"),
        ],
    },
    Model {
        name: "virtconsole",
        category: "Input devices",
        bus: "virtio-serial-bus",
        properties: &[
            property("chardev", PropertyKind::Chardev, "character back end (-chardev id=)"),
            property("name", PropertyKind::Str, "name of the port in the guest"),
        ],
    },
    Model {
        name: "virtio-serial-device",
        category: "Input devices",
        bus: "virtio-bus",
        properties: &[],
    },
    Model {
        name: "virtserialport",
        category: "Input devices",
        bus: "virtio-serial-bus",
        properties: &[
            property("chardev", PropertyKind::Chardev, "character back end (-chardev id=)"),
            property("name", PropertyKind::Str, "name of the port in the guest"),
        ],
    },
    Model {
        name: "loader",
        category: "Misc devices",
        bus: "",
        properties: &[
            property("addr", PropertyKind::Uint64, "guest physical address"),
            property("cpu-num", PropertyKind::Uint32, "hart whose program counter is set"),
            property("data", PropertyKind::Uint64, "value to store"),
            property("data-be", PropertyKind::Bool, "store it big-endian"),
            property("data-len", PropertyKind::Uint32, "bytes to store, 1 to 8"),
            property("file", PropertyKind::Str, "image to load"),
            property("force-raw", PropertyKind::Bool, "do not look for an image format"),
        ],
    },
    Model {
        name: "virtio-rng-device",
        category: "Misc devices",
        bus: "virtio-bus",
        properties: &[
            property("max-bytes", PropertyKind::Uint64, "bytes a period"),
            property("period", PropertyKind::Uint32, "length of a period, in ms"),
            property("rng", PropertyKind::Link("rng"), "source (-object rng-random,id=)"),
        ],
    },
];

/// The model of this name.
pub fn model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}
