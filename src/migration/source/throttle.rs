//! Slowing the guest down until its memory can be sent faster than it writes it: all of it
//! (capability `auto-converge`), or its writing (`dirty-limit`). When to do that, and how much, are
//! QEMU's rules.

use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Writers;
use crate::cpu::writes::ROUND;
use crate::machine::dirty_rate::LimitWrites;
use crate::machine::message::TakeRest;
use crate::migration::message::WriteLimits;
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

/// How the guest is slowed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brake {
    /// vCPUs rest for a part of their time.
    Rest,
    /// They rest when they have written as much as they may.
    Writes,
}

/// Writing that is limited, for as long as this is there.
#[derive(Debug)]
struct Limited {
    writers: Writers,
    /// MiB/s
    rate: u64,
}

impl Limited {
    fn set(&mut self, parameters: &Parameters) {
        self.rate = parameters.vcpu_dirty_limit;
        let period = Duration::from_millis(parameters.vcpu_dirty_limit_period);
        self.writers.limit.do_send(LimitWrites { cpu: None, rate: self.rate, period });
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let no_limit = LimitWrites { cpu: None, rate: 0, period: PERIOD };
        self.writers.limit.do_send(no_limit);
    }
}

/// Compares what the guest writes with what is sent, and throttles it.
#[derive(Debug)]
pub(super) struct Convergence {
    vcpus: Arc<[Recipient<TakeRest>]>,
    writers: Writers,
    throttle: Option<Throttle>,
    limited: Option<Limited>,
    period: Instant,
    /// Sent before the period.
    sent: u64,
    /// Pages written in the period.
    written: u64,
    /// Periods in which it was too much.
    exceeded: u8,
}

impl Convergence {
    pub(super) fn new(vcpus: Arc<[Recipient<TakeRest>]>, writers: Writers) -> Self {
        Self {
            vcpus,
            writers,
            throttle: None,
            limited: None,
            period: Instant::now(),
            sent: 0,
            written: 0,
            exceeded: 0,
        }
    }

    /// Between two passes: `written` pages are to be sent again, `sent` bytes have been sent so far.
    pub(super) fn pass(&mut self, written: u64, sent: u64, parameters: &Parameters, brake: Brake) {
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
                match brake {
                    Brake::Rest => self.slow_down(most as f64 / bytes as f64, parameters),
                    Brake::Writes => self.limit(parameters),
                }
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

    /// Limit writing, or to another rate if that has changed.
    fn limit(&mut self, parameters: &Parameters) {
        match &mut self.limited {
            Some(limited) if limited.rate == parameters.vcpu_dirty_limit => {}
            Some(limited) => limited.set(parameters),
            None => {
                let mut limited = Limited { writers: self.writers.clone(), rate: 0 };
                limited.set(parameters);
                self.limited = Some(limited);
            }
        }
    }

    /// What the limit does, while there is one.
    pub(super) fn limits(&self) -> Option<WriteLimits> {
        let harts = &self.limited.as_ref()?.writers.harts.0;
        let rest = harts.iter().map(|hart| hart.writes.rest_a_round()).max().unwrap_or(0);
        let rate: u64 = harts.iter().map(|hart| hart.writes.rate()).sum();
        // A round's MiB at the average rate of the harts.
        let mib = (ROUND * PAGE) >> 20;
        let round = (mib * 1_000_000 * harts.len() as u64).checked_div(rate);
        Some(WriteLimits { rest, round: round.unwrap_or(0) })
    }

    /// Percent of their time that vCPUs rest, while they do.
    pub(super) fn percent(&self) -> Option<u8> {
        self.throttle.as_ref().map(|throttle| *throttle.percent.borrow())
    }

    /// Throttle no more.
    pub(super) fn release(&mut self) {
        self.throttle = None;
        self.limited = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::probe::Probe;
    use crate::cpu::inbox::Peers;

    fn convergence(vcpus: Arc<[Recipient<TakeRest>]>) -> (Convergence, Probe<LimitWrites>) {
        let limits: Probe<LimitWrites> = Probe::answering(|_| Ok(()));
        let writers = Writers { limit: limits.recipient(), harts: Peers::new(2) };
        (Convergence::new(vcpus, writers), limits)
    }

    fn passes(convergence: &mut Convergence, count: u64, pages: u64) -> tokio::time::Sleep {
        let sent = count * PAGE * 100;
        convergence.pass(pages, sent, &Parameters::default(), Brake::Rest);
        tokio::time::sleep(Duration::from_millis(1100))
    }

    #[actix::test]
    async fn it_rises_by_steps_and_ends_with_its_owner() {
        tokio::time::pause();
        let vcpu: Probe<TakeRest> = Probe::new();
        let (mut convergence, _) = convergence(vec![vcpu.recipient()].into());
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
        let (mut convergence, _) = convergence(Arc::new([]));
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
                convergence.pass(100, sent, parameters, Brake::Rest);
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

    #[actix::test]
    async fn writing_is_limited_at_the_same_moments_and_no_more_at_the_end() {
        tokio::time::pause();
        let (mut convergence, limits) = convergence(Arc::new([]));
        let mut parameters = Parameters { vcpu_dirty_limit_period: 500, ..Parameters::default() };
        let mut rates = Vec::new();
        for rate in [10, 10, 10, 10, 20, 20] {
            parameters.vcpu_dirty_limit = rate;
            tokio::time::sleep(Duration::from_millis(1100)).await;
            let sent = convergence.sent + 100 * PAGE;
            convergence.pass(100, sent, &parameters, Brake::Writes);
            tokio::time::sleep(Duration::from_millis(10)).await;
            rates.extend(limits.take().into_iter().map(|limit| (limit.rate, limit.period)));
        }
        let period = Duration::from_millis(500);
        assert_eq!(rates, [(10, period), (20, period)]);
        let harts = convergence.writers.harts.clone();
        assert_eq!(convergence.limits(), Some(WriteLimits { rest: 0, round: 0 }));
        harts.0[0].writes.set_figures(6, 900);
        harts.0[1].writes.set_figures(2, 1000);
        // 16 MiB at 4 MiB/s.
        assert_eq!(convergence.limits(), Some(WriteLimits { rest: 1000, round: 4_000_000 }));
        assert_eq!(convergence.percent(), None);
        drop(convergence);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let rates: Vec<_> = limits.take().into_iter().map(|limit| limit.rate).collect();
        assert_eq!(rates, [0]);
    }
}
