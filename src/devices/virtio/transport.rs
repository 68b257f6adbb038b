//! The MMIO transport (virtio 1.2 §4.2): the modern register interface, version 2, and the legacy
//! one, version 1, which is what QEMU's `virt` offers unless told otherwise
//! (`virtio-mmio.force-legacy`).
//!
//! Long because both interfaces share one register file.

mod state;

use std::sync::Arc;

use actix::{Addr, Handler};
use virtio_bindings::virtio_config::{
    VIRTIO_F_ANY_LAYOUT, VIRTIO_F_NOTIFY_ON_EMPTY, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::device::{
    STATUS_DRIVER_OK, STATUS_FEATURES_OK, STATUS_NEEDS_RESET, VirtioDevice, VirtioState,
    guest_error,
};
use super::queue::{QUEUE_SIZE_MAX, Virtqueue};
use crate::actors::message::{IrqLevel, PagesArrived};
use crate::actors::outlet::Outlet;
use crate::devices::shell::{Access, Device, Shell};
use crate::machine::memory::GuestRam;
use crate::machine::presence::Wake;
use crate::trace;

/// Bytes that a slot decodes (its device-tree node claims 0x1000).
pub const MMIO_SIZE: u64 = 0x200;
/// Address of the first slot on `virt`.
pub const MMIO_BASE: u64 = 0x1000_1000;
/// Distance between slots.
pub const MMIO_STRIDE: u64 = 0x1000;
/// Slots on `virt`; slot `n` has interrupt `n + 1`.
pub const MMIO_SLOTS: u32 = 8;

const MAGIC: u32 = 0x7472_6976; // "virt"
const VENDOR: u32 = 0x554d_4551; // "QEMU"
const CONFIG: u64 = 0x100;
/// Queue selectors at or above this are ignored.
const QUEUES_MAX: u32 = 1024;

/// Register offsets (virtio 1.2 §4.2.2, §4.2.4).
mod reg {
    pub(super) const MAGIC: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x04;
    pub(super) const DEVICE_ID: u64 = 0x08;
    pub(super) const VENDOR_ID: u64 = 0x0c;
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const GUEST_PAGE_SIZE: u64 = 0x28;
    pub(super) const QUEUE_SEL: u64 = 0x30;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x34;
    pub(super) const QUEUE_NUM: u64 = 0x38;
    pub(super) const QUEUE_ALIGN: u64 = 0x3c;
    pub(super) const QUEUE_PFN: u64 = 0x40;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const INTERRUPT_ACK: u64 = 0x64;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x80;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x84;
    pub(super) const QUEUE_AVAIL_LOW: u64 = 0x90;
    pub(super) const QUEUE_AVAIL_HIGH: u64 = 0x94;
    pub(super) const QUEUE_USED_LOW: u64 = 0xa0;
    pub(super) const QUEUE_USED_HIGH: u64 = 0xa4;
    pub(super) const SHM_SEL: u64 = 0xac;
    pub(super) const SHM_LEN_LOW: u64 = 0xb0;
    pub(super) const SHM_LEN_HIGH: u64 = 0xb4;
    pub(super) const QUEUE_RESET: u64 = 0xc0;
    pub(super) const CONFIG_GENERATION: u64 = 0xfc;
}

/// Ring features that every device offers unless its properties say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingOptions {
    pub indirect_desc: bool,
    pub event_idx: bool,
    /// Legacy only.
    pub notify_on_empty: bool,
    /// Legacy only; a modern device has it without saying.
    pub any_layout: bool,
    /// Modern only.
    pub queue_reset: bool,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            indirect_desc: true,
            event_idx: true,
            notify_on_empty: true,
            any_layout: true,
            queue_reset: true,
        }
    }
}

/// Where a device is plugged in.
#[derive(Debug, Clone)]
pub struct MmioSlot {
    /// Version 1 of the register interface, as QEMU's `force-legacy=true`.
    pub legacy: bool,
    pub ram: Arc<GuestRam>,
    pub irq: Outlet<IrqLevel>,
    /// Number of the interrupt line.
    pub line: u32,
}

