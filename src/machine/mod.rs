//! The machine: guest memory, the validated spec, the device tree, loaders, the built-in SBI,
//! the `Vm` actor and the only place that wires actors together (`build`).

pub mod clock;
pub mod devicetree;
pub mod fdt;
pub mod firmware;
/// The guest that runs when there is nothing else to run.
#[path = "../../guests/greeter/mod.rs"]
pub mod greeter;
pub mod loader;
pub mod memory;
pub mod memory_map;
pub mod message;
pub mod models;
pub mod spec;
pub mod vm;
