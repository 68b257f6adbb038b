//! What the monitor asks of the migration actors, and what they tell it.

use std::sync::Arc;

use actix::Message;
use serde_json::Value;

use super::capability::{Capabilities, Capability};
use super::channel::Address;
use super::parameters::Parameters;
use super::status::{ErrorDesc, MigrationState};

/// Capabilities and parameters: as they stood when an outgoing migration was started, and as they
/// stand for one that is to come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub capabilities: Capabilities,
    pub parameters: Parameters,
}

impl Settings {
    /// Whether pages go past the host's cache. Only files have one, and only channels beside the
    /// main one write whole pages alone.
    pub fn direct_io(&self) -> bool {
        let both = [Capability::MappedRam, Capability::Multifd];
        self.parameters.direct_io && both.into_iter().all(|c| self.capabilities.has(c))
    }
}

/// Figures of a migration under way, in QAPI's units (`MigrationInfo`, `MigrationStats`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    pub ram: RamStats,
    pub xbzrle: Option<XbzrleStats>,
    /// ms since the start
    pub total_time: u64,
    /// ms
    pub setup_time: u64,
    /// ms; known once the guest has stopped for good
    pub downtime: Option<u64>,
    /// ms; before that
    pub expected_downtime: Option<u64>,
    /// percent; only while vCPUs are throttled
    pub cpu_throttle_percentage: Option<u8>,
    /// Only while writing is limited.
    pub dirty_limit: Option<WriteLimits>,
    /// Threads that send: name, and the host's id.
    pub threads: Vec<(String, u32)>,
    /// ms since bytes last went either way, while the channel does not take or give any
    pub stalled: Option<u64>,
    /// Of a destination: how long vCPUs waited for pages.
    pub blocktime: Option<Blocktime>,
}

/// QAPI's `postcopy-blocktime` and `postcopy-vcpu-blocktime`, in ms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocktime {
    /// While all vCPUs waited.
    pub all: u32,
    /// While each did.
    pub vcpus: Vec<u32>,
}

/// What `dirty-limit` does to the harts, by the round of `cpu::writes::ROUND` pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteLimits {
    /// Longest time that a hart rests in a round, in µs.
    pub rest: u64,
    /// Time that a round takes on the average, in µs; 0 if nothing is written.
    pub round: u64,
}

/// QAPI `MigrationStats`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RamStats {
    pub transferred: u64,
    pub remaining: u64,
    pub total: u64,
    pub duplicate: u64,
    pub normal: u64,
    pub normal_bytes: u64,
    pub dirty_pages_rate: u64,
    pub mbps: f64,
    pub dirty_sync_count: u64,
    pub postcopy_requests: u64,
    pub page_size: u64,
    pub multifd_bytes: u64,
    pub pages_per_second: u64,
    pub precopy_bytes: u64,
    pub downtime_bytes: u64,
    pub postcopy_bytes: u64,
    pub dirty_sync_missed_zero_copy: u64,
}

/// QAPI `XBZRLECacheStats`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct XbzrleStats {
    pub cache_size: u64,
    pub bytes: u64,
    pub pages: u64,
    pub cache_miss: u64,
    pub cache_miss_rate: f64,
    pub encoding_rate: f64,
    pub overflow: u64,
}

/// Which end of a migration this machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// Migration actor → monitor. A failure's reason is in the log and in the monitor's cache before
/// any client hears of the failure, because this message is where all three begin.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub enum MigrationEvent {
    /// Entered a state; the figures are those at that moment.
    State { side: Side, state: MigrationState, progress: Box<Progress> },
    /// Figures only (a few times a second).
    Progress(Box<Progress>),
    /// A pass over memory begins (event MIGRATION_PASS).
    Pass(u64),
    /// The destination listens at these addresses (QAPI `SocketAddress` each).
    Listening(Vec<Value>),
}

/// Monitor → source: `migrate_cancel`. Answered when the cancellation is under way.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), ErrorDesc>")]
pub struct CancelMigration;

/// Monitor → source: `migrate-continue` out of `pre-switchover`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), ErrorDesc>")]
pub struct ContinueMigration;

/// Monitor → source: `migrate-start-postcopy`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), ErrorDesc>")]
pub struct StartPostcopy;

/// Monitor → source or destination: `migrate-pause`, of a postcopy.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), ErrorDesc>")]
pub struct PauseMigration;

/// Monitor → source and destination: `yank`: cut every connection of the migration, as a network
/// may.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CutMigration;

/// Monitor → source: parameters that may change under way have changed.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct UpdateParameters(pub Parameters);

/// Monitor → destination: capabilities or parameters have changed. They hold for what connects from
/// now on.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct UpdateSettings(pub Settings);

/// Monitor → source or destination: answered at once by an actor that lives.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Ping;

/// What refuses every migration of this machine, in QEMU's words.
pub type Blockers = Arc<[String]>;

/// Monitor → source: start (`migrate`). Channels that are opened on the spot (fd, file, exec)
/// answer their failure here as well as by `Failed`; for the others the answer is at once. `Setup`
/// (when resuming, `PostcopyRecoverSetup`) is told before the answer.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), ErrorDesc>")]
pub struct StartMigration {
    pub address: Address,
    pub settings: Settings,
    /// Go on with a postcopy that lost its connection.
    pub resume: bool,
}

/// Monitor → destination: listen and load (`-incoming URI`, `migrate-incoming`). Answered when it
/// listens or could not.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), ErrorDesc>")]
pub struct StartIncoming {
    pub address: Address,
    /// As they are now; `UpdateSettings` says how they change.
    pub settings: Settings,
    /// End the process with code 1 when it fails.
    pub exit_on_error: bool,
}

/// Monitor → destination: `migrate-recover`: listen anew for a paused postcopy.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), ErrorDesc>")]
pub struct RecoverIncoming {
    pub address: Address,
}
