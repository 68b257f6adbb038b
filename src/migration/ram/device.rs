//! The memory that a migration sends besides the guest's RAM: flash banks, the reset vector. No
//! hart writes it directly; its owner knows what has changed.

use std::fmt;
use std::sync::Arc;

use super::block::{BlockMemory, DirtyPages, RamBlock};

/// A block and how to ask what has changed of it.
#[derive(Clone)]
pub struct DeviceBlock {
    pub block: RamBlock,
    log: Arc<dyn Fn() -> Box<dyn DirtyPages> + Send + Sync>,
}

impl DeviceBlock {
    /// `memory`, which QEMU calls `name`, at `address`.
    pub fn new<M: BlockMemory + 'static>(
        name: impl Into<String>,
        address: u64,
        memory: &Arc<M>,
    ) -> Self
    where
        Arc<M>: DirtyPages,
    {
        let logged = Arc::clone(memory);
        let log = Arc::new(move || -> Box<dyn DirtyPages> { Box::new(Arc::clone(&logged)) });
        Self {
            block: RamBlock { name: name.into(), address, memory: Arc::clone(memory) as _ },
            log,
        }
    }

    /// What tells a migration of changes.
    pub fn log(&self) -> Box<dyn DirtyPages> {
        (self.log)()
    }
}

impl fmt::Debug for DeviceBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceBlock({:?})", self.block)
    }
}
