//! A guest's driver for tests: lays rings out in guest memory and drives a device's registers with
//! the messages a vCPU sends.

use std::sync::Arc;

use super::device::VirtioDevice;
use super::transport::{MmioSlot, RingOptions, VirtioMmio};
use crate::actors::cell::DeviceCell;
use crate::actors::message::{IrqLevel, MmioRead, MmioWrite, Resume};
use crate::actors::outlet::Outlet;
use crate::actors::probe::Probe;
use crate::devices::shell::Shell;
use crate::machine::memory::{GuestRam, RAM_BASE};
use crate::migration::vmstate::Section;
use crate::migration::vmstate::tests::migrate;

pub(super) const RAM_SIZE: u64 = 0x40_0000;
/// Rings of queue `n` are at `RINGS + n * RING_STRIDE`.
const RINGS: u64 = RAM_BASE + 0x1_0000;
const RING_STRIDE: u64 = 0x4000;
const QUEUE_SIZE: u16 = 64;
/// Free for the tests' data.
pub(super) const DATA: u64 = RAM_BASE + 0x10_0000;

pub(super) const WRITE: u16 = 2;
const NEXT: u16 = 1;

/// A driver and the device it drives.
pub(super) struct Driver<D: VirtioDevice> {
    pub(super) cell: DeviceCell<Shell<VirtioMmio<D>>>,
    pub(super) ram: Arc<GuestRam>,
    pub(super) irq: Probe<IrqLevel>,
    legacy: bool,
    /// Per queue: next free descriptor, avail index, used index seen.
    rings: Vec<(u16, u16, u16)>,
}

impl<D: VirtioDevice> Driver<D> {
    pub(super) fn new(legacy: bool, device: D) -> Self {
        let ram = Arc::new(GuestRam::new(RAM_BASE, RAM_SIZE).unwrap());
        let irq = Probe::new();
        let queues = device.queues().len().min(8);
        let slot = MmioSlot { legacy, ram: Arc::clone(&ram), irq: irq.outlet(), line: 7 };
        let mmio = VirtioMmio::new(device, RingOptions::default(), slot);
        let cell = DeviceCell::new(Shell(mmio), D::NAME, Outlet::Unconnected);
        Self { cell, ram, irq, legacy, rings: vec![(0, 0, 0); queues] }
    }

    /// Move to another machine with the same memory, whose device is `device`, and run there.
    pub(super) fn move_to(&mut self, device: D) -> Section {
        let ram = Arc::clone(&self.ram);
        let slot = MmioSlot { legacy: self.legacy, ram, irq: self.irq.outlet(), line: 7 };
        let mmio = VirtioMmio::new(device, RingOptions::default(), slot);
        let to = DeviceCell::new(Shell(mmio), D::NAME, Outlet::Unconnected);
        let section = migrate(&self.cell, &to);
        self.cell = to;
        self.irq.take();
        self.cell.call(Resume).unwrap();
        section
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        self.read_sized(offset, 4) as u32
    }

    pub(super) fn read_sized(&self, offset: u64, width: u8) -> u64 {
        self.cell.call(MmioRead { offset, width }).unwrap().unwrap()
    }

    pub(super) fn write(&self, offset: u64, value: u32) {
        let value = u64::from(value);
        self.cell.call(MmioWrite { offset, width: 4, value }).unwrap().unwrap();
    }

    fn rings_of(queue: usize) -> u64 {
        RINGS + queue as u64 * RING_STRIDE
    }

    fn avail(queue: usize) -> u64 {
        Self::rings_of(queue) + 16 * u64::from(QUEUE_SIZE)
    }

    /// The used ring is on the next page in both layouts.
    fn used(queue: usize) -> u64 {
        Self::rings_of(queue) + 0x1000
    }

