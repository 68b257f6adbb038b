//! How a virtio device stands, for monitors: its registers, its queues, and the requests in them.

use actix::{Handler, Message, Recipient};
use virtio_bindings::virtio_config::{
    VIRTIO_F_ANY_LAYOUT, VIRTIO_F_NOTIFY_ON_EMPTY, VIRTIO_F_RING_RESET,
};

use super::device::VirtioDevice;
use super::queue::{Element, ElementError};
use super::transport::VirtioMmio;
use crate::devices::shell::Shell;

/// How does the device stand?
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "VirtioReport")]
pub struct Inspect;

/// Show a request: that of an entry of the available ring, or the next to be taken.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Element, InspectError>")]
pub struct InspectElement {
    pub queue: u16,
    pub index: Option<u16>,
}

/// Why there is nothing to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    #[error("Invalid virtqueue number {0}")]
    NoQueue(u16),
    #[error(transparent)]
    Element(#[from] ElementError),
}

/// A device, for whoever asks it.
#[derive(Debug, Clone)]
pub struct VirtioLink {
    /// In the tree of objects.
    pub path: String,
    pub inspect: Recipient<Inspect>,
    pub element: Recipient<InspectElement>,
}

/// Answer to `Inspect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioReport {
    /// Device ID (virtio 1.2 §5).
    pub id: u32,
    /// Features on offer, those of the other interface included.
    pub offered: u64,
    /// Features that the driver has accepted.
    pub accepted: u64,
    pub status: u8,
    pub isr: u8,
    pub queue_sel: u16,
    /// The driver broke the rules.
    pub broken: bool,
    /// The driver has finished its set-up.
    pub started: bool,
    /// A driver that notifies a queue counts as one that has.
    pub start_on_kick: bool,
    pub queues: Vec<QueueReport>,
    /// Of a bus of ports.
    pub ports: Vec<PortReport>,
}

/// A queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueReport {
    /// Requests taken and not given back.
    pub in_flight: u16,
    /// Index of the next entry of the used ring.
    pub used_index: u16,
    /// That index when the driver was last interrupted, or considered for it.
    pub signalled: Option<u16>,
    /// Index of the next request to take.
    pub last_avail: u16,
    /// The driver's index as last read.
    pub seen_avail: u16,
    /// Entries, as the driver wants it and as the device does.
    pub size: u16,
    pub preferred: u16,
    /// Of the used ring, with the legacy interface.
    pub align: u64,
    /// Guest-physical addresses; 0 before the driver has laid it out.
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
}

/// A port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortReport {
    pub nr: u32,
    pub guest_open: bool,
    pub host_open: bool,
    /// Output waits for the back end.
    pub throttled: bool,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    fn report(&self) -> VirtioReport {
        let state = &self.state;
        let preferred = self.device.queues();
        let queues = state.queues.iter().zip(&self.aligns).zip(preferred);
        let queues = queues.map(|((queue, align), preferred)| {
            let laid_out = |addr: u64| if queue.ready { addr } else { 0 };
            QueueReport {
                in_flight: queue.in_flight(),
                used_index: queue.next_used(),
                signalled: queue.signalled(),
                last_avail: queue.next_avail(),
                seen_avail: queue.seen_avail(),
                size: queue.size,
                preferred,
                align: *align,
                desc: laid_out(queue.desc),
                avail: laid_out(queue.avail),
                used: laid_out(queue.used),
            }
        });
        let bit = |on: bool, bit: u32| u64::from(on) << bit;
        let of_either = bit(self.rings.queue_reset, VIRTIO_F_RING_RESET)
            | bit(self.rings.notify_on_empty, VIRTIO_F_NOTIFY_ON_EMPTY)
            | bit(self.rings.any_layout && (D::ANY_LAYOUT || !self.legacy), VIRTIO_F_ANY_LAYOUT);
        VirtioReport {
            id: D::ID,
            offered: self.offered | of_either,
            accepted: state.features,
            status: state.status,
            isr: state.isr,
            queue_sel: self.queue_sel as u16,
            broken: state.is_broken(),
            started: state.is_driver_ok(),
            start_on_kick: self.legacy && self.negotiated && !state.is_driver_ok(),
            queues: queues.collect(),
            ports: self.device.ports(),
        }
    }

    fn element(&self, queue: u16, index: Option<u16>) -> Result<Element, InspectError> {
        let ring = self.state.queues.get(usize::from(queue)).ok_or(InspectError::NoQueue(queue))?;
        Ok(ring.element(self.state.ram(), index)?)
    }
}

impl<D: VirtioDevice> Handler<Inspect> for Shell<VirtioMmio<D>> {
    type Result = actix::MessageResult<Inspect>;

    fn handle(&mut self, _: Inspect, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.0.report())
    }
}

impl<D: VirtioDevice> Handler<InspectElement> for Shell<VirtioMmio<D>> {
    type Result = Result<Element, InspectError>;

    fn handle(&mut self, message: InspectElement, _: &mut Self::Context) -> Self::Result {
        self.0.element(message.queue, message.index)
    }
}
