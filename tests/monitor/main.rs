//! The monitors against mocked peers: sessions over a mocked character device, the monitor over
//! a mocked machine, and what happens when a peer is slow or dead.

mod devices;
mod dirty_rate;
mod harness;
mod hmp;
mod human_peers;
mod limits;
mod machine;
mod migration;
mod object_model;
mod objects;
mod peers;
mod qmp;
mod sessions;