    /// Reset, negotiate `wanted` of the features on offer, lay the queues out, DRIVER_OK. Returns
    /// the features on offer.
    pub(super) fn start(&mut self, wanted: u64) -> u64 {
        if self.legacy {
            // GuestPageSize comes first, as Linux writes it: it outlives the driver's reset.
            self.write(0x28, 4096);
        }
        self.write(0x70, 0);
        self.write(0x70, 3);
        let mut offered = 0;
        for half in 0..2 {
            self.write(0x14, half);
            offered |= u64::from(self.read(0x10)) << (32 * half);
            self.write(0x24, half);
            self.write(0x20, (wanted >> (32 * half)) as u32);
        }
        if !self.legacy {
            self.write(0x70, 11);
            assert_eq!(self.read(0x70), 11, "FEATURES_OK stays");
        }
        for queue in 0..self.rings.len() {
            self.rings[queue] = (0, 0, 0);
            self.ram.fill(Self::rings_of(queue), RING_STRIDE, 0).unwrap();
            self.write(0x30, queue as u32);
            assert_eq!(self.read(0x34), 1024);
            self.write(0x38, u32::from(QUEUE_SIZE));
            if self.legacy {
                self.write(0x3c, 4096);
                self.write(0x40, (Self::rings_of(queue) >> 12) as u32);
            } else {
                let parts = [
                    (0x80, Self::rings_of(queue)),
                    (0x90, Self::avail(queue)),
                    (0xa0, Self::used(queue)),
                ];
                for (register, address) in parts {
                    self.write(register, address as u32);
                    self.write(register + 4, (address >> 32) as u32);
                }
                self.write(0x44, 1);
            }
        }
        self.write(0x70, if self.legacy { 7 } else { 15 });
        offered
    }

    /// Put a chain of (address, length, flags) into the available ring; returns its head.
    pub(super) fn offer(&mut self, queue: usize, chain: &[(u64, u32, u16)]) -> u16 {
        let (free, index, _) = &mut self.rings[queue];
        let head = *free;
        for (i, &(addr, len, flags)) in chain.iter().enumerate() {
            let at = Self::rings_of(queue) + 16 * u64::from(*free);
            *free = (*free + 1) % QUEUE_SIZE;
            let more = if i + 1 < chain.len() { NEXT } else { 0 };
            self.ram.store_u64(at, addr).unwrap();
            self.ram.store_u32(at + 8, len).unwrap();
            self.ram.store_u16(at + 12, flags | more).unwrap();
            self.ram.store_u16(at + 14, *free).unwrap();
        }
        let slot = Self::avail(queue) + 4 + 2 * u64::from(*index % QUEUE_SIZE);
        self.ram.store_u16(slot, head).unwrap();
        *index += 1;
        self.ram.store_u16(Self::avail(queue) + 2, *index).unwrap();
        head
    }

    pub(super) fn kick(&self, queue: usize) {
        self.write(0x50, queue as u32);
    }

    /// Handle what back ends posted, then the (head, length) pairs that were used since last time.
    pub(super) fn used_now(&mut self, queue: usize) -> Vec<(u16, u32)> {
        self.cell.drain();
        let base = Self::used(queue);
        let index = self.ram.load_u16(base + 2).unwrap();
        let (_, _, seen) = &mut self.rings[queue];
        let mut used = Vec::new();
        while *seen != index {
            let slot = base + 4 + 8 * u64::from(*seen % QUEUE_SIZE);
            let head = self.ram.load_u32(slot).unwrap() as u16;
            used.push((head, self.ram.load_u32(slot + 4).unwrap()));
            *seen = seen.wrapping_add(1);
        }
        used
    }

    /// As `used_now`, waiting for other threads until there are `count`.
    pub(super) fn used_within(&mut self, queue: usize, count: usize) -> Vec<(u16, u32)> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut used = Vec::new();
        while used.len() < count {
            assert!(std::time::Instant::now() < deadline, "{} of {count} used", used.len());
            used.extend(self.used_now(queue));
            std::thread::yield_now();
        }
        used
    }

    /// Break queue 0: an available index that jumps.
    pub(super) fn jump(&self) {
        self.ram.store_u16(Self::avail(0) + 2, 0x8000).unwrap();
        self.kick(0);
    }

    /// Guest bytes.
    pub(super) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read(addr, &mut bytes).unwrap();
        bytes
    }

    pub(super) fn levels(&self) -> Vec<bool> {
        self.irq.take().into_iter().map(|irq| irq.level).collect()
    }
}
