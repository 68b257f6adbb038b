//! virtio-rng (virtio 1.2 §5.4): fills the driver's buffers from an entropy source, at most so
//! many bytes a period.

use std::sync::Arc;

use actix::{Addr, Handler, Message};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::device::{DeviceState, VirtioDevice, VirtioState};
use super::entropy::{ENTROPY_MAX, Entropy, EntropyWanted};
use super::queue::Chain;
use super::transport::VirtioMmio;
use crate::actors::outlet::Outlet;
use crate::actors::timer::{ArmTimer, TimerFired};
use crate::devices::dma::scatter;
use crate::devices::shell::Shell;
use crate::machine::clock::VirtualClock;
use crate::migration::vmstate::{Fields, StateError, Vmsd};

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

/// The device has no state of its own that travels: a request that waits for entropy is made
/// again, and a new period begins.
#[derive(Debug)]
pub struct NoState;

impl DeviceState for NoState {
    fn fields(&mut self, _: &mut dyn Fields) -> Result<(), StateError> {
        Ok(())
    }
}

impl VirtioDevice for Rng {
    const NAME: &'static str = "virtio-rng";
    const VMSD: Vmsd = Vmsd::new("virtio-rng", 1);
    type State = NoState;
    const ID: u32 = VIRTIO_ID_RNG;

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn started(&mut self, address: Addr<Shell<VirtioMmio<Self>>>) {
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

    fn save(&self, _: &VirtioState) -> Result<NoState, StateError> {
        Ok(NoState)
    }

    fn untaken(&self, _: usize) -> u16 {
        u16::from(matches!(self.asked, Some(Some(_))))
    }

    fn load(&mut self, _: NoState, _: &[u8], _: &mut VirtioState) -> Result<(), StateError> {
        self.queue_reset(0);
        Ok(())
    }
}

impl Handler<Entropy> for Shell<VirtioMmio<Rng>> {
    type Result = ();

    fn handle(&mut self, Entropy(bytes): Entropy, _: &mut Self::Context) {
        let (device, state) = self.0.parts();
        if let Some(chain) = device.asked.take().flatten() {
            let copied = scatter(state.ram(), &chain.writable, 0, &bytes);
            if let Some(copied) = state.unless_outside(copied) {
                device.left = device.left.saturating_sub(copied as u64);
                state.push(0, chain.head, copied as u32);
            }
        }
        self.0.notify(0);
    }
}

impl Handler<TimerFired> for Shell<VirtioMmio<Rng>> {
    type Result = ();

    fn handle(&mut self, _: TimerFired, _: &mut Self::Context) {
        self.0.notify(0);
    }
}

impl Handler<AssignTimer> for Shell<VirtioMmio<Rng>> {
    type Result = ();

    fn handle(&mut self, AssignTimer { slot }: AssignTimer, _: &mut Self::Context) {
        self.0.device.slot = Some(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::super::entropy;
    use super::super::test_driver::{DATA, Driver, WRITE};
    use super::*;
    use crate::actors::probe::Probe;
    use crate::machine::guest_random::GuestRandom;
    use crate::migration::vmstate::tests::assert_described_as_qemus;

    #[test]
    fn bytes_of_the_host_reach_the_guest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0x5a; 64]).unwrap();
        let sources = [
            (entropy::builtin(GuestRandom::default()), None),
            (entropy::from_file(file.path().to_str().unwrap()).unwrap(), Some(vec![0x5a; 64])),
        ];
        for (source, expected) in sources {
            let mut driver = Driver::new(true, Rng::new(source, None));
            driver.start(0);
            let head = driver.offer(0, &[(DATA, 40, WRITE), (DATA + 40, 24, WRITE)]);
            driver.kick(0);
            assert_eq!(driver.used_within(0, 1), [(head, 64)]);
            let bytes = driver.bytes(DATA, 64);
            assert_ne!(bytes, [0; 64]);
            assert!(expected.is_none_or(|expected| bytes == expected));
        }
        let missing = entropy::from_file("/no/such").unwrap_err().to_string();
        assert_eq!(missing, "Could not open '/no/such': No such file or directory");
    }

