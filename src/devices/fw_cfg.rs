//! fw_cfg: how firmware and kernel learn about the machine, memory-mapped as on `virt` (QEMU's
//! docs/specs/fw_cfg): data register at 0, selector at 8, DMA address at 16, all big-endian.
//!
//! Items are read-only: a DMA write ends with the error bit, as for any item of QEMU's that no
//! device made writable. Descriptors and target addresses come from the guest and are checked by
//! `GuestRam`; one transfer is bounded by its 32-bit length.

mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Addr, Handler};

use super::shell::{Access, Device, Shell};
use crate::actors::message::PagesArrived;
use crate::machine::memory::{GuestRam, RamError};
use crate::machine::presence::Wake;

/// Keys of the items that the specification fixes.
pub mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NOGRAPHIC: u16 = 0x04;
    pub const NB_CPUS: u16 = 0x05;
    pub const KERNEL_ADDR: u16 = 0x07;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_ADDR: u16 = 0x0a;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const FILE_DIR: u16 = 0x19;
    pub const FILE_FIRST: u16 = 0x20;
}

const SIZE: u64 = 0x18;
const SELECTOR: u64 = 0x08;
const DMA: u64 = 0x10;
const DMA_LOW: u64 = 0x14;

/// Files that fit between `FILE_FIRST` and the end of the key space.
const FILE_SLOTS: usize = 32;
/// A file's name in the directory, with its terminating zero.
const NAME_SIZE: usize = 56;
/// Key bit of a legacy write access; selects the same item.
const WRITE_CHANNEL: u16 = 0x4000;
const ARCH_LOCAL: u16 = 0x8000;
/// What a read of the DMA address register returns.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// Traditional interface and DMA.
const FEATURES: u32 = 0b11;

const CTL_ERROR: u32 = 0x01;
const CTL_READ: u32 = 0x02;
const CTL_SKIP: u32 = 0x04;
const CTL_SELECT: u32 = 0x08;
const CTL_WRITE: u32 = 0x10;

/// An item that cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FwCfgError {
    #[error("fw_cfg key {0:#x} is not that of a single item")]
    Key(u16),
    #[error("duplicate fw_cfg key {0:#x}")]
    DuplicateKey(u16),
    #[error("fw_cfg file name \"{name}\" is too long (max. {max} char)", max = NAME_SIZE - 1)]
    NameTooLong { name: String },
    #[error("duplicate fw_cfg file name: {0}")]
    DuplicateName(String),
    #[error("fw_cfg file \"{name}\" is too large ({len} bytes)")]
    TooLarge { name: String, len: usize },
    #[error("no room for fw_cfg file \"{name}\": at most {FILE_SLOTS} files")]
    TooManyFiles { name: String },
}

/// Collects the items of one machine.
#[derive(Debug, Default)]
pub struct FwCfgBuilder {
    items: BTreeMap<u16, Vec<u8>>,
    files: BTreeMap<String, Vec<u8>>,
}

impl FwCfgBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Add the item of a fixed key. Numbers are little-endian.
    pub fn add_bytes(&mut self, key: u16, data: Vec<u8>) -> Result<(), FwCfgError> {
        if key & !ARCH_LOCAL >= key::FILE_FIRST
            || matches!(key, key::SIGNATURE | key::ID | key::FILE_DIR)
        {
            return Err(FwCfgError::Key(key));
        }
        match self.items.insert(key, data) {
            None => Ok(()),
            Some(_) => Err(FwCfgError::DuplicateKey(key)),
        }
    }

    /// Add a named file (`etc/…`, or `opt/…` of `-fw_cfg`).
    pub fn add_file(&mut self, name: &str, data: Vec<u8>) -> Result<(), FwCfgError> {
        let name = name.to_owned();
        if name.len() >= NAME_SIZE {
            Err(FwCfgError::NameTooLong { name })
        } else if self.files.contains_key(&name) {
            Err(FwCfgError::DuplicateName(name))
        } else if u32::try_from(data.len()).is_err() {
            Err(FwCfgError::TooLarge { name, len: data.len() })
        } else if self.files.len() == FILE_SLOTS {
            Err(FwCfgError::TooManyFiles { name })
        } else {
            self.files.insert(name, data);
            Ok(())
        }
    }

    /// The device; its DMA goes to `ram`.
    pub fn build(self, ram: Arc<GuestRam>) -> FwCfg {
        let mut items = self.items;
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        // Names sort the directory, and the keys follow it.
        for (key, (name, data)) in (key::FILE_FIRST..).zip(self.files) {
            directory.extend((data.len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(name.as_bytes());
            directory.resize(directory.len() + NAME_SIZE - name.len(), 0);
            items.insert(key, data);
        }
        items.insert(key::SIGNATURE, b"QEMU".to_vec());
        items.insert(key::ID, FEATURES.to_le_bytes().to_vec());
        items.insert(key::FILE_DIR, directory);
        FwCfg { items, ram, state: FwCfgState::default(), postponed: None, arrived: None }
    }
}

/// The device's state as plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FwCfgState {
    /// Selected key; `None` when it was none of the key space's.
    pub selected: Option<u16>,
    /// Next byte of the selected item.
    pub offset: usize,
    /// Descriptor address as written so far.
    pub dma_address: u64,
}

impl Default for FwCfgState {
    fn default() -> Self {
        Self { selected: Some(key::SIGNATURE), offset: 0, dma_address: 0 }
    }
}

