//! Virtio devices on the MMIO transport: one actor a slot, run inline by the vCPU that touches it.

pub mod blk;
pub mod console;
pub mod create;
pub mod device;
pub mod entropy;
pub mod inspect;
pub mod properties;
pub mod queue;
pub mod rng;
#[cfg(test)]
mod test_driver;
pub mod transport;
