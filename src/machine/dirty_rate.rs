//! How fast the guest writes its memory: an actor that measures it when it is asked to
//! (`calc-dirty-rate`), and keeps harts below a limit (`set-vcpu-dirty-limit`, and migrations with
//! `dirty-limit`).

mod limit;
mod sample;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::prelude::*;
use serde::{Deserialize, Serialize};

use super::dirty_log::{DirtyLog, DirtyLogError};
use super::memory::{GuestRam, PAGE_SIZE};
use crate::cpu::inbox::Peers;
use limit::Limiter;
use sample::Sample;

/// Pages of a MiB.
const PAGES_OF_MIB: u64 = (1 << 20) / PAGE_SIZE;
/// Shortest and longest measurement, in ms.
const TIMES: std::ops::RangeInclusive<i64> = 50..=60_000;
/// Fewest and most pages that are looked at, of a GiB.
const SAMPLES: std::ops::RangeInclusive<i64> = 128..=16_384;
/// How many, unless somebody says so.
const USUAL_SAMPLES: u64 = 512;

/// QAPI `DirtyRateMeasureMode`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum MeasureMode {
    /// Pages here and there are compared with what they held before.
    #[default]
    PageSampling,
    /// Pages are counted for the hart that writes them.
    DirtyRing,
    /// Pages that were written are counted, whoever did.
    DirtyBitmap,
}

impl MeasureMode {
    /// The name that QAPI has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PageSampling => "page-sampling",
            Self::DirtyRing => "dirty-ring",
            Self::DirtyBitmap => "dirty-bitmap",
        }
    }
}

/// QAPI `DirtyRateStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RateStatus {
    #[default]
    Unstarted,
    Measuring,
    Measured,
}

impl RateStatus {
    /// The name that QAPI has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unstarted => "unstarted",
            Self::Measuring => "measuring",
            Self::Measured => "measured",
        }
    }
}

/// Why nothing is measured or limited; the sentences are QEMU's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error("the dirty rate is already being measured.")]
    Measuring,
    #[error("Calculation time is out of range [{}ms, {}ms].", TIMES.start(), TIMES.end())]
    Time,
    #[error("sample-pages is used only in page-sampling mode")]
    NoSamples,
    #[error("sample-pages is out of range[{}, {}].", SAMPLES.start(), SAMPLES.end())]
    Samples,
    #[error("incorrect cpu index specified")]
    Cpu,
    #[error("{0}")]
    Log(String),
}

impl From<DirtyLogError> for RateError {
    fn from(error: DirtyLogError) -> Self {
        Self::Log(error.to_string())
    }
}

/// Monitor → measure for so many ms, from now on.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), RateError>")]
pub struct MeasureDirtyRate {
    pub time: i64,
    pub mode: MeasureMode,
    /// Of every GiB.
    pub samples: Option<i64>,
}

/// Monitor → the last measurement, or the one under way.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "DirtyRateReport")]
pub struct QueryDirtyRate;

/// A measurement.
#[derive(Debug, Clone, Default, PartialEq, Eq, MessageResponse)]
pub struct DirtyRateReport {
    pub status: RateStatus,
    /// MiB/s, once it is known.
    pub rate: Option<u64>,
    /// Seconds since 1970
    pub start: u64,
    /// ms
    pub time: u64,
    /// Pages looked at, of a GiB.
    pub samples: u64,
    pub mode: MeasureMode,
    /// MiB/s of every hart, if the mode tells.
    pub harts: Option<Vec<u64>>,
}

/// Monitor or migration source → let a hart, or every hart, write at most `rate` MiB/s; 0 is no
/// limit. Pages written more than once in a `period` count once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), RateError>")]
pub struct LimitWrites {
    pub cpu: Option<i64>,
    pub rate: u64,
    pub period: Duration,
}

/// Monitor → the harts that are limited.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<WriteLimit>")]
pub struct QueryWriteLimits;

/// A hart that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteLimit {
    pub cpu: usize,
    /// MiB/s that it may write.
    pub most: u64,
    /// MiB/s that it wrote in the last period.
    pub rate: u64,
}

/// The actor.
#[derive(Debug)]
pub struct DirtyRate {
    ram: Arc<GuestRam>,
    harts: Peers,
    report: DirtyRateReport,
    limiter: Option<Limiter>,
}

impl DirtyRate {
    /// Of the RAM that `harts` (all of the machine) write.
    pub fn new(ram: Arc<GuestRam>, harts: Peers) -> Self {
        Self { ram, harts, report: DirtyRateReport::default(), limiter: None }
    }

    fn pages(&self) -> u64 {
        self.ram.size() / PAGE_SIZE
    }

    /// A log that has collected everything up to now.
    fn log(&self) -> Result<DirtyLog, DirtyLogError> {
        let log = DirtyLog::start(Arc::clone(&self.ram), self.harts.clone())?;
        // What somebody else's log knows as written counts anew.
        log.take(0..self.pages(), &mut |_| ());
        Ok(log)
    }
}

impl Actor for DirtyRate {
    type Context = Context<Self>;
}

