//! The device models that `-device` and `device_add` know.

use crate::devices::virtio::properties::{self, Kind, Model, Property};

const fn property(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    description: &'static str,
) -> Property {
    Property { name, kind, description, default, implemented: true }
}

/// `-device loader`: puts something into guest memory before the harts start.
pub const LOADER: Model = Model {
    name: "loader",
    bus: "",
    category: "Misc devices",
    properties: &[
        property("addr", Kind::Uint64, "0", "guest physical address"),
        property("cpu-num", Kind::Uint32, "4294967295", "hart whose program counter is set"),
        property("data", Kind::Uint64, "0", "value to store"),
        property("data-be", Kind::Bool, "off", "store it big-endian"),
        property("data-len", Kind::Uint32, "0", "bytes to store, 1 to 8"),
        property("file", Kind::Str, "", "image to load"),
        property("force-raw", Kind::Bool, "off", "do not look for an image format"),
    ],
};

/// Every model.
pub fn models() -> impl Iterator<Item = &'static Model> {
    properties::MODELS.into_iter().chain([&LOADER])
}

/// The model of this name.
pub fn model(name: &str) -> Option<&'static Model> {
    models().find(|model| model.name == name)
}
