//! The commands, grouped as QAPI's modules group them.

pub mod backends;
mod base64;
pub mod block;
pub mod chardev;
pub mod descriptors;
pub mod device_tree;
pub mod dirty_rate;
pub mod human;
pub mod introspect;
pub mod machine;
pub mod memory;
pub mod migration;
pub mod migration_settings;
pub mod migration_start;
pub mod objects;
pub mod preconfig;
pub mod qom;
pub mod status;
