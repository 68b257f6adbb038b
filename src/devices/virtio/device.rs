//! What a virtio device is to its transport ([`VirtioDevice`]), and what the transport is to the
//! device ([`VirtioState`]): queues, negotiated features, interrupts, and the end of the line for
//! a driver that breaks the rules.

use std::sync::Arc;

use actix::Addr;
use virtio_bindings::virtio_config::{VIRTIO_F_NOTIFY_ON_EMPTY, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::inspect::PortReport;
use super::queue::{Chain, QueueError, RingFeatures, Virtqueue};
use super::transport::VirtioMmio;
use crate::actors::message::IrqLevel;
use crate::actors::outlet::Outlet;
use crate::devices::shell::Shell;
use crate::machine::memory::{GuestRam, RamError};
use crate::machine::presence::Wake;
use crate::migration::vmstate::{Fields, StateError, Vmsd};
use crate::trace;

/// Interrupt status bit: a buffer was used.
const ISR_QUEUE: u8 = 1;
/// Interrupt status as QEMU sets it for a configuration change.
const ISR_CONFIG: u8 = 3;
/// Device status bits (virtio 1.2 §2.1).
pub const STATUS_DRIVER_OK: u8 = 4;
pub const STATUS_FEATURES_OK: u8 = 8;
pub const STATUS_NEEDS_RESET: u8 = 0x40;

/// Target of the messages that `-d guest_errors` shows.
macro_rules! guest_error {
    ($($arg:tt)*) => { tracing::debug!(target: "guest_errors", $($arg)*) };
}
pub(super) use guest_error;

/// A device behind a virtio transport.
pub trait VirtioDevice: Send + Sized + Unpin + 'static {
    /// Name in messages, e.g. `virtio-blk`.
    const NAME: &'static str;
    /// Device ID (virtio 1.2 §5).
    const ID: u32;
    /// Name and versions of the state that travels.
    const VMSD: Vmsd;
    /// The device's own part of it.
    type State: DeviceState;
    /// Whether a legacy driver may frame requests as it likes (VIRTIO_F_ANY_LAYOUT).
    const ANY_LAYOUT: bool = true;

    /// Device-specific features on offer (bits 0 to 23).
    fn features(&self) -> u64;

    /// Features that only a legacy transport offers besides.
    fn legacy_features(&self) -> u64 {
        0
    }

    /// Preferred size of each queue.
    fn queues(&self) -> Vec<u16>;

    /// The device configuration space now, little-endian; empty if the device has none.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The driver wrote `bytes` (1, 2 or 4 of them, inside the space) at `offset` of the
    /// configuration space.
    fn write_config(&mut self, _offset: usize, _bytes: &[u8], _state: &mut VirtioState) {}

    /// The actor has an address: back ends are told where to answer.
    fn started(&mut self, address: Addr<Shell<VirtioMmio<Self>>>);

    /// The driver set DRIVER_OK: negotiation is over.
    fn driver_ok(&mut self, _state: &mut VirtioState) {}

    /// The driver has put something into `queue`.
    fn notify(&mut self, queue: usize, state: &mut VirtioState);

    /// The driver took `queue` away: requests taken from it are not given back.
    fn queue_reset(&mut self, _queue: usize) {}

    /// The machine goes on after a pause.
    fn resumed(&mut self, _state: &mut VirtioState) {}

    /// Back to the state after power-on. The queues are reset by the transport.
    fn reset(&mut self, state: &mut VirtioState);

    /// The ports of a bus of them.
    fn ports(&self) -> Vec<PortReport> {
        Vec::new()
    }

    /// The device's own state. `state` is for what of it the queues know.
    fn save(&self, state: &VirtioState) -> Result<Self::State, StateError>;

    /// Requests taken from `queue` of which nothing travels: they are taken again.
    fn untaken(&self, _queue: usize) -> u16 {
        0
    }

    /// Be in this state; the queues and the features are there already, and `config` is the
    /// configuration space as the source last showed it. Every queue is notified when the machine
    /// runs.
    fn load(
        &mut self,
        loaded: Self::State,
        config: &[u8],
        state: &mut VirtioState,
    ) -> Result<(), StateError>;
}

/// A device's own part of the state that travels.
pub trait DeviceState {
    /// What follows the queues (QEMU's `save`).
    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError>;

    /// Subsections that QEMU does not have.
    fn subsections(&mut self, _: &mut dyn Fields) -> Result<(), StateError> {
        Ok(())
    }
}

/// The transport's side of a device.
#[derive(Debug)]
pub struct VirtioState {
    ram: Arc<GuestRam>,
    irq: Outlet<IrqLevel>,
    line: u32,
    name: &'static str,
    pub(super) queues: Vec<Virtqueue>,
    /// Features the driver accepted.
    pub(super) features: u64,
    pub(super) status: u8,
    pub(super) isr: u8,
    /// Configuration changes so far.
    pub(super) generation: u32,
    /// The driver broke the rules: nothing moves until it resets the device.
    pub(super) broken: bool,
    raised: bool,
    /// Called when pages have come that a queue waits for.
    pub(super) arrived: Option<Wake>,
}