/// A slot with a device in it.
#[derive(Debug)]
pub struct VirtioMmio<D> {
    pub(super) device: D,
    pub(super) state: VirtioState,
    pub(super) legacy: bool,
    /// Features on offer.
    pub(super) offered: u64,
    /// What the properties say, of either interface.
    pub(super) rings: RingOptions,
    /// The driver has said which features it wants.
    pub(super) negotiated: bool,
    device_features_sel: u32,
    driver_features_sel: u32,
    /// Modern: what the driver wrote, taken over at FEATURES_OK.
    driver_features: [u32; 2],
    page_shift: u32,
    pub(super) queue_sel: usize,
    /// Legacy: alignment of the selected queue's used ring, by queue.
    pub(super) aligns: Vec<u64>,
    paused: bool,
    /// Queues notified while paused.
    held: Vec<usize>,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// Plug `device` into `slot`.
    pub fn new(device: D, rings: RingOptions, slot: MmioSlot) -> Self {
        let MmioSlot { legacy, ram, irq, line } = slot;
        let bit = |on: bool, bit: u32| u64::from(on) << bit;
        let mut offered = device.features()
            | bit(rings.indirect_desc, VIRTIO_RING_F_INDIRECT_DESC)
            | bit(rings.event_idx, VIRTIO_RING_F_EVENT_IDX);
        offered |= if legacy {
            device.legacy_features()
                | bit(rings.notify_on_empty, VIRTIO_F_NOTIFY_ON_EMPTY)
                | bit(rings.any_layout && D::ANY_LAYOUT, VIRTIO_F_ANY_LAYOUT)
        } else {
            bit(true, VIRTIO_F_VERSION_1) | bit(rings.queue_reset, VIRTIO_F_RING_RESET)
        };
        let queues = fresh_queues(&device);
        let aligns = vec![4096; queues.len()];
        Self {
            state: VirtioState::new(ram, irq, line, D::NAME, queues),
            device,
            legacy,
            offered,
            rings,
            negotiated: false,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: [0; 2],
            page_shift: 0,
            queue_sel: 0,
            aligns,
            paused: false,
            held: Vec::new(),
        }
    }

    /// The device, for the handlers of its back ends' messages.
    pub fn parts(&mut self) -> (&mut D, &mut VirtioState) {
        (&mut self.device, &mut self.state)
    }

    fn selected(&mut self) -> Option<&mut Virtqueue> {
        self.state.queues.get_mut(self.queue_sel)
    }

    /// The driver's reset, a zero in `Status`: registers, rings, device. Not GuestPageSize, which a
    /// legacy driver may write once and before the reset, as Linux does.
    fn driver_reset(&mut self) {
        self.state.reset(fresh_queues(&self.device));
        self.aligns.fill(4096);
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = [0; 2];
        self.queue_sel = 0;
        self.negotiated = false;
        self.held.clear();
        self.device.reset(&mut self.state);
    }

    /// Let the device look at `queue`, now or when the machine runs again.
    pub(super) fn notify(&mut self, queue: usize) {
        trace::virtio_queue_notify(D::NAME, queue);
        if self.state.is_broken() || !self.state.queues.get(queue).is_some_and(|q| q.ready) {
            return;
        }
        if self.paused {
            if !self.held.contains(&queue) {
                self.held.push(queue);
            }
        } else {
            self.device.notify(queue, &mut self.state);
        }
    }

    fn negotiate(&mut self, accepted: u64) {
        if accepted & !self.offered != 0 {
            guest_error!("{}: features accepted that were not offered: {accepted:#x}", D::NAME);
        }
        self.state.features = accepted & self.offered;
        self.negotiated = true;
    }

    fn write_status(&mut self, value: u8) {
        trace::virtio_set_status(D::NAME, value);
        if value == 0 {
            self.driver_reset();
            return;
        }
        // Once: later writes of the status repeat the bit (virtio 1.2 3.1.1).
        if !self.legacy && value & !self.state.status & STATUS_FEATURES_OK != 0 {
            let [low, high] = self.driver_features.map(u64::from);
            self.negotiate(low | high << 32);
        }
        let was_ok = self.state.is_driver_ok();
        // Only a reset clears NEEDS_RESET.
        self.state.status = value | self.state.status & STATUS_NEEDS_RESET;
        if !was_ok && value & STATUS_DRIVER_OK != 0 {
            self.device.driver_ok(&mut self.state);
        }
    }

