//! Read-only memory on the bus: the reset vector. Writes are ignored, as by a real ROM.

use std::sync::Arc;

use super::shell::{Access, Device};
use crate::machine::memory_map::MROM;
use crate::migration::ram::block::{BlockMemory, Bytes};

/// The memory; only a migration changes it.
#[derive(Debug)]
pub struct Rom {
    content: Arc<Bytes>,
}

impl Rom {
    /// A ROM that holds `content`, which is as large as the ROM.
    pub fn new(content: Arc<Bytes>) -> Self {
        Self { content }
    }
}

impl Device for Rom {
    const SIZE: u64 = MROM.size;

    fn decodes(&self, _: Access, _: u64, _: u8) -> bool {
        true
    }

    fn read(&mut self, offset: u64, width: u8) -> u64 {
        let mut bytes = [0; 8];
        let word = &mut bytes[..usize::from(width.min(8))];
        // The shell has checked the range.
        self.content.read(offset, word).map_or(0, |()| u64::from_le_bytes(bytes))
    }

    fn write(&mut self, _: u64, _: u8, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::cell::DeviceCell;
    use crate::actors::message::{MmioRead, MmioWrite};
    use crate::actors::outlet::Outlet;
    use crate::devices::shell::Shell;

    #[test]
    fn reads_are_little_endian_and_writes_change_nothing() {
        let content = Arc::new(Bytes::new(vec![1, 2, 3, 4, 5], MROM.size));
        let rom = Shell(Rom::new(content));
        let rom = DeviceCell::new(rom, "rom", Outlet::Unconnected);
        let read = |offset, width| rom.call(MmioRead { offset, width }).unwrap().unwrap();
        rom.call(MmioWrite { offset: 0, width: 4, value: 9 }).unwrap().unwrap();
        assert_eq!((read(0, 4), read(1, 2), read(4, 8)), (0x0403_0201, 0x0302, 5));
    }
}
