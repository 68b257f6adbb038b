//! The machine: guest memory, the validated spec, the device tree, loaders, the built-in SBI,
//! the `Vm` actor and the only place that wires actors together (`build`).

pub mod address_space;
mod boot_order;
pub mod build;
pub mod clock;
mod composition;
pub mod core_dump;
pub mod devicetree;
pub mod dirty_log;
pub mod dirty_rate;
mod drives;
pub mod fdt;
pub mod firmware;
mod flash_banks;
mod fw_cfg_items;
/// The guest that runs when there is nothing else to run.
#[path = "../../guests/greeter/mod.rs"]
pub mod greeter;
pub mod guest_random;
pub mod hotplug;
pub mod loader;
mod localtime;
pub mod log;
pub mod memory;
pub mod memory_map;
pub mod message;
pub mod migration;
pub mod models;
pub mod presence;
mod qtest_gpios;
pub mod run;
pub mod spec;
mod tree;
mod virtio_slots;
pub mod vm;