    /// A naturally aligned access of 1, 2 or 4 bytes.
    fn read_register(&self, offset: u64, width: u8) -> u32 {
        if offset >= CONFIG {
            return self.read_config((offset - CONFIG) as usize, usize::from(width));
        }
        if width != 4 {
            guest_error!("virtio-mmio: wrong size access to register {offset:#x}");
            return 0;
        }
        let (legacy, state) = (self.legacy, &self.state);
        let queue = state.queues.get(self.queue_sel);
        match offset {
            reg::MAGIC => MAGIC,
            reg::VERSION => version(legacy),
            reg::DEVICE_ID => D::ID,
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES if self.device_features_sel == 0 => self.offered as u32,
            reg::DEVICE_FEATURES => (self.offered >> 32) as u32,
            reg::QUEUE_NUM_MAX => queue.map_or(0, |_| u32::from(QUEUE_SIZE_MAX)),
            reg::QUEUE_PFN if legacy => queue.map_or(0, |q| (q.desc >> self.page_shift) as u32),
            reg::QUEUE_READY if !legacy => queue.map_or(0, |q| u32::from(q.ready)),
            reg::INTERRUPT_STATUS => u32::from(state.isr),
            reg::STATUS => u32::from(state.status),
            reg::CONFIG_GENERATION if !legacy => state.generation,
            // No shared memory regions: a length of all ones says so.
            reg::SHM_LEN_LOW | reg::SHM_LEN_HIGH => u32::MAX,
            // A queue is reset by the time the write returns.
            reg::QUEUE_RESET if !legacy => 0,
            _ => {
                guest_error!("virtio-mmio: read of write-only or bad register {offset:#x}");
                0
            }
        }
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u32) {
        if offset >= CONFIG {
            self.write_config((offset - CONFIG) as usize, usize::from(width), value);
            return;
        }
        if width != 4 {
            guest_error!("virtio-mmio: wrong size access to register {offset:#x}");
            return;
        }
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES if !self.legacy => {
                if self.state.status & STATUS_FEATURES_OK != 0 {
                    guest_error!("{}: features written after FEATURES_OK", D::NAME);
                    return;
                }
                let half = usize::from(self.driver_features_sel != 0);
                self.driver_features[half] = value;
            }
            reg::DRIVER_FEATURES if self.driver_features_sel == 0 => {
                self.negotiate(u64::from(value));
            }
            // Linux writes them none the less; there are only 32.
            reg::DRIVER_FEATURES => guest_error!("{}: legacy features above 32", D::NAME),
            reg::QUEUE_SEL if value < QUEUES_MAX => self.queue_sel = value as usize,
            reg::QUEUE_NUM => self.write_queue_num(value),
            reg::QUEUE_NOTIFY => self.notify(value as usize),
            reg::INTERRUPT_ACK => {
                self.state.isr &= !(value as u8);
                self.state.update_irq();
            }
            reg::STATUS => self.write_status(value as u8),
            // There is no shared memory region to select.
            reg::SHM_SEL => (),
            _ if self.legacy => self.write_legacy(offset, value),
            _ => self.write_modern(offset, value),
        }
    }

    fn write_queue_num(&mut self, value: u32) {
        let Some(queue) = self.selected() else { return };
        match u16::try_from(value) {
            Ok(size) if (1..=QUEUE_SIZE_MAX).contains(&size) && !queue.ready => queue.size = size,
            _ => guest_error!("{}: queue size {value} refused", D::NAME),
        }
    }

    fn write_legacy(&mut self, offset: u64, value: u32) {
        match offset {
            reg::GUEST_PAGE_SIZE => {
                self.page_shift = if value == 0 { 0 } else { value.trailing_zeros() };
            }
            reg::QUEUE_ALIGN => match self.aligns.get_mut(self.queue_sel) {
                Some(align) if value.is_power_of_two() => *align = u64::from(value),
                _ => guest_error!("{}: queue alignment {value} refused", D::NAME),
            },
            // As in QEMU, taking one queue away resets the device.
            reg::QUEUE_PFN if value == 0 => self.driver_reset(),
            reg::QUEUE_PFN => {
                let base = u64::from(value) << self.page_shift;
                let align = self.aligns.get(self.queue_sel).copied().unwrap_or(4096);
                let selected = self.queue_sel;
                if let Some(queue) = self.selected() {
                    let size = queue.size;
                    queue.reset(size);
                    queue.lay_out(base, align);
                    queue.ready = true;
                    self.device.queue_reset(selected);
                }
            }
            _ => guest_error!("virtio-mmio: write to read-only or bad register {offset:#x}"),
        }
    }

    fn write_modern(&mut self, offset: u64, value: u32) {
        let preferred = self.device.queues().get(self.queue_sel).copied().unwrap_or(0);
        let Some(queue) = self.selected() else {
            guest_error!("{}: write to register {offset:#x} of a queue that is not", D::NAME);
            return;
        };
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            reg::QUEUE_READY => queue.ready = value & 1 != 0,
            reg::QUEUE_RESET if value == 1 => {
                queue.reset(preferred);
                self.device.queue_reset(self.queue_sel);
            }
            _ if queue.ready => {
                guest_error!("{}: queue laid out anew while it is ready", D::NAME);
            }
            reg::QUEUE_DESC_LOW => queue.desc = low(queue.desc),
            reg::QUEUE_DESC_HIGH => queue.desc = high(queue.desc),
            reg::QUEUE_AVAIL_LOW => queue.avail = low(queue.avail),
            reg::QUEUE_AVAIL_HIGH => queue.avail = high(queue.avail),
            reg::QUEUE_USED_LOW => queue.used = low(queue.used),
            reg::QUEUE_USED_HIGH => queue.used = high(queue.used),
            _ => guest_error!("virtio-mmio: write to read-only or bad register {offset:#x}"),
        }
    }

    fn read_config(&self, offset: usize, width: usize) -> u32 {
        let config = self.device.config();
        let mut raw = [0; 4];
        match (config.get(offset..offset + width), raw.get_mut(..width)) {
            (Some(from), Some(into)) => into.copy_from_slice(from),
            _ => raw = [0xff; 4],
        }
        u32::from_le_bytes(raw)
    }

    fn write_config(&mut self, offset: usize, width: usize, value: u32) {
        let raw = value.to_le_bytes();
        if let Some(bytes) = raw.get(..width)
            && offset + width <= self.device.config().len()
        {
            self.device.write_config(offset, bytes, &mut self.state);
        }
    }
}

