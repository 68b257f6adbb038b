//! What the chips are doing, as it travels: QEMU's count of write cycles and the command that they
//! belong to. The contents travel as memory.

use super::{BANK_SIZE, BUFFER_SIZE, Flash, FlashBuffer, FlashMode, FlashState};
use crate::devices::shell::Migrate;
use crate::migration::vmstate::{Fields, StateError, VmState, Vmsd};

impl FlashMode {
    /// Write cycles of a sequence that are done, its command, and words still to come.
    fn registers(self) -> (u8, u8, u64) {
        match self {
            Self::ReadArray => (0, 0x00, 0),
            Self::ReadStatus => (0, 0x70, 0),
            Self::ReadId => (0, 0x90, 0),
            Self::Query => (1, 0x98, 0),
            Self::Program => (1, 0x40, 0),
            Self::EraseConfirm => (1, 0x20, 0),
            Self::Lock => (1, 0x60, 0),
            Self::BufferCount => (1, 0xe8, 0),
            Self::BufferFill(more) => (2, 0xe8, more.into()),
            Self::BufferConfirm => (3, 0xe8, 0),
        }
    }

    /// The reverse; QEMU leaves the command of a sequence that is over where it was.
    fn of(cycles: u8, command: u8, counter: u64) -> Option<Self> {
        Some(match (cycles, command) {
            (0, 0x00) => Self::ReadArray,
            (0, 0x10 | 0x20 | 0x28 | 0x40 | 0x50 | 0x60 | 0x70 | 0xe8) => Self::ReadStatus,
            (0, 0x90) => Self::ReadId,
            (1, 0x98) => Self::Query,
            (1, 0x10 | 0x40) => Self::Program,
            (1, 0x20 | 0x28) => Self::EraseConfirm,
            (1, 0x60) => Self::Lock,
            (1, 0xe8) => Self::BufferCount,
            (2, 0xe8) => Self::BufferFill(u16::try_from(counter).ok()?),
            (3, 0xe8) => Self::BufferConfirm,
            _ => return None,
        })
    }
}

impl VmState for FlashState {
    const VMSD: Vmsd = Vmsd::new("pflash_cfi01", 1);

    fn before_load(&mut self) {
        *self = Self::default();
    }

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let (mut cycles, mut command, mut counter) = self.mode.registers();
        f.u8("wcycle", &mut cycles)?;
        f.u8("cmd", &mut command)?;
        f.u8("status", &mut self.status)?;
        f.u64("counter", &mut counter)?;
        self.mode = FlashMode::of(cycles, command, counter).ok_or_else(|| {
            let text = format!("{command:#x} in write cycle {cycles}, {counter} words to come");
            f.refuse("cmd", text)
        })?;
        let mut needed = self.buffer.is_some();
        let none = || FlashBuffer { offset: 0, bytes: vec![0; BUFFER_SIZE as usize] };
        let mut buffer = self.buffer.take().unwrap_or_else(none);
        f.subsection(Vmsd::new("pflash_cfi01_blk_write", 1), needed, &mut |f| {
            needed = true;
            let mut offset = buffer.offset as u32;
            f.buffer("blk_bytes", &mut buffer.bytes)?;
            f.u32("blk_offset", &mut offset)?;
            buffer.offset = offset.into();
            if !buffer.offset.is_multiple_of(BUFFER_SIZE) || buffer.offset >= BANK_SIZE {
                return Err(f.refuse("blk_offset", format!("{offset:#x} is no block's")));
            }
            Ok(())
        })?;
        self.buffer = needed.then_some(buffer);
        Ok(())
    }
}

impl Migrate for Flash {
    type State = FlashState;

    fn save(&self) -> Result<FlashState, StateError> {
        Ok(self.state.clone())
    }

    fn load(&mut self, state: FlashState) -> Result<(), StateError> {
        self.state = state;
        Ok(())
    }
}
