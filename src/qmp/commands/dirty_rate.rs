//! How fast the guest writes its memory: measured on demand, and limited.

use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};
use serde::{Deserialize, Serialize};

use crate::machine::dirty_rate::{
    LimitWrites, MeasureDirtyRate, MeasureMode, QueryDirtyRate as Report, QueryWriteLimits,
    RateStatus, WriteLimit,
};
use crate::migration::cache::MigrationCache;
use crate::migration::capability::Capability;
use crate::migration::message::Side;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;
use crate::qmp::migration::DirtyRateLink;

/// Over so long pages that are written more than once count once, unless a migration says so.
const PERIOD: Duration = Duration::from_secs(1);

/// QAPI `TimeUnit`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum TimeUnit {
    #[default]
    Second,
    Millisecond,
}

impl TimeUnit {
    /// How many ms it has.
    fn millis(self) -> u32 {
        match self {
            Self::Second => 1000,
            Self::Millisecond => 1,
        }
    }
}

fn link(services: &Services) -> Result<&DirtyRateLink, QmpError> {
    let none = || QmpError::generic("This machine does not measure what its guest writes");
    services.migration.link()?.dirty_rate.as_ref().ok_or_else(none)
}

async fn ask<M, R>(services: &Services, peer: &Recipient<M>, message: M) -> Result<R, QmpError>
where
    M: Message<Result = R> + Send + 'static,
    R: Send + 'static,
{
    match tokio::time::timeout(services.bound, peer.send(message)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(QmpError::generic("Who measures what the guest writes has died")),
        Err(_) => Err(QmpError::generic("Who measures what the guest writes does not answer")),
    }
}

/// `calc-dirty-rate`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CalcDirtyRate {
    pub calc_time: i64,
    pub calc_time_unit: Option<TimeUnit>,
    pub sample_pages: Option<i64>,
    pub mode: Option<MeasureMode>,
}

impl Command for CalcDirtyRate {
    const NAME: &'static str = "calc-dirty-rate";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let unit = self.calc_time_unit.unwrap_or_default();
        let message = MeasureDirtyRate {
            time: self.calc_time.saturating_mul(unit.millis().into()),
            mode: self.mode.unwrap_or_default(),
            samples: self.sample_pages,
        };
        let measured = ask(services, &link(services)?.measure, message).await?;
        measured.map_err(|error| QmpError::generic(error.to_string()))?;
        Ok(Empty {})
    }
}

/// QAPI `DirtyRateVcpu`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DirtyRateVcpu {
    pub id: usize,
    pub dirty_rate: u64,
}

/// QAPI `DirtyRateInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DirtyRateInfo {
    pub status: RateStatus,
    pub sample_pages: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_rate: Option<u64>,
    pub mode: MeasureMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_dirty_rate: Option<Vec<DirtyRateVcpu>>,
    pub calc_time_unit: TimeUnit,
    pub start_time: u64,
    pub calc_time: u64,
}

/// `query-dirty-rate`.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QueryDirtyRate {
    pub calc_time_unit: Option<TimeUnit>,
}

impl Command for QueryDirtyRate {
    const NAME: &'static str = "query-dirty-rate";
    type Return = DirtyRateInfo;

    async fn run(self, services: &Arc<Services>) -> Result<DirtyRateInfo, QmpError> {
        let report = ask(services, &link(services)?.query, Report).await?;
        let calc_time_unit = self.calc_time_unit.unwrap_or_default();
        let vcpu = |(id, dirty_rate)| DirtyRateVcpu { id, dirty_rate };
        Ok(DirtyRateInfo {
            status: report.status,
            sample_pages: report.samples,
            dirty_rate: report.rate,
            mode: report.mode,
            vcpu_dirty_rate: report
                .harts
                .map(|rates| rates.into_iter().enumerate().map(vcpu).collect()),
            calc_time_unit,
            start_time: report.start,
            calc_time: report.time / u64::from(calc_time_unit.millis()),
        })
    }
}

/// A migration under way limits the harts itself.
async fn may_limit(services: &Services, verb: &str) -> Result<(), QmpError> {
    let migrates = services.migration.cache(MigrationCache::busy) == Some(Side::Source);
    let limits = services.migration.settings().capabilities.has(Capability::DirtyLimit);
    if !migrates || !limits {
        return Ok(());
    }
    match ask(services, &link(services)?.limits, QueryWriteLimits).await?.is_empty() {
        true => Ok(()),
        false => Err(QmpError::generic(format!(
            "can't {verb} dirty page rate limit while migration is running"
        ))),
    }
}

/// `set-vcpu-dirty-limit`. QEMU has it only with KVM's dirty ring; here harts count what they write.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SetVcpuDirtyLimit {
    pub cpu_index: Option<i64>,
    pub dirty_rate: u64,
}

impl Command for SetVcpuDirtyLimit {
    const NAME: &'static str = "set-vcpu-dirty-limit";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        may_limit(services, "set").await?;
        let message = LimitWrites { cpu: self.cpu_index, rate: self.dirty_rate, period: PERIOD };
        let limited = ask(services, &link(services)?.limit, message).await?;
        limited.map_err(|error| QmpError::generic(error.to_string()))?;
        Ok(Empty {})
    }
}

/// `cancel-vcpu-dirty-limit`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CancelVcpuDirtyLimit {
    pub cpu_index: Option<i64>,
}

impl Command for CancelVcpuDirtyLimit {
    const NAME: &'static str = "cancel-vcpu-dirty-limit";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        may_limit(services, "cancel").await?;
        let message = LimitWrites { cpu: self.cpu_index, rate: 0, period: PERIOD };
        let limited = ask(services, &link(services)?.limit, message).await?;
        limited.map_err(|error| QmpError::generic(error.to_string()))?;
        Ok(Empty {})
    }
}

/// QAPI `DirtyLimitInfo`, in MiB/s.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DirtyLimitInfo {
    pub cpu_index: usize,
    pub limit_rate: u64,
    pub current_rate: u64,
}

/// `query-vcpu-dirty-limit`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryVcpuDirtyLimit {}

impl Command for QueryVcpuDirtyLimit {
    const NAME: &'static str = "query-vcpu-dirty-limit";
    type Return = Vec<DirtyLimitInfo>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<DirtyLimitInfo>, QmpError> {
        let limits = ask(services, &link(services)?.limits, QueryWriteLimits).await?;
        let info = |limit: WriteLimit| DirtyLimitInfo {
            cpu_index: limit.cpu,
            limit_rate: limit.most,
            current_rate: limit.rate,
        };
        Ok(limits.into_iter().map(info).collect())
    }
}
