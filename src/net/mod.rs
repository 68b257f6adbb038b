//! What is outside of this process: names of hosts, and descriptors that others have opened for us.
#![forbid(unsafe_code)]

pub mod descriptors;
pub mod inherited;
pub mod resolve;
pub mod unix_path;
