//! The virtual clock under `-accel qtest`: it stands still but for `clock_step` and `clock_set`,
//! and every timer that is passed has had its effect before they are answered.

use std::sync::Arc;

use crate::actors::timer::Timers;
use crate::machine::clock::VirtualClock;

/// The clock and the timers that depend on it.
#[derive(Debug, Clone)]
pub struct SteppedClock {
    pub clock: Arc<VirtualClock>,
    pub timers: Timers,
}

impl SteppedClock {
    /// Virtual nanoseconds.
    pub fn now_ns(&self) -> i64 {
        self.clock.now_ns() as i64
    }

    /// Nanoseconds to the next deadline, if a timer is armed.
    pub fn to_next_deadline(&self) -> Option<i64> {
        let deadline = self.timers.next_deadline()?;
        Some(i64::try_from(deadline).unwrap_or(i64::MAX).saturating_sub(self.now_ns()).max(0))
    }

    /// Go to `to_ns` from deadline to deadline; the time it is then.
    pub async fn advance(&self, to_ns: i64) -> i64 {
        let Ok(to) = u64::try_from(to_ns) else { return self.now_ns() };
        while self.clock.now_ns() < to {
            let next = self.timers.next_deadline().map_or(to, |deadline| deadline.min(to));
            self.clock.step_to(next);
            for handled in self.timers.fire_due() {
                // A receiver that has died is reported as the machine's failure.
                let _ = handled.await;
            }
        }
        self.now_ns()
    }
}
