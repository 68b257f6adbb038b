//! Block back ends: an actor a drive, its image, and the threads that do its I/O.
#![forbid(unsafe_code)]

pub mod accounting;
pub mod image;
pub mod lock;
pub mod message;
pub mod node;
mod worker;
