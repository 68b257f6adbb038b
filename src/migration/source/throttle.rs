//! Slowing the guest down until its memory can be sent faster than it writes it (capability
//! `auto-converge`). When to do that, and how much, are QEMU's rules.

use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::machine::message::TakeRest;
use crate::migration::parameters::Parameters;

/// How long a throttled vCPU runs between two rests.
const SLICE: Duration = Duration::from_millis(10);
/// Shortest time over which writing is compared with sending.
const PERIOD: Duration = Duration::from_secs(1);
/// In so many periods the guest has to be too fast before it is slowed down.
const PATIENCE: u8 = 2;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// vCPUs that rest for a part of their time, for as long as this is there.
#[derive(Debug)]
struct Throttle {
    percent: watch::Sender<u8>,
    vcpus: Arc<[Recipient<TakeRest>]>,
    ticker: JoinHandle<()>,
}

impl Throttle {
    fn new(vcpus: Arc<[Recipient<TakeRest>]>, percent: u8) -> Self {
        let percent = watch::Sender::new(percent);
        let ticker = actix::spawn(tick(Arc::clone(&vcpus), percent.subscribe()));
        Self { percent, vcpus, ticker }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.ticker.abort();
        for vcpu in &*self.vcpus {
            // Whoever is gone rests no more.
            vcpu.do_send(TakeRest { time: Duration::ZERO });
        }
    }
}

async fn tick(vcpus: Arc<[Recipient<TakeRest>]>, percent: watch::Receiver<u8>) {
    loop {
        let time = rest(*percent.borrow());
        for vcpu in &*vcpus {
            vcpu.do_send(TakeRest { time });
        }
        tokio::time::sleep(SLICE + time).await;
    }
}

/// The rest after a slice that makes `percent` of the whole.
fn rest(percent: u8) -> Duration {
    let percent = u32::from(percent.min(99));
    SLICE * percent / (100 - percent)
}

/// Compares what the guest writes with what is sent, and throttles it.
#[derive(Debug)]
pub(super) struct Convergence {
    vcpus: Arc<[Recipient<TakeRest>]>,
    throttle: Option<Throttle>,
    period: Instant,
    /// Sent before the period.
    sent: u64,
    /// Pages written in the period.
    written: u64,
    /// Periods in which it was too much.
    exceeded: u8,
}

impl Convergence {
    pub(super) fn new(vcpus: Arc<[Recipient<TakeRest>]>) -> Self {
        let period = Instant::now();
        Self { vcpus, throttle: None, period, sent: 0, written: 0, exceeded: 0 }
    }

    /// Between two passes: `written` pages are to be sent again, `sent` bytes have been sent so far.
    pub(super) fn pass(&mut self, written: u64, sent: u64, parameters: &Parameters) {
        self.written += written;
        if self.period.elapsed() <= PERIOD {
            return;
        }
        let threshold = u64::from(parameters.throttle_trigger_threshold);
        let most = sent.saturating_sub(self.sent).saturating_mul(threshold) / 100;
        let bytes = self.written.saturating_mul(PAGE);
        if bytes > most {
            self.exceeded += 1;
            if self.exceeded >= PATIENCE {
                self.exceeded = 0;
                self.slow_down(most as f64 / bytes as f64, parameters);
            }
        }
        self.period = Instant::now();
        self.written = 0;
        self.sent = sent;
    }

    /// `ideal` is the part of its present speed at which the guest would not be too fast.
    fn slow_down(&mut self, ideal: f64, parameters: &Parameters) {
        let Some(throttle) = &self.throttle else {
            let percent = parameters.cpu_throttle_initial;
            self.throttle = Some(Throttle::new(Arc::clone(&self.vcpus), percent));
            return;
        };
        let now = *throttle.percent.borrow();
        let mut more = parameters.cpu_throttle_increment;
        if parameters.cpu_throttle_tailslow {
            let runs = 100 - now.min(100);
            more = more.min(runs - (f64::from(runs) * ideal) as u8);
        }
        throttle.percent.send_replace(now.saturating_add(more).min(parameters.max_cpu_throttle));
    }

    /// Percent of their time that vCPUs rest, while they do.
    pub(super) fn percent(&self) -> Option<u8> {
        self.throttle.as_ref().map(|throttle| *throttle.percent.borrow())
    }

    /// Throttle no more.
    pub(super) fn release(&mut self) {
        self.throttle = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::probe::Probe;

    fn passes(convergence: &mut Convergence, count: u64, pages: u64) -> tokio::time::Sleep {
        convergence.pass(pages, count * PAGE * 100, &Parameters::default());
        tokio::time::sleep(Duration::from_millis(1100))
    }

    #[actix::test]
    async fn it_rises_by_steps_and_ends_with_its_owner() {
        tokio::time::pause();
        let vcpu: Probe<TakeRest> = Probe::new();
        let mut convergence = Convergence::new(vec![vcpu.recipient()].into());
        let mut percents = Vec::new();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        // Half of what is sent is written again, or just more.
        for (pass, written) in (1..).zip([50, 51, 50, 51, 51, 51, 51, 10, 10, 51]) {
            passes(&mut convergence, pass, written).await;
            percents.push(convergence.percent().unwrap_or(0));
        }
        assert_eq!(percents, [0, 0, 0, 20, 20, 30, 30, 30, 30, 40]);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let rests = vcpu.take();
        assert_eq!(rests.first().unwrap().time, Duration::from_micros(2500));
        assert_eq!(rests.last().unwrap().time, SLICE * 40 / 60);
        drop(convergence);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let rests: Vec<_> = vcpu.take().into_iter().map(|rest| rest.time).collect();
        assert_eq!(rests, [Duration::ZERO]);
    }

    #[actix::test]
    async fn it_does_not_exceed_what_is_allowed() {
        tokio::time::pause();
        let mut convergence = Convergence::new(Arc::new([]));
        let parameters = Parameters {
            cpu_throttle_initial: 50,
            cpu_throttle_increment: 40,
            max_cpu_throttle: 95,
            ..Parameters::default()
        };
        let slow = Parameters { cpu_throttle_tailslow: true, ..parameters.clone() };
        let run = async |convergence: &mut Convergence, parameters: &Parameters| {
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_millis(1100)).await;
                let sent = convergence.sent + 100 * PAGE;
                convergence.pass(100, sent, parameters);
            }
            convergence.percent()
        };
        assert_eq!(run(&mut convergence, &slow).await, Some(50));
        // Half the speed that is left would do.
        assert_eq!(run(&mut convergence, &slow).await, Some(75));
        assert_eq!(run(&mut convergence, &parameters).await, Some(95));
        convergence.release();
        assert_eq!(convergence.percent(), None);
    }
}
