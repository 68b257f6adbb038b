//! Read-only memory on the bus: the reset vector. Writes are ignored, as by a real ROM.

use actix::{Actor, Handler};

use crate::actors::context::InlineContext;
use crate::actors::message::{MmioFault, MmioRead, MmioWrite};

/// The actor. Bytes beyond the content read as zero.
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

impl Actor for Rom {
    type Context = InlineContext<Self>;
}

impl Handler<MmioRead> for Rom {
    type Result = Result<u64, MmioFault>;

    fn handle(
        &mut self,
        MmioRead { offset, width }: MmioRead,
        _: &mut Self::Context,
    ) -> Self::Result {
        let byte = |i: u64| {
            let at = usize::try_from(offset + i).ok();
            at.and_then(|at| self.content.get(at)).copied().unwrap_or(0)
        };
        Ok((0..u64::from(width.min(8))).fold(0, |value, i| value | u64::from(byte(i)) << (8 * i)))
    }
}

impl Handler<MmioWrite> for Rom {
    type Result = Result<(), MmioFault>;

    fn handle(&mut self, _: MmioWrite, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::cell::DeviceCell;
    use crate::actors::outlet::Outlet;

    #[test]
    fn reads_are_little_endian_and_writes_change_nothing() {
        let rom = DeviceCell::new(Rom::new(vec![1, 2, 3, 4, 5]), "rom", Outlet::Unconnected);
        let read = |offset, width| rom.call(MmioRead { offset, width }).unwrap().unwrap();
        rom.call(MmioWrite { offset: 0, width: 4, value: 9 }).unwrap().unwrap();
        assert_eq!((read(0, 4), read(1, 2), read(4, 8)), (0x0403_0201, 0x0302, 5));
    }
}