impl VirtioState {
    pub(super) fn new(
        ram: Arc<GuestRam>,
        irq: Outlet<IrqLevel>,
        line: u32,
        name: &'static str,
        queues: Vec<Virtqueue>,
    ) -> Self {
        Self {
            ram,
            irq,
            line,
            name,
            queues,
            features: 0,
            status: 0,
            isr: 0,
            generation: 0,
            broken: false,
            raised: false,
            arrived: None,
        }
    }

    /// Guest memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The driver accepted feature `bit`.
    pub fn has_feature(&self, bit: u32) -> bool {
        self.features & (1 << bit) != 0
    }

    /// The driver finished its set-up.
    pub fn is_driver_ok(&self) -> bool {
        self.status & STATUS_DRIVER_OK != 0
    }

    /// The driver broke the rules and has not reset the device since.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn ring_features(&self) -> RingFeatures {
        RingFeatures {
            event_idx: self.has_feature(VIRTIO_RING_F_EVENT_IDX),
            notify_on_empty: self.has_feature(VIRTIO_F_NOTIFY_ON_EMPTY),
        }
    }

    /// Take the next request of `queue`. A ring that breaks the rules breaks the device.
    pub fn pop(&mut self, queue: usize) -> Option<Chain> {
        if self.broken {
            return None;
        }
        let features = self.ring_features();
        let popped = self.queues.get_mut(queue)?.pop(&self.ram, features);
        if let Err(QueueError::Ram(RamError::Missing { addr, len })) = popped {
            return self.await_pages(addr, len);
        }
        self.unless_broken(popped)?
    }

    /// Nothing can be taken before these bytes have arrived; every queue is notified then.
    fn await_pages(&mut self, addr: u64, len: u64) -> Option<Chain> {
        let arrived = self.arrived.as_ref();
        match self.ram.presence().request(self.ram.pages(addr, len), arrived) {
            // They came in between.
            Ok(true) => arrived.into_iter().for_each(Wake::wake),
            Ok(false) => {}
            Err(lost) => self.fail(&lost),
        }
        None
    }

    /// Give a request back and interrupt the driver if it wants that.
    pub fn push(&mut self, queue: usize, head: u16, written: u32) {
        if self.broken {
            return;
        }
        trace::virtqueue_fill(self.name, head, written);
        let features = self.ring_features();
        let Some(ring) = self.queues.get_mut(queue) else { return };
        let wanted = ring
            .push(&self.ram, head, written)
            .and_then(|()| ring.should_interrupt(&self.ram, features));
        if self.unless_broken(wanted) == Some(true) {
            self.isr |= ISR_QUEUE;
            self.update_irq();
        }
    }

    /// Walk again a chain that was taken before a migration and is not given back.
    pub fn chain_at(&self, queue: usize, head: u16) -> Result<Option<Chain>, StateError> {
        let Some(ring) = self.queues.get(queue) else { return Ok(None) };
        match ring.chain_at(&self.ram, head) {
            Err(QueueError::Ram(RamError::Missing { addr, len })) => {
                Err(StateError::Missing { addr, len })
            }
            chain => Ok(chain.ok()),
        }
    }

    fn unless_broken<T>(&mut self, result: Result<T, QueueError>) -> Option<T> {
        result.map_err(|error| self.fail(&error)).ok()
    }

    /// The driver broke the rules: nothing moves until it resets the device.
    pub fn fail(&mut self, reason: &dyn std::fmt::Display) {
        if self.broken {
            return;
        }
        guest_error!("{}: {reason}", self.name);
        self.broken = true;
        if self.has_feature(VIRTIO_F_VERSION_1) {
            self.status |= STATUS_NEEDS_RESET;
            self.config_changed();
        }
    }

    /// As `fail`, for guest memory that a checked chain no longer accounts for.
    pub fn unless_outside<T>(&mut self, result: Result<T, RamError>) -> Option<T> {
        result.map_err(|error| self.fail(&error)).ok()
    }

    /// Tell the driver that the configuration space changed.
    pub fn config_changed(&mut self) {
        if self.is_driver_ok() {
            self.isr |= ISR_CONFIG;
            self.generation = self.generation.wrapping_add(1);
            self.update_irq();
        }
    }

    pub(super) fn update_irq(&mut self) {
        let level = self.isr != 0;
        if level != self.raised {
            self.raised = level;
            self.irq.send(IrqLevel { line: self.line, level });
        }
    }

    pub(super) fn reset(&mut self, queues: Vec<Virtqueue>) {
        self.queues = queues;
        self.features = 0;
        self.status = 0;
        self.isr = 0;
        self.broken = false;
        self.update_irq();
    }
}
