//! understudy: a full-system emulator for the RISC-V 64 `virt` machine in which every subsystem
//! is a message-passing task. `ARCHITECTURE.md` is the map of these modules.

pub mod actors;
pub mod block;
pub mod chardev;
pub mod cli;
pub mod cpu;
pub mod devices;
pub mod hmp;
pub mod jit;
pub mod machine;
pub mod migration;
pub mod net;
pub mod objects;
pub mod qmp;
pub mod qom;
pub mod qtest;
pub mod report;
pub mod sandbox;
pub mod signals;
pub mod teardown;
pub mod terminal;
pub mod threads;
pub mod tls;
pub mod trace;
