//! The device models that `-device` and `device_add` know.

use crate::devices::virtio::properties::{self, Kind, Model, Property};

const fn property(name: &'static str, kind: Kind, default: &'static str) -> Property {
    let description = match kind {
        Kind::Bool => "on/off",
        _ => "",
    };
    Property { name, kind, description, default, implemented: true }
}

/// `-device loader`: puts something into guest memory before the harts start.
pub const LOADER: Model = Model {
    name: "loader",
    bus: "",
    category: "Misc devices",
    properties: &[
        property("addr", Kind::Uint64, "0"),
        property("cpu-num", Kind::Uint32, "4294967295"),
        property("data", Kind::Uint64, "0"),
        property("data-be", Kind::Bool, "off"),
        property("data-len", Kind::Uint8, "0"),
        property("file", Kind::Str, ""),
        property("force-raw", Kind::Bool, "off"),
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
