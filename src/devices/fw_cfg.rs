//! fw_cfg: how firmware and kernel learn about the machine, memory-mapped as on `virt` (QEMU's
//! docs/specs/fw_cfg): data register at 0, selector at 8, DMA address at 16, all big-endian.
//!
//! Items are read-only: a DMA write ends with the error bit, as for any item of QEMU's that no
//! device made writable. Descriptors and target addresses come from the guest and are checked by
//! `GuestRam`; one transfer is bounded by its 32-bit length.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Actor, Handler, MessageResponse};

use crate::actors::context::InlineContext;
use crate::actors::message::{MmioFault, MmioRead, MmioWrite, Pause, Reset, Resume, Snapshot};
use crate::machine::memory::GuestRam;

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

/// Size of the register window in bytes.
pub const SIZE: u64 = 0x18;
const SELECTOR: u64 = 0x08;
const DMA: u64 = 0x10;

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
        FwCfg { items, ram, state: FwCfgState::default() }
    }
}

/// The device's state as plain data.
#[derive(Debug, Clone, PartialEq, Eq, MessageResponse)]
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

/// The actor.
#[derive(Debug)]
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    ram: Arc<GuestRam>,
    state: FwCfgState,
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
            Ok(()) => {
                let word = |at: usize| {
                    descriptor[at..at + 4].iter().fold(0, |v, b| v << 8 | u32::from(*b))
                };
                let target = u64::from(word(8)) << 32 | u64::from(word(12));
                self.transfer(word(0), word(4), target)
            }
            Err(_) => CTL_ERROR,
        };
        // Where the descriptor is not in RAM there is nobody to tell.
        let _ = self.ram.write(address, &outcome.to_be_bytes());
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

impl Actor for FwCfg {
    type Context = InlineContext<Self>;
}

impl Handler<MmioRead> for FwCfg {
    type Result = Result<u64, MmioFault>;

    /// The selector is write-only; the DMA register reads as a signature.
    fn handle(
        &mut self,
        MmioRead { offset, width }: MmioRead,
        _: &mut Self::Context,
    ) -> Self::Result {
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Err(MmioFault::Width);
        }
        match offset {
            0 => Ok(self.read_data(width)),
            DMA..SIZE if offset % u64::from(width) == 0 => {
                let mut bytes = [0; 8];
                let from = (offset - DMA) as usize;
                let part = &DMA_SIGNATURE[from..from + usize::from(width)];
                bytes[..part.len()].copy_from_slice(part);
                Ok(u64::from_le_bytes(bytes))
            }
            _ if offset >= SIZE => Err(MmioFault::Unmapped),
            _ => Err(MmioFault::Width),
        }
    }
}

impl Handler<MmioWrite> for FwCfg {
    type Result = Result<(), MmioFault>;

    fn handle(&mut self, write: MmioWrite, _: &mut Self::Context) -> Self::Result {
        let MmioWrite { offset, width, value } = write;
        match (offset, width) {
            // Items were writable through the data register until QEMU 2.4.
            (0, 1 | 2 | 4 | 8) => {}
            (SELECTOR, 2) => self.select((value as u16).swap_bytes()),
            (DMA, 8) => {
                self.state.dma_address = 0;
                self.dma(value.swap_bytes());
            }
            (DMA, 4) => self.state.dma_address = u64::from((value as u32).swap_bytes()) << 32,
            (0x14, 4) => {
                let high = std::mem::take(&mut self.state.dma_address);
                self.dma(high | u64::from((value as u32).swap_bytes()));
            }
            (SIZE.., _) => return Err(MmioFault::Unmapped),
            _ => return Err(MmioFault::Width),
        }
        Ok(())
    }
}

impl Handler<Reset> for FwCfg {
    type Result = ();

    fn handle(&mut self, _: Reset, _: &mut Self::Context) {
        self.state = FwCfgState::default();
    }
}

impl Handler<Pause> for FwCfg {
    type Result = ();

    fn handle(&mut self, _: Pause, _: &mut Self::Context) {}
}

impl Handler<Resume> for FwCfg {
    type Result = ();

    fn handle(&mut self, _: Resume, _: &mut Self::Context) {}
}

