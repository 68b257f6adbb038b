//! A migration under way: how it stands, and what it can be told.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::dump;
use crate::migration::cache::{MigrationCache, MigrationInfo};
use crate::migration::capability::Capability;
use crate::migration::message::{
    CancelMigration, ContinueMigration, PauseMigration, Side, StartPostcopy,
};
use crate::migration::parameters::Parameters;
use crate::migration::status::MigrationStatus;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// `query-migrate`: from the cache, whatever has become of the actors.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryMigrate {}

impl Command for QueryMigrate {
    const NAME: &'static str = "query-migrate";
    type Return = MigrationInfo;

    async fn run(self, services: &Arc<Services>) -> Result<MigrationInfo, QmpError> {
        services.migration.check_actor(services.bound).await;
        let mut info = services.migration.cache(MigrationCache::info);
        if services.info.dump.is_active() {
            info.blocked_reasons.get_or_insert_default().push(dump::BLOCKER.to_owned());
        }
        Ok(info)
    }
}

/// `migrate_cancel`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct MigrateCancel {}

impl Command for MigrateCancel {
    const NAME: &'static str = "migrate_cancel";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let migration = &services.migration;
        let (busy, status) = migration.cache(|cache| (cache.busy(), cache.status()));
        if busy != Some(Side::Source) {
            return Ok(Empty {});
        }
        if status.is_postcopy() {
            return Err(QmpError::generic("Postcopy migration in progress, cannot cancel."));
        }
        let peer = &migration.link()?.cancel;
        migration.ask(peer, Side::Source, services.bound, CancelMigration).await?;
        Ok(Empty {})
    }
}

/// `migrate-continue`: out of the state that is named, which is the one that it must be in.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct MigrateContinue {
    pub state: MigrationStatus,
}

impl Command for MigrateContinue {
    const NAME: &'static str = "migrate-continue";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let migration = &services.migration;
        let source = migration.cache(|cache| cache.side() == Some(Side::Source));
        let status = match source {
            true => migration.cache(MigrationCache::status),
            false => MigrationStatus::None,
        };
        if status != self.state {
            let sentence = format!("Migration not in expected state: {status}");
            return Err(QmpError::generic(sentence));
        }
        if status == MigrationStatus::PreSwitchover {
            let peer = &migration.link()?.go_on;
            migration.ask(peer, Side::Source, services.bound, ContinueMigration).await?;
        }
        Ok(Empty {})
    }
}

/// `migrate-start-postcopy`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct MigrateStartPostcopy {}

impl Command for MigrateStartPostcopy {
    const NAME: &'static str = "migrate-start-postcopy";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let migration = &services.migration;
        if !migration.settings().capabilities.has(Capability::PostcopyRam) {
            return Err(QmpError::generic(
                "Enable postcopy with migrate_set_capability before the start of migration",
            ));
        }
        let (busy, side) = migration.cache(|cache| (cache.busy(), cache.side()));
        if busy != Some(Side::Source) && side != Some(Side::Source) {
            let sentence = "Postcopy must be started after migration has been started";
            return Err(QmpError::generic(sentence));
        }
        if busy == Some(Side::Source) {
            let peer = &migration.link()?.start_postcopy;
            migration.ask(peer, Side::Source, services.bound, StartPostcopy).await?;
        }
        Ok(Empty {})
    }
}

/// `migrate-pause`: of a postcopy, at either end.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct MigratePause {}

impl Command for MigratePause {
    const NAME: &'static str = "migrate-pause";
    const OUT_OF_BAND: bool = true;
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let migration = &services.migration;
        let (busy, status) = migration.cache(|cache| (cache.busy(), cache.status()));
        let alive =
            matches!(status, MigrationStatus::PostcopyActive | MigrationStatus::PostcopyRecover);
        let Some(side) = busy.filter(|_| alive) else {
            return Err(QmpError::generic(
                "migrate-pause is currently only supported during postcopy-active or \
                 postcopy-recover state",
            ));
        };
        let link = migration.link()?;
        let peer = match side {
            Side::Source => &link.pause,
            Side::Destination => &link.pause_incoming,
        };
        migration.ask(peer, side, services.bound, PauseMigration).await?;
        Ok(Empty {})
    }
}

/// QAPI `MigrationThreadInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationThreadInfo {
    pub name: String,
    pub thread_id: u32,
}

/// `query-migrationthreads`: those that send pages. The actors share the process' arbiters: none
/// has a thread of its own.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryMigrationThreads {}

impl Command for QueryMigrationThreads {
    const NAME: &'static str = "query-migrationthreads";
    type Return = Vec<MigrationThreadInfo>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<MigrationThreadInfo>, QmpError> {
        let info = |(name, thread_id): &(String, u32)| MigrationThreadInfo {
            name: name.clone(),
            thread_id: *thread_id,
        };
        Ok(services.migration.cache(|cache| cache.threads().iter().map(info).collect()))
    }
}

/// `announce-self`: QAPI `AnnounceParameters`. The machine has no network interface that could
/// announce itself, so there is nothing to be sent.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct AnnounceSelf {
    #[serde(rename = "initial")]
    _initial: i64,
    #[serde(rename = "max")]
    _max: i64,
    #[serde(rename = "rounds")]
    _rounds: i64,
    #[serde(rename = "step")]
    _step: i64,
    #[serde(rename = "interfaces")]
    _interfaces: Option<Vec<String>>,
    #[serde(rename = "id")]
    _id: Option<String>,
}

impl AnnounceSelf {
    /// As the migration parameters say.
    pub fn new(
        parameters: &Parameters,
        interfaces: Option<Vec<String>>,
        id: Option<String>,
    ) -> Self {
        Self {
            _initial: parameters.announce_initial.cast_signed(),
            _max: parameters.announce_max.cast_signed(),
            _rounds: parameters.announce_rounds.cast_signed(),
            _step: parameters.announce_step.cast_signed(),
            _interfaces: interfaces,
            _id: id,
        }
    }
}

impl Command for AnnounceSelf {
    const NAME: &'static str = "announce-self";
    type Return = Empty;

    async fn run(self, _: &Arc<Services>) -> Result<Empty, QmpError> {
        Ok(Empty {})
    }
}
