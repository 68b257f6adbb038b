//! HMP: the human monitor. It edits lines, parses them into the typed commands and messages of
//! `crate::qmp`, and renders the replies; it decides nothing itself.
#![forbid(unsafe_code)]

mod address;
pub mod arguments;
mod block;
mod chardev;
pub mod command;
pub mod complete;
mod control;
mod descriptors;
mod devices;
mod dirty_rate;
mod disassembly;
mod dump;
mod expression;
mod inspect;
mod machine;
mod memory;
mod migration;
mod migration_settings;
mod mtree;
mod objects;
mod page_table;
mod ports;
mod qom;
pub mod readline;
mod registers;
pub mod session;
pub mod state;
mod table;
mod tree;
mod virtio;