impl Handler<Snapshot<FwCfgState>> for FwCfg {
    type Result = FwCfgState;

    fn handle(&mut self, _: Snapshot<FwCfgState>, _: &mut Self::Context) -> FwCfgState {
        self.state.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::cell::DeviceCell;
    use crate::actors::outlet::Outlet;
    use crate::devices::bus::MmioTarget;
    use crate::machine::memory::RAM_BASE;

    const DESCRIPTOR: u64 = RAM_BASE + 0x100;
    const BUFFER: u64 = RAM_BASE + 0x800;
    const RAM_SIZE: u64 = 0x4000;

    fn rig() -> (DeviceCell<FwCfg>, Arc<GuestRam>) {
        let ram = Arc::new(GuestRam::new(RAM_BASE, RAM_SIZE).unwrap());
        let mut builder = FwCfgBuilder::new();
        builder.add_bytes(key::NB_CPUS, 2_u16.to_le_bytes().to_vec()).unwrap();
        builder.add_file("opt/b", b"second".to_vec()).unwrap();
        builder.add_file("etc/a", b"first file".to_vec()).unwrap();
        let device = builder.build(Arc::clone(&ram));
        (DeviceCell::new(device, "fw_cfg", Outlet::Unconnected), ram)
    }

    fn select(device: &DeviceCell<FwCfg>, key: u16) {
        device.write(SELECTOR, 2, key.swap_bytes().into()).unwrap();
    }

    fn bytes(device: &DeviceCell<FwCfg>, key: u16, len: usize) -> Vec<u8> {
        select(device, key);
        (0..len).map(|_| device.read(0, 1).unwrap() as u8).collect()
    }

    #[test]
    fn items_and_the_sorted_directory() {
        let (device, _) = rig();
        assert_eq!(bytes(&device, key::SIGNATURE, 6), b"QEMU\0\0");
        assert_eq!(bytes(&device, key::ID, 4), [3, 0, 0, 0]);
        assert_eq!(bytes(&device, key::NB_CPUS | WRITE_CHANNEL, 2), [2, 0]);
        for absent in [key::RAM_SIZE, 0x3f, 0x40, 0x8000, 0xffff] {
            assert_eq!(bytes(&device, absent, 2), [0, 0], "{absent:#x}");
        }
        let directory = bytes(&device, key::FILE_DIR, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..18], *b"\0\0\0\x0a\0\x20\0\0etc/a\0");
        assert_eq!(directory[68..82], *b"\0\0\0\x06\0\x21\0\0opt/b\0");
        assert_eq!(bytes(&device, 0x21, 7), b"second\0");
        select(&device, 0x20);
        assert_eq!(device.read(0, 4), Ok(u64::from(u32::from_le_bytes(*b"firs"))));
        assert_eq!(device.read(0, 8), Ok(u64::from_le_bytes(*b"t file\0\0")));
        device.call(Reset).unwrap();
        assert_eq!(device.read(0, 2), Ok(u64::from(u16::from_le_bytes(*b"QE"))));
    }

    #[test]
    fn widths_and_holes() {
        let (device, _) = rig();
        for (offset, width, read, write) in [
            (1, 1, false, false),
            (4, 4, false, false),
            (SELECTOR, 2, false, true),
            (SELECTOR, 1, false, false),
            (10, 2, false, false),
            (DMA, 1, true, false),
            (DMA, 4, true, true),
            (0x12, 4, false, false),
            (0x17, 1, true, false),
            (0x18, 1, false, false),
        ] {
            assert_eq!(device.read(offset, width).is_ok(), read, "{offset:#x}/{width}");
            assert_eq!(device.write(offset, width, 0).is_ok(), write, "{offset:#x}/{width}");
        }
        assert_eq!(device.read(DMA, 8), Ok(u64::from_le_bytes(DMA_SIGNATURE)));
        assert_eq!(device.read(0x14, 4), Ok(u64::from(u32::from_le_bytes(*b" CFG"))));
    }