fn fresh_queues<D: VirtioDevice>(device: &D) -> Vec<Virtqueue> {
    device.queues().into_iter().map(Virtqueue::new).collect()
}

fn version(legacy: bool) -> u32 {
    if legacy { 1 } else { 2 }
}

/// Split an access into naturally aligned ones of at most four bytes, as the bus does for a device
/// with 32-bit registers. `f(offset, width, bit position in the value)`.
fn split(offset: u64, width: u8, mut f: impl FnMut(u64, u8, u32)) {
    let mut done = 0;
    while done < width {
        let at = offset + u64::from(done);
        let natural = 1u8 << (at | 4).trailing_zeros();
        let mut piece = natural;
        while piece > width - done {
            piece /= 2;
        }
        f(at, piece, u32::from(done) * 8);
        done += piece;
    }
}

fn width_mask(width: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(width))
}

impl<D: VirtioDevice> Device for VirtioMmio<D> {
    const SIZE: u64 = MMIO_SIZE;

    fn decodes(&self, _: Access, _: u64, _: u8) -> bool {
        true
    }

    fn read(&mut self, offset: u64, width: u8) -> u64 {
        let mut value = 0;
        split(offset, width, |offset, width, shift| {
            value |= u64::from(self.read_register(offset, width) & width_mask(width)) << shift;
        });
        value
    }

    fn write(&mut self, offset: u64, width: u8, value: u64) {
        split(offset, width, |offset, width, shift| {
            self.write_register(offset, width, (value >> shift) as u32 & width_mask(width));
        });
    }

    fn started(&mut self, address: &Addr<Shell<Self>>) {
        let told = address.clone();
        self.state.arrived = Some(Wake::new(move || told.do_send(PagesArrived)));
        self.device.started(address.clone());
    }

    fn reset(&mut self) {
        self.page_shift = 0;
        self.driver_reset();
    }

    fn pause(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
        self.device.resumed(&mut self.state);
        for queue in std::mem::take(&mut self.held) {
            self.notify(queue);
        }
    }
}

impl<D: VirtioDevice> Handler<PagesArrived> for Shell<VirtioMmio<D>> {
    type Result = ();

    fn handle(&mut self, _: PagesArrived, _: &mut Self::Context) {
        for queue in 0..self.0.state.queues.len() {
            self.0.notify(queue);
        }
    }
}

/// A slot with nothing in it: device ID 0, which drivers pass over.
#[derive(Debug)]
pub struct EmptySlot {
    legacy: bool,
}

impl EmptySlot {
    /// An empty slot of the legacy or modern interface.
    pub fn new(legacy: bool) -> Self {
        Self { legacy }
    }
}

impl Device for EmptySlot {
    const SIZE: u64 = MMIO_SIZE;

    fn decodes(&self, _: Access, _: u64, _: u8) -> bool {
        true
    }

    fn read(&mut self, offset: u64, width: u8) -> u64 {
        let mut value = 0;
        split(offset, width, |offset, width, shift| {
            let register = match offset {
                reg::MAGIC => MAGIC,
                reg::VERSION => version(self.legacy),
                reg::VENDOR_ID => VENDOR,
                _ => 0,
            };
            value |= u64::from(register & width_mask(width)) << shift;
        });
        value
    }

    fn write(&mut self, _: u64, _: u8, _: u64) {}
}

#[cfg(test)]
mod tests;
