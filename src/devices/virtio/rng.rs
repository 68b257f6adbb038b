//! virtio-rng (virtio 1.2 §5.4): fills the driver's buffers from an entropy source, at most so
//! many bytes a period.

use std::sync::Arc;

use actix::{Addr, Handler, Message};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::device::{VirtioDevice, VirtioState};
use super::entropy::{ENTROPY_MAX, Entropy, EntropyWanted};
use super::queue::Chain;
use super::transport::VirtioMmio;
use crate::actors::outlet::Outlet;
use crate::actors::timer::{ArmTimer, TimerFired};
use crate::devices::dma::scatter;
use crate::machine::clock::VirtualClock;

const QUEUE_SIZE: u16 = 8;

/// `max-bytes` and `period`: how much the guest may take how fast.
#[derive(Debug, Clone)]
pub struct Quota {
    /// Bytes a period.
    pub max_bytes: u64,
    /// Length of a period.
    pub period_ns: u64,
    pub clock: Arc<VirtualClock>,
    pub arm: Outlet<ArmTimer>,
}

/// Wiring → device: the timer slot that fires this device's periods.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct AssignTimer {
    pub slot: u32,
}

/// The entropy device.
#[derive(Debug)]
pub struct Rng {
    source: Outlet<EntropyWanted>,
    to: Outlet<Entropy>,
    quota: Option<Quota>,
    slot: Option<u32>,
    /// Bytes left in this period.
    left: u64,
    /// The period ends at this time; 0 before the first request.
    period_end: u64,
    /// The chain that waits for entropy; `None` inside once a reset took it away.
    asked: Option<Option<Chain>>,
}

impl Rng {
    /// A device fed from `source`; without a quota the guest may take what it can.
    pub fn new(source: Outlet<EntropyWanted>, quota: Option<Quota>) -> Self {
        Self {
            source,
            to: Outlet::Unconnected,
            quota,
            slot: None,
            left: 0,
            period_end: 0,
            asked: None,
        }
    }

    /// Bytes the guest may have now. With none left, the end of the period is waited for.
    fn allowance(&mut self) -> u64 {
        let Some(quota) = &self.quota else { return u64::MAX };
        let now = quota.clock.now_ns();
        if now >= self.period_end {
            self.left = quota.max_bytes;
            self.period_end = now.saturating_add(quota.period_ns);
        }
        if self.left == 0
            && let Some(slot) = self.slot
        {
            quota.arm.send(ArmTimer { slot, deadline_ns: Some(self.period_end) });
        }
        self.left
    }

    /// Ask for the next chain's entropy, one chain at a time.
    fn pump(&mut self, state: &mut VirtioState) {
        while self.asked.is_none() {
            let allowed = self.allowance();
            if allowed == 0 {
                return;
            }
            let Some(chain) = state.pop(0) else { return };
            let len = chain.writable_len().min(allowed).min(ENTROPY_MAX as u64) as usize;
            if len == 0 {
                state.push(0, chain.head, 0);
                continue;
            }
            self.asked = Some(Some(chain));
            if !self.source.send(EntropyWanted { len, to: self.to.clone() }) {
                return;
            }
        }
    }
}

impl VirtioDevice for Rng {
    const NAME: &'static str = "virtio-rng";
    const ID: u32 = VIRTIO_ID_RNG;

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn started(&mut self, address: Addr<VirtioMmio<Self>>) {
        self.to = address.recipient().into();
    }

    fn notify(&mut self, _: usize, state: &mut VirtioState) {
        self.pump(state);
    }

    fn queue_reset(&mut self, _: usize) {
        if let Some(asked) = &mut self.asked {
            *asked = None;
        }
    }

    /// Entropy that was asked for still comes, and then serves nobody.
    fn reset(&mut self, _: &mut VirtioState) {
        self.queue_reset(0);
    }
}

impl Handler<Entropy> for VirtioMmio<Rng> {
    type Result = ();

    fn handle(&mut self, Entropy(bytes): Entropy, _: &mut Self::Context) {
        let (device, state) = self.parts();
        if let Some(chain) = device.asked.take().flatten() {
            let copied = scatter(state.ram(), &chain.writable, 0, &bytes);
            if let Some(copied) = state.unless_outside(copied) {
                device.left = device.left.saturating_sub(copied as u64);
                state.push(0, chain.head, copied as u32);
            }
        }
        self.notify(0);
    }
}

impl Handler<TimerFired> for VirtioMmio<Rng> {
    type Result = ();

    fn handle(&mut self, _: TimerFired, _: &mut Self::Context) {
        self.notify(0);
    }
}

impl Handler<AssignTimer> for VirtioMmio<Rng> {
    type Result = ();

    fn handle(&mut self, AssignTimer { slot }: AssignTimer, _: &mut Self::Context) {
        self.device.slot = Some(slot);
    }
}