/// `pages` in `time`, in MiB/s.
fn mib_a_second(pages: u64, time: Duration) -> u64 {
    let ms = time.as_millis().max(1) as u64;
    pages.saturating_mul(1000) / PAGES_OF_MIB / ms
}

/// What a measurement compares with at its end.
enum Before {
    Sample(Sample),
    Log(DirtyLog),
    Harts(DirtyLog, Vec<u64>),
}

impl Handler<MeasureDirtyRate> for DirtyRate {
    type Result = Result<(), RateError>;

    fn handle(&mut self, message: MeasureDirtyRate, ctx: &mut Self::Context) -> Self::Result {
        let MeasureDirtyRate { time, mode, samples } = message;
        if self.report.status == RateStatus::Measuring {
            return Err(RateError::Measuring);
        }
        if !TIMES.contains(&time) {
            return Err(RateError::Time);
        }
        if samples.is_some() && mode != MeasureMode::PageSampling {
            return Err(RateError::NoSamples);
        }
        if samples.is_some_and(|samples| !SAMPLES.contains(&samples)) {
            return Err(RateError::Samples);
        }
        let samples = samples.map_or(USUAL_SAMPLES, i64::cast_unsigned);
        let before = match mode {
            MeasureMode::PageSampling => {
                let wanted = (u128::from(self.ram.size()) * u128::from(samples)) >> 30;
                Before::Sample(Sample::new(&self.ram, wanted as u64))
            }
            MeasureMode::DirtyBitmap => Before::Log(self.log()?),
            MeasureMode::DirtyRing => {
                let log = self.log()?;
                let pages = self.harts.0.iter().map(|hart| hart.writes.pages()).collect();
                Before::Harts(log, pages)
            }
        };
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.report = DirtyRateReport {
            status: RateStatus::Measuring,
            rate: None,
            start,
            time: time.cast_unsigned(),
            samples: if mode == MeasureMode::PageSampling { samples } else { 0 },
            mode,
            harts: None,
        };
        let begun = tokio::time::Instant::now();
        let wait = tokio::time::sleep(Duration::from_millis(time.cast_unsigned()));
        ctx.spawn(wait.into_actor(self).map(move |(), this, _| {
            let time = begun.elapsed();
            let rate = |pages| mib_a_second(pages, time);
            let (total, harts) = match before {
                Before::Sample(sample) => (rate(sample.written(&this.ram)), None),
                Before::Log(log) => (rate(log.take(0..this.pages(), &mut |_| ())), None),
                Before::Harts(log, before) => {
                    drop(log);
                    let now = this.harts.0.iter().map(|hart| hart.writes.pages());
                    let harts: Vec<_> =
                        now.zip(before).map(|(now, before)| rate(now - before)).collect();
                    (harts.iter().sum(), Some(harts))
                }
            };
            this.report.status = RateStatus::Measured;
            this.report.rate = Some(total);
            this.report.time = time.as_millis() as u64;
            this.report.harts = harts;
        }));
        Ok(())
    }
}

impl Handler<QueryDirtyRate> for DirtyRate {
    type Result = DirtyRateReport;

    fn handle(&mut self, _: QueryDirtyRate, _: &mut Self::Context) -> Self::Result {
        self.report.clone()
    }
}

impl Handler<LimitWrites> for DirtyRate {
    type Result = Result<(), RateError>;

    fn handle(&mut self, message: LimitWrites, ctx: &mut Self::Context) -> Self::Result {
        let LimitWrites { cpu, rate, period } = message;
        if rate == 0 && self.limiter.is_none() {
            return Ok(());
        }
        let count = self.harts.0.len();
        let harts = match cpu {
            None => 0..count,
            Some(cpu) => {
                let cpu = usize::try_from(cpu).ok().filter(|&cpu| cpu < count);
                let cpu = cpu.ok_or(RateError::Cpu)?;
                cpu..cpu + 1
            }
        };
        if self.limiter.is_none() && rate > 0 {
            let tick = ctx.run_interval(limit::TICK, |this, _| {
                if let Some(limiter) = &mut this.limiter {
                    limiter.tick();
                }
            });
            self.limiter = Some(Limiter::new(self.log()?, self.harts.clone(), tick));
        }
        if let Some(limiter) = &mut self.limiter {
            limiter.set(harts, rate, period);
            if limiter.is_idle() {
                ctx.cancel_future(limiter.ticker());
                self.limiter = None;
            }
        }
        Ok(())
    }
}

impl Handler<QueryWriteLimits> for DirtyRate {
    type Result = Vec<WriteLimit>;