    #[test]
    fn a_quota_holds_requests_back_until_the_period_ends() {
        let source = Probe::<EntropyWanted>::new();
        let arm = Probe::new();
        let clock = Arc::new(VirtualClock::default());
        let quota =
            Quota { max_bytes: 10, period_ns: 1, clock: Arc::clone(&clock), arm: arm.outlet() };
        let mut driver = Driver::new(true, Rng::new(source.outlet(), Some(quota)));
        driver.cell.call(AssignTimer { slot: 3 }).unwrap();
        driver.start(0);
        // Time stands still at 0, so the first period, which ends at 1, does not end.
        let first = driver.offer(0, &[(DATA, 64, WRITE)]);
        let second = driver.offer(0, &[(DATA, 64, WRITE)]);
        driver.kick(0);
        let wanted = source.take().remove(0);
        assert_eq!(wanted.len, 10);
        wanted.to.send(Entropy(vec![1; 10]));
        assert_eq!(driver.used_now(0), [(first, 10)]);
        assert!(source.take().is_empty());
        assert_eq!(arm.take(), [ArmTimer { slot: 3, deadline_ns: Some(1) }]);
        clock.start();
        while clock.now_ns() == 0 {}
        driver.cell.call(TimerFired { slot: 3, deadline_ns: 1 }).unwrap();
        let wanted = source.take().remove(0);
        wanted.to.send(Entropy(Vec::new()));
        assert_eq!(driver.used_now(0), [(second, 0)], "a source that fails gives nothing");
    }

    #[test]
    fn state_travels_and_a_request_that_waits_is_made_again() {
        let fresh = |source: &Probe<EntropyWanted>| Rng::new(source.outlet(), None);
        let old = Probe::new();
        let mut driver = Driver::new(true, fresh(&old));
        let section = driver.move_to(fresh(&old));
        // Captured from QEMU 10.0 at power-on.
        let qemu = "0000000000000000000000000000000000000000000000000000000100000008000010000000000000\
                    0000000000051576697274696f2f36346269745f6665617475726573000000010000000000000000";
        let ours: String = section.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(ours, qemu);
        assert_described_as_qemus(&section);
        for legacy in [true, false] {
            let (old, new) = (Probe::new(), Probe::new());
            let mut driver = Driver::new(legacy, fresh(&old));
            driver.start(1 << 32);
            let head = driver.offer(0, &[(DATA, 8, WRITE)]);
            driver.kick(0);
            let first = old.take().remove(0);
            first.to.send(Entropy(vec![1; 8]));
            assert_eq!(driver.used_now(0), [(head, 8)]);
            let second = driver.offer(0, &[(DATA, 16, WRITE)]);
            driver.kick(0);
            assert_eq!(old.take().len(), 1);
            driver.move_to(fresh(&new));
            new.take().remove(0).to.send(Entropy(vec![2; 16]));
            assert_eq!(driver.used_now(0), [(second, 16)]);
            assert_eq!(driver.bytes(DATA, 16), [2; 16]);
            assert!(driver.levels().is_empty(), "interrupted before, and not acknowledged");
        }
    }

    #[test]
    fn entropy_asked_for_before_a_reset_serves_nobody() {
        let source = Probe::<EntropyWanted>::new();
        let mut driver = Driver::new(false, Rng::new(source.outlet(), None));
        driver.start(1 << 32);
        driver.offer(0, &[(DATA, 8, WRITE)]);
        driver.kick(0);
        let old = source.take().remove(0);
        driver.start(1 << 32);
        let head = driver.offer(0, &[(DATA + 64, 8, WRITE)]);
        driver.kick(0);
        old.to.send(Entropy(vec![1; 8]));
        assert_eq!(driver.used_now(0), []);
        assert_eq!(driver.bytes(DATA, 8), [0; 8]);
        source.take().remove(0).to.send(Entropy(vec![2; 8]));
        assert_eq!(driver.used_now(0), [(head, 8)]);
    }
}
