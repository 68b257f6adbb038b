//! One bank of `virt`'s parallel NOR flash: two 16-bit chips side by side with Intel's command set
//! (JEDEC CFI; commands as in Intel's 28F640J3A data sheet, corners as QEMU decides them).
//!
//! Commands are decoded from the low byte of a write. Reads in array mode return the contents; in
//! any other mode they return a status, identifier or CFI word, replicated for both chips.
//! Programming stores the value as it is, also over ones: that is what QEMU's guests see.
//!
//! A change of the contents is told to the bank's backing as [`FlashChanged`], in order; a bank
//! without backing forgets at the end.

mod array;
mod state;

use std::sync::Arc;

use actix::Message;

pub use self::array::FlashArray;
use super::shell::{Access, Device};
use crate::actors::outlet::Outlet;

/// Size of a bank in bytes.
pub const BANK_SIZE: u64 = 32 << 20;
/// Size of an erase block of the bank (both chips) in bytes.
pub const SECTOR_SIZE: u64 = 256 << 10;
/// Bytes that one buffered write of both chips can carry.
const BUFFER_SIZE: u64 = 4096;
/// Bytes of one access to both chips.
const BANK_WIDTH: u8 = 4;

const STATUS_READY: u8 = 0x80;
const STATUS_ERASE_ERROR: u8 = 0x20;
const STATUS_PROGRAM_ERROR: u8 = 0x10;

const MANUFACTURER: u8 = 0x89;
const DEVICE: u8 = 0x18;

/// The CFI query structure from word 0x10 on (CFI specification 2.1, table 1ff).
const CFI_FIRST: u64 = 0x10;
const CFI: [u8; 0x30] = [
    b'Q', b'R', b'Y', 0x01, 0x00, 0x31, 0x00, 0x00, 0x00, 0x00, 0x00, // command set, tables
    0x45, 0x55, 0x00, 0x00, // supply voltages
    0x07, 0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00, // timeouts
    0x18, 0x02, 0x00, 0x0b, 0x00, // 2^24 bytes a chip, x8/x16, 2^11 bytes a buffer
    0x01, 0x7f, 0x00, 0x00, 0x02, // one region of 128 blocks of 128 KiB
    b'P', b'R', b'I', b'1', b'0', 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
];

/// Bytes of the bank have new contents.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct FlashChanged {
    /// From the start of the bank.
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// A bank cannot be made from these contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("device requires {BANK_SIZE} bytes, block backend provides {len} bytes")]
pub struct FlashSizeError {
    pub len: u64,
}

/// What the chips are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlashMode {
    ReadArray,
    ReadStatus,
    ReadId,
    Query,
    /// The next write programs its value.
    Program,
    /// The next write confirms an erasure (already done, as QEMU does it).
    EraseConfirm,
    /// The next write locks or unlocks a block.
    Lock,
    /// The next write says how many words follow, less one.
    BufferCount,
    /// So many more words follow the next one.
    BufferFill(u16),
    BufferConfirm,
}

/// A buffered write under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlashBuffer {
    /// Where in the bank the buffer's block lies.
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// The chips as plain data, without their contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlashState {
    pub mode: FlashMode,
    pub status: u8,
    pub buffer: Option<FlashBuffer>,
}

impl Default for FlashState {
    fn default() -> Self {
        Self { mode: FlashMode::ReadArray, status: STATUS_READY, buffer: None }
    }
}

/// The device.
#[derive(Debug)]
pub struct Flash {
    state: FlashState,
    array: Arc<FlashArray>,
    read_only: bool,
    backing: Outlet<FlashChanged>,
}

impl Flash {
    /// A bank that holds `array`.
    pub fn new(array: Arc<FlashArray>, read_only: bool, backing: Outlet<FlashChanged>) -> Self {
        Self { state: FlashState::default(), array, read_only, backing }
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        if self.array.store(offset, bytes) {
            self.backing.send(FlashChanged { offset, bytes: bytes.to_vec() });
        }
    }

    /// A read of at most the bank's width.
    fn read_word(&self, offset: u64, width: u8) -> u64 {
        match self.state.mode {
            FlashMode::ReadArray => self.array.word(offset, width),
            FlashMode::ReadId => both(match (offset / u64::from(BANK_WIDTH)) & 0xff {
                0 => MANUFACTURER,
                1 => DEVICE,
                _ => 0,
            }),
            FlashMode::Query => {
                let word = (offset / u64::from(BANK_WIDTH)).checked_sub(CFI_FIRST);
                let byte = word.and_then(|w| CFI.get(usize::try_from(w).ok()?));
                both(byte.copied().unwrap_or(0))
            }
            _ => both(self.state.status),
        }
    }

