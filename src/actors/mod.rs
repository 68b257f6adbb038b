//! The actor kit: how actors of this machine are run, called and tested.
#![forbid(unsafe_code)]

pub mod message;
pub mod outlet;