    /// Runs a descriptor; its control word afterwards.
    fn dma(device: &DeviceCell<FwCfg>, ram: &GuestRam, control: u32, len: u32, to: u64) -> u32 {
        let mut descriptor = control.to_be_bytes().to_vec();
        descriptor.extend(len.to_be_bytes());
        descriptor.extend(to.to_be_bytes());
        ram.write(DESCRIPTOR, &descriptor).unwrap();
        device.write(DMA, 8, DESCRIPTOR.swap_bytes()).unwrap();
        u32::from_be(ram.load_u32(DESCRIPTOR).unwrap())
    }

    #[test]
    fn dma_selects_reads_skips_and_pads() {
        let (device, ram) = rig();
        ram.fill(BUFFER, 16, 0xff).unwrap();
        assert_eq!(dma(&device, &ram, 0x20 << 16 | CTL_SELECT | CTL_SKIP, 6, 0), 0);
        assert_eq!(dma(&device, &ram, CTL_READ, 8, BUFFER), 0);
        let mut got = [0; 10];
        ram.read(BUFFER, &mut got).unwrap();
        assert_eq!(got, *b"file\0\0\0\0\xff\xff");
        // The same through the two halves of the register.
        ram.write(DESCRIPTOR, &(0x21 << 16 | CTL_SELECT | CTL_READ).to_be_bytes()).unwrap();
        device.write(DMA, 4, ((DESCRIPTOR >> 32) as u32).swap_bytes().into()).unwrap();
        device.write(0x14, 4, (DESCRIPTOR as u32).swap_bytes().into()).unwrap();
        ram.read(BUFFER, &mut got).unwrap();
        assert_eq!(got, *b"second\0\0\xff\xff");
    }

    #[test]
    fn hostile_descriptors_end_with_the_error_bit() {
        let (device, ram) = rig();
        let select = 0x20 << 16 | CTL_SELECT;
        for (control, len, to, outcome) in [
            (select | CTL_READ, 4, 0, CTL_ERROR),
            (select | CTL_READ, 4, u64::MAX, CTL_ERROR),
            (select | CTL_READ, u32::MAX, BUFFER, CTL_ERROR),
            (select | CTL_READ, 11, RAM_BASE + RAM_SIZE - 10, CTL_ERROR),
            (select | CTL_READ, 10, RAM_BASE + RAM_SIZE - 10, 0),
            (select | CTL_WRITE, 4, BUFFER, CTL_ERROR),
            (select | CTL_SKIP, u32::MAX, 0, 0),
            (select, u32::MAX, 0, 0),
            (0xffff << 16 | CTL_SELECT | CTL_READ, u32::MAX, 0, CTL_ERROR),
        ] {
            assert_eq!(dma(&device, &ram, control, len, to), outcome, "{control:#x} {len:#x}");
        }
        for nowhere in [0, u64::MAX, RAM_BASE + RAM_SIZE - 8] {
            device.write(DMA, 8, nowhere.swap_bytes()).unwrap();
        }
        assert_eq!(u32::from_be(ram.load_u32(RAM_BASE + RAM_SIZE - 8).unwrap()), CTL_ERROR);
    }

    #[test]
    fn the_builder_refuses_what_does_not_fit() {
        let mut builder = FwCfgBuilder::new();
        assert_eq!(builder.add_bytes(key::ID, vec![]), Err(FwCfgError::Key(key::ID)));
        assert_eq!(builder.add_bytes(0x20, vec![]), Err(FwCfgError::Key(0x20)));
        builder.add_bytes(key::UUID, vec![0; 16]).unwrap();
        assert_eq!(builder.add_bytes(key::UUID, vec![]), Err(FwCfgError::DuplicateKey(2)));
        let long = "x".repeat(56);
        assert!(matches!(builder.add_file(&long, vec![]), Err(FwCfgError::NameTooLong { .. })));
        builder.add_file(&long[1..], vec![]).unwrap();
        let again = builder.add_file(&long[1..], vec![]);
        assert!(matches!(again, Err(FwCfgError::DuplicateName(_))));
        for i in 1..32 {
            builder.add_file(&format!("opt/{i}"), vec![]).unwrap();
        }
        let over = builder.add_file("opt/32", vec![]);
        assert!(matches!(over, Err(FwCfgError::TooManyFiles { .. })));
    }
}
