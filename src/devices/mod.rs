//! Devices as actors: each is run inline by the vCPU that touches it (see `actors::cell`).
#![forbid(unsafe_code)]

pub mod bus;
pub mod dma;
pub mod finisher;
pub mod flash;
pub mod fw_cfg;
pub mod irq;
pub mod rom;
pub mod rtc;
pub mod shell;
pub mod uart;
pub mod virtio;
