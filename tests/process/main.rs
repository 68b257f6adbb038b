//! The whole program, over its real sockets, terminal, pipes and files: the embedded guest, Debian,
//! and small bare-metal programs in it.

mod backends;
mod bare;
mod confinement;
mod console;
mod device_tree;
mod greeter;
#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "tests/migration uses the rest")]
mod harness;
mod human;
mod linux;
mod migration_stream;
mod object_tree;
#[path = "../oracle/mod.rs"]
mod oracle;
mod process;
mod queries;
mod refusals;
mod sessions;
mod stream_reader;
mod transcript;