    /// A write of at most the bank's width.
    fn write_word(&mut self, offset: u64, width: u8, value: u64) {
        let command = value as u8;
        self.state.mode = match self.state.mode {
            FlashMode::ReadArray | FlashMode::ReadStatus | FlashMode::ReadId => {
                self.command(offset, command)
            }
            FlashMode::Program => {
                self.program(offset, width, value);
                FlashMode::ReadStatus
            }
            // Query mode ignores all but its end.
            FlashMode::Query if command != 0xff => FlashMode::Query,
            FlashMode::EraseConfirm if command == 0xd0 => self.ready(),
            FlashMode::Lock if matches!(command, 0xd0 | 0x01) => self.ready(),
            FlashMode::BufferCount => {
                self.state.buffer = None;
                FlashMode::BufferFill(value as u16)
            }
            FlashMode::BufferFill(more) => {
                self.fill(offset, width, value, more);
                match more.checked_sub(1) {
                    Some(more) => FlashMode::BufferFill(more),
                    None => FlashMode::BufferConfirm,
                }
            }
            FlashMode::BufferConfirm
                if command == 0xd0 && self.state.status & STATUS_PROGRAM_ERROR == 0 =>
            {
                if let Some(buffer) = self.state.buffer.take() {
                    self.store(buffer.offset, &buffer.bytes);
                }
                self.ready()
            }
            // Everything else leaves for array mode: 0xff does so by definition, an unknown
            // sequence by QEMU's choice.
            _ => {
                self.state.buffer = None;
                FlashMode::ReadArray
            }
        };
    }

    fn ready(&mut self) -> FlashMode {
        self.state.status |= STATUS_READY;
        FlashMode::ReadStatus
    }

    /// The first write of a sequence.
    fn command(&mut self, offset: u64, command: u8) -> FlashMode {
        match command {
            0x10 | 0x40 => FlashMode::Program,
            0x20 => {
                if self.read_only {
                    self.state.status |= STATUS_ERASE_ERROR;
                } else {
                    let erased = vec![0xff; SECTOR_SIZE as usize];
                    self.store(offset - offset % SECTOR_SIZE, &erased);
                }
                self.state.status |= STATUS_READY;
                FlashMode::EraseConfirm
            }
            0x50 => {
                self.state.status = 0;
                FlashMode::ReadArray
            }
            0x60 => FlashMode::Lock,
            0x70 => FlashMode::ReadStatus,
            0x90 => FlashMode::ReadId,
            0x98 => FlashMode::Query,
            0xe8 => {
                self.state.status |= STATUS_READY;
                FlashMode::BufferCount
            }
            _ => FlashMode::ReadArray,
        }
    }

    fn program(&mut self, offset: u64, width: u8, value: u64) {
        if self.read_only {
            self.state.status |= STATUS_PROGRAM_ERROR;
        } else {
            self.store(offset, &value.to_le_bytes()[..usize::from(width)]);
        }
        self.state.status |= STATUS_READY;
    }

    /// A word of a buffered write; its block is that of the first word, and words beyond it are an
    /// error. So is a write of one word: QEMU begins no block for the last one.
    fn fill(&mut self, offset: u64, width: u8, value: u64, more: u16) {
        self.state.status |= STATUS_READY;
        if self.read_only || more == 0 && self.state.buffer.is_none() {
            self.state.status |= STATUS_PROGRAM_ERROR;
            return;
        }
        let block = offset - offset % BUFFER_SIZE;
        if self.state.buffer.is_none() {
            let bytes = self.array.bytes(block..block + BUFFER_SIZE);
            self.state.buffer = Some(FlashBuffer { offset: block, bytes });
        }
        let at = (offset % BUFFER_SIZE) as usize;
        match &mut self.state.buffer {
            Some(buffer) if buffer.offset == block => {
                let word = &value.to_le_bytes()[..usize::from(width)];
                buffer.bytes[at..at + word.len()].copy_from_slice(word);
            }
            _ => self.state.status |= STATUS_PROGRAM_ERROR,
        }
    }
}

/// An answer of both chips.
fn both(byte: u8) -> u64 {
    u64::from(byte) << 16 | u64::from(byte)
}

impl Device for Flash {
    const SIZE: u64 = BANK_SIZE;

    fn decodes(&self, _: Access, offset: u64, width: u8) -> bool {
        offset.is_multiple_of(width.into())
    }

    /// A double word is two accesses to the bank.
    fn read(&mut self, offset: u64, width: u8) -> u64 {
        match width {
            8 => self.read_word(offset, 4) | self.read_word(offset + 4, 4) << 32,
            4 => self.read_word(offset, 4),
            _ => self.read_word(offset, width) & ((1 << (8 * width)) - 1),
        }
    }

    fn write(&mut self, offset: u64, width: u8, value: u64) {
        self.write_word(offset, width.min(BANK_WIDTH), value);
        if width == 8 {
            self.write_word(offset + 4, BANK_WIDTH, value >> 32);
        }
    }

    fn reset(&mut self) {
        self.state = FlashState::default();
    }

    /// The contents may have come from another machine; by now the backing may be written to.
    fn resume(&mut self) {
        for changed in self.array.take_loaded() {
            if !self.read_only {
                self.backing.send(changed);
            }
        }
    }
}

#[cfg(test)]
mod tests;
