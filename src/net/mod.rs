//! The host's network: looking up names, and descriptors that the parent process left open.
#![forbid(unsafe_code)]

pub mod inherited;
pub mod resolve;
