//! Read-only memory on the bus: the reset vector. Writes are ignored, as by a real ROM.

use super::shell::{Access, Device};
use crate::machine::memory_map::MROM;

/// The memory. Bytes beyond the content read as zero.
#[derive(Debug)]
pub struct Rom {
    content: Vec<u8>,
}

impl Rom {
    /// A ROM that holds `content`.
    pub fn new(content: Vec<u8>) -> Self {
        Self { content }
    }
}

impl Device for Rom {
    const SIZE: u64 = MROM.size;

    fn decodes(&self, _: Access, _: u64, _: u8) -> bool {
        true
    }

    fn read(&mut self, offset: u64, width: u8) -> u64 {
        let byte = |i: u64| {
            let at = usize::try_from(offset + i).ok();
            at.and_then(|at| self.content.get(at)).copied().unwrap_or(0)
        };
        (0..u64::from(width)).fold(0, |value, i| value | u64::from(byte(i)) << (8 * i))
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
        let rom = Shell(Rom::new(vec![1, 2, 3, 4, 5]));
        let rom = DeviceCell::new(rom, "rom", Outlet::Unconnected);
        let read = |offset, width| rom.call(MmioRead { offset, width }).unwrap().unwrap();
        rom.call(MmioWrite { offset: 0, width: 4, value: 9 }).unwrap().unwrap();
        assert_eq!((read(0, 4), read(1, 2), read(4, 8)), (0x0403_0201, 0x0302, 5));
    }
}
