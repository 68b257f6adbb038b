//! The commands, grouped as QAPI's modules group them.

pub mod backends;
mod base64;
pub mod block;
pub mod chardev;
pub mod command_line;
pub mod cpu_models;
pub mod descriptors;
pub mod device_tree;
pub mod devices;
pub mod dirty_rate;
pub mod human;
pub mod introspect;
pub mod jobs;
pub mod machine;
pub mod memory;
pub mod migration;
pub mod migration_settings;
pub mod migration_start;
pub mod objects;
pub mod preconfig;
pub mod printed;
pub mod qom;
pub mod stats;
pub mod status;
pub mod tpm;
pub mod trace;
pub mod yank;
