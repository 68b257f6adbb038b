//! The machine: guest memory, the validated spec, the device tree, loaders, the built-in SBI,
//! the `Vm` actor and the only place that wires actors together (`build`).

pub mod clock;
pub mod devicetree;
pub mod fdt;
pub mod firmware;
pub mod loader;
pub mod memory;
pub mod memory_map;
pub mod message;
pub mod models;
pub mod spec;