/// The device.
#[derive(Debug)]
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    ram: Arc<GuestRam>,
    state: FwCfgState,
    /// A descriptor that waits for guest memory to arrive (during a postcopy).
    postponed: Option<u64>,
    /// Called when some has.
    arrived: Option<Wake>,
}

impl FwCfg {
    fn select(&mut self, key: u16) {
        let valid = key & !(WRITE_CHANNEL | ARCH_LOCAL) < key::FILE_FIRST + FILE_SLOTS as u16;
        self.state.selected = valid.then_some(key & !WRITE_CHANNEL);
        self.state.offset = 0;
    }

    /// Bytes of the selected item from the current offset on.
    fn rest(&self) -> &[u8] {
        let item = self.state.selected.and_then(|key| self.items.get(&key));
        item.and_then(|data| data.get(self.state.offset..)).unwrap_or_default()
    }

    /// The next `width` bytes in the order of the string, zeroes after its end. The register is
    /// big-endian, which on the little-endian bus puts the first byte lowest.
    fn read_data(&mut self, width: u8) -> u64 {
        let mut bytes = [0; 8];
        let rest = self.rest();
        let len = rest.len().min(width.into());
        bytes[..len].copy_from_slice(&rest[..len]);
        self.state.offset += len;
        u64::from_le_bytes(bytes)
    }

    /// Run the descriptor at `address`: control, length, address, all big-endian.
    fn dma(&mut self, address: u64) {
        let mut descriptor = [0; 16];
        let outcome = match self.ram.read(address, &mut descriptor) {
            Err(RamError::Missing { addr, len }) => return self.postpone(address, addr, len),
            Ok(()) => {
                let word = |at: usize| {
                    descriptor[at..at + 4].iter().fold(0, |v, b| v << 8 | u32::from(*b))
                };
                let target = u64::from(word(8)) << 32 | u64::from(word(12));
                if word(0) & CTL_READ != 0
                    && let Err(RamError::Missing { addr, len }) =
                        self.ram.host(target, word(4).into())
                {
                    return self.postpone(address, addr, len);
                }
                self.transfer(word(0), word(4), target)
            }
            Err(_) => CTL_ERROR,
        };
        // Where the descriptor is not in RAM there is nobody to tell.
        let _ = self.ram.write(address, &outcome.to_be_bytes());
    }

    /// Run the descriptor at `address` once these bytes have arrived; nothing of it has been done.
    fn postpone(&mut self, address: u64, addr: u64, len: u64) {
        self.postponed = Some(address);
        let arrived = self.arrived.as_ref();
        if self.ram.presence().request(self.ram.pages(addr, len), arrived) == Ok(true) {
            arrived.into_iter().for_each(Wake::wake);
        }
    }

    /// The control word to leave behind.
    fn transfer(&mut self, control: u32, length: u32, target: u64) -> u32 {
        if control & CTL_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        if length == 0 || control & (CTL_READ | CTL_WRITE | CTL_SKIP) == 0 {
            return 0;
        }
        let rest = self.rest();
        let len = rest.len().min(length as usize);
        let result = if control & CTL_READ != 0 {
            let zeroes = u64::from(length) - len as u64;
            self.ram.write(target, &rest[..len]).and_then(|()| {
                match target.checked_add(len as u64) {
                    Some(after) if zeroes != 0 => self.ram.fill(after, zeroes, 0),
                    _ => Ok(()),
                }
            })
        } else if control & CTL_WRITE != 0 {
            return CTL_ERROR;
        } else {
            Ok(())
        };
        self.state.offset += len;
        if result.is_err() { CTL_ERROR } else { 0 }
    }
}

impl Device for FwCfg {
    const SIZE: u64 = SIZE;

    /// The selector is write-only; the DMA register reads in any part.
    fn decodes(&self, access: Access, offset: u64, width: u8) -> bool {
        match (access, offset) {
            (_, 0) => true,
            (Access::Read, DMA..) => offset.is_multiple_of(width.into()),
            (Access::Read, _) => false,
            (Access::Write, _) => {
                matches!((offset, width), (SELECTOR, 2) | (DMA, 4 | 8) | (DMA_LOW, 4))
            }
        }
    }

    /// The DMA register reads as a signature.
    fn read(&mut self, offset: u64, width: u8) -> u64 {
        let Some(from) = offset.checked_sub(DMA) else { return self.read_data(width) };
        let signature = DMA_SIGNATURE.iter().skip(from as usize).take(width.into());
        signature.rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn write(&mut self, offset: u64, width: u8, value: u64) {
        match (offset, width) {
            (SELECTOR, _) => self.select((value as u16).swap_bytes()),
            (DMA, 8) => {
                self.state.dma_address = 0;
                self.dma(value.swap_bytes());
            }
            (DMA, _) => self.state.dma_address = u64::from((value as u32).swap_bytes()) << 32,
            (DMA_LOW, _) => {
                let high = std::mem::take(&mut self.state.dma_address);
                self.dma(high | u64::from((value as u32).swap_bytes()));
            }
            // Items were writable through the data register until QEMU 2.4.
            _ => {}
        }
    }

    fn started(&mut self, address: &Addr<Shell<Self>>) {
        let told = address.clone();
        self.arrived = Some(Wake::new(move || told.do_send(PagesArrived)));
    }

    fn reset(&mut self) {
        self.state = FwCfgState::default();
        self.postponed = None;
    }
}

impl Handler<PagesArrived> for Shell<FwCfg> {
    type Result = ();

    fn handle(&mut self, _: PagesArrived, _: &mut Self::Context) {
        if let Some(address) = self.0.postponed.take() {
            self.0.dma(address);
        }
    }
}

#[cfg(test)]
mod tests;
