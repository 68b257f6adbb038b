//! Migration between whole processes over loopback: every channel, every failure and its sentence.

mod channels;
mod failures;
#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "tests/process uses the rest")]
mod harness;
mod phases;
mod refusals;
mod side;
mod tls;
mod transcripts;