    fn handle(&mut self, _: QueryWriteLimits, _: &mut Self::Context) -> Self::Result {
        self.limiter.as_ref().map(Limiter::limits).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::RAM_BASE;

    const MIB: u64 = 1 << 20;

    fn actor() -> (Addr<DirtyRate>, Arc<GuestRam>, Peers) {
        let ram = Arc::new(GuestRam::new(RAM_BASE, 64 * MIB).unwrap());
        let harts = Peers::new(2);
        (DirtyRate::new(Arc::clone(&ram), harts.clone()).start(), ram, harts)
    }

    fn measure(mode: MeasureMode) -> MeasureDirtyRate {
        MeasureDirtyRate { time: 1000, mode, samples: None }
    }

    #[actix::test]
    async fn each_mode_measures_what_is_written() {
        use MeasureMode::{DirtyBitmap, DirtyRing, PageSampling};
        let (actor, ram, harts) = actor();
        assert_eq!(actor.send(QueryDirtyRate).await.unwrap(), DirtyRateReport::default());
        tokio::time::pause();
        for (mode, expected) in
            [(PageSampling, 16..=48), (DirtyBitmap, 30..=32), (DirtyRing, 3..=3)]
        {
            let message = MeasureDirtyRate { samples: None, ..measure(mode) };
            let message = match mode {
                // All 64 MiB have 1024 then.
                PageSampling => MeasureDirtyRate { samples: Some(16_384), ..message },
                _ => message,
            };
            actor.send(message).await.unwrap().unwrap();
            assert_eq!(actor.send(message).await.unwrap(), Err(RateError::Measuring));
            let value = mode as u8 + 1;
            ram.fill(RAM_BASE, 32 * MIB, value).unwrap();
            for (hart, pages) in [(0, 300), (1, 600)] {
                for _ in 0..pages {
                    harts.0[hart].writes.count();
                }
            }
            tokio::time::sleep(Duration::from_millis(1100)).await;
            let report = actor.send(QueryDirtyRate).await.unwrap();
            assert_eq!((report.status, report.mode), (RateStatus::Measured, mode));
            assert!(report.rate.is_some_and(|rate| expected.contains(&rate)), "{report:?}");
            let harts = (mode == DirtyRing).then(|| vec![1, 2]);
            assert_eq!(report.harts, harts);
            assert!((1000..1100).contains(&report.time), "{report:?}");
            assert!(!ram.dirty_map().is_on());
        }
    }

    #[actix::test]
    async fn what_cannot_be_measured_is_refused() {
        let (actor, ..) = actor();
        for (time, mode, samples, error) in [
            (49, MeasureMode::PageSampling, None, RateError::Time),
            (60_001, MeasureMode::DirtyBitmap, Some(0), RateError::Time),
            (50, MeasureMode::DirtyBitmap, Some(512), RateError::NoSamples),
            (50, MeasureMode::PageSampling, Some(127), RateError::Samples),
            (50, MeasureMode::PageSampling, Some(16_385), RateError::Samples),
        ] {
            let message = MeasureDirtyRate { time, mode, samples };
            assert_eq!(actor.send(message).await.unwrap(), Err(error));
        }
        assert_eq!(
            RateError::Time.to_string(),
            "Calculation time is out of range [50ms, 60000ms]."
        );
    }

    #[actix::test]
    async fn a_limited_hart_may_write_so_much_a_second() {
        let (actor, ram, harts) = actor();
        let limit = |cpu, rate| LimitWrites { cpu, rate, period: Duration::from_secs(1) };
        for cpu in [-1, 2] {
            // There is nothing to lift yet, whoever is asked about.
            assert_eq!(actor.send(limit(Some(cpu), 0)).await.unwrap(), Ok(()));
            assert_eq!(actor.send(limit(Some(cpu), 1)).await.unwrap(), Err(RateError::Cpu));
        }
        assert!(!ram.dirty_map().is_on());
        tokio::time::pause();
        actor.send(limit(Some(1), 4)).await.unwrap().unwrap();
        let limits = async || -> Vec<_> {
            let limits = actor.send(QueryWriteLimits).await.unwrap();
            limits.into_iter().map(|limit| (limit.cpu, limit.most)).collect()
        };
        assert_eq!(limits().await, [(1, 4)]);
        let (free, limited) = (&harts.0[0].writes, &harts.0[1].writes);
        assert!(!free.is_overdrawn() && limited.is_overdrawn());
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            while !limited.is_overdrawn() {
                limited.count();
            }
            limited.rest(Duration::from_millis(5));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // 4 MiB/s are 1024 pages a second.
        assert!((2900..3200).contains(&limited.pages()), "{}", limited.pages());
        assert!((3..=4).contains(&limited.rate()), "{}", limited.rate());
        // 16 MiB take 4 s, of which it rested most.
        assert!((3_000_000..=4_200_000).contains(&limited.rest_a_round()), "{limited:?}");
        assert_eq!((free.rate(), free.rest_a_round()), (0, 0));
        // A pause is not followed by a burst of everything that was not written.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let before = limited.pages();
        while !limited.is_overdrawn() {
            limited.count();
        }
        assert!(limited.pages() - before <= 1024 / 8, "{}", limited.pages() - before);
        actor.send(limit(None, 7)).await.unwrap().unwrap();
        assert_eq!(limits().await, [(0, 7), (1, 7)]);
        actor.send(limit(None, 0)).await.unwrap().unwrap();
        assert!(limits().await.is_empty());
        assert!(!limited.is_overdrawn() && !ram.dirty_map().is_on());
    }
}
