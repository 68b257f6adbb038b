//! Migration between whole processes over loopback: every channel, every failure and its sentence.

mod certificates;
mod channels;
mod deaths;
mod descriptors;
mod failures;
mod flood;
#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "tests/process uses the rest")]
mod harness;
mod linux;
mod live_settings;
mod load;
mod mapped;
mod multifd;
mod pace;
mod phases;
mod proxy;
mod refusals;
mod side;
mod silence;
mod stalls;
mod tls;
mod transcripts;
mod waiting;
mod writes;
