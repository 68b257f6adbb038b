//! Migration: the machine's state to another process, and the reason whenever it does not get
//! there.
//!
//! `source` and `destination` are the actors; both tell every change of their state as a
//! `MigrationEvent`. The monitor keeps the last one in a `cache::MigrationCache` and answers
//! `query-migrate` from it alone, so a failure's reason outlives the actor that met it.

#![forbid(unsafe_code)]

pub mod bitmap_mapping;
pub mod cache;
pub mod capability;
pub mod channel;
pub mod destination;
pub mod message;
pub mod parameter_text;
pub mod parameters;
pub mod ram;
pub mod return_path;
pub mod sections;
pub mod source;
pub mod status;
pub mod stream;
pub mod vmstate;

#[cfg(test)]
mod tests;
