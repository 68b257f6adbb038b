//! Where a migration begins, at either end, and where a lost one goes on.

use std::sync::Arc;

use serde::Deserialize;

use super::dump;
use super::migration_settings::in_progress;
use crate::machine::message::{QueryStatus, RunState};
use crate::migration::cache::MigrationCache;
use crate::migration::capability::Capability;
use crate::migration::channel::{Address, MigrationChannel};
use crate::migration::message::{RecoverIncoming, Settings, Side, StartIncoming, StartMigration};
use crate::migration::status::MigrationStatus;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// What the vmstate code calls a device without a state description; such a blocker comes first,
/// and is told in other words when it refuses.
const NON_MIGRATABLE: &str = "non-migratable device: ";

/// Looking up the name of a host takes longer than any other answer: as many times the bound.
const LOOK_UP: u32 = 6;

/// `migrate`.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
pub struct Migrate {
    pub uri: Option<String>,
    pub channels: Option<Vec<MigrationChannel>>,
    /// QMP never waits for a migration, whatever this says.
    #[serde(rename = "detach")]
    _detach: Option<bool>,
    pub resume: Option<bool>,
}

impl Migrate {
    /// To a URI.
    pub fn to(uri: &str, resume: bool) -> Self {
        Self { uri: Some(uri.to_owned()), resume: Some(resume), ..Self::default() }
    }
}

impl Command for Migrate {
    const NAME: &'static str = "migrate";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let address = match either(self.uri, self.channels)? {
            Place::Uri(uri) => parse(&uri)?,
            Place::Channels(channels) => main_channel(channels)?,
        };
        let address = address.named_by(&services.passed.names);
        let migration = &services.migration;
        let settings = migration.settings();
        compatible(&address, &settings)?;
        let resume = self.resume.unwrap_or(false);
        if resume {
            resumable(services, &settings)?;
        } else {
            startable(services, &settings).await?;
        }
        let link = migration.link()?;
        // Somebody else may have started one while the machine was asked how it is.
        if !resume && !migration.update(MigrationCache::claim) {
            return Err(in_progress());
        }
        let message = StartMigration { address, settings, resume };
        let started = migration.ask(&link.start, Side::Source, services.bound, message).await;
        if started.is_err() {
            migration.update(MigrationCache::not_started);
        }
        started.map(|()| Empty {})
    }
}

/// `migrate-incoming`.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MigrateIncoming {
    pub uri: Option<String>,
    pub channels: Option<Vec<MigrationChannel>>,
    pub exit_on_error: Option<bool>,
}

impl Command for MigrateIncoming {
    const NAME: &'static str = "migrate-incoming";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        if services.migration.has_arrival() {
            return Err(already_started());
        }
        if run_state(services).await? != RunState::Inmigrate {
            let sentence = "'-incoming' was not specified on the command line";
            return Err(QmpError::generic(sentence));
        }
        let address = match either(self.uri, self.channels)? {
            Place::Uri(uri) => parse(&uri)?,
            Place::Channels(channels) if channels.len() > 1 => {
                let sentence = "Channel list must have only one entry, for type 'main'";
                return Err(QmpError::generic(sentence));
            }
            Place::Channels(channels) => main_channel(channels)?,
        };
        let address = address.named_by(&services.passed.names);
        listen(services, address, self.exit_on_error.unwrap_or(true)).await?;
        Ok(Empty {})
    }
}

/// Listen for a migration. After a failure it can be tried again.
pub async fn listen(
    services: &Services,
    address: Address,
    exit_on_error: bool,
) -> Result<(), QmpError> {
    let migration = &services.migration;
    let settings = migration.settings();
    compatible(&address, &settings)?;
    let link = migration.link()?;
    if !migration.claim_arrival() {
        return Err(already_started());
    }
    let message = StartIncoming { address, settings, exit_on_error };
    let bound = services.bound * LOOK_UP;
    let listening = migration.ask(&link.incoming, Side::Destination, bound, message).await;
    if listening.is_err() {
        migration.no_arrival();
    }
    listening
}

fn already_started() -> QmpError {
    QmpError::generic("The incoming migration has already been started")
}

/// `migrate-recover`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct MigrateRecover {
    pub uri: String,
}

impl Command for MigrateRecover {
    const NAME: &'static str = "migrate-recover";
    const OUT_OF_BAND: bool = true;
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let migration = &services.migration;
        let (busy, status) = migration.cache(|cache| (cache.busy(), cache.status()));
        if busy != Some(Side::Destination) || status != MigrationStatus::PostcopyPaused {
            let sentence = "Migrate recover can only be run when postcopy is paused.";
            return Err(QmpError::generic(sentence));
        }
        let address = parse(&self.uri)?.named_by(&services.passed.names);
        let peer = &migration.link()?.recover;
        let bound = services.bound * LOOK_UP;
        migration.ask(peer, Side::Destination, bound, RecoverIncoming { address }).await?;
        Ok(Empty {})
    }
}

enum Place {
    Uri(String),
    Channels(Vec<MigrationChannel>),
}

fn either(uri: Option<String>, channels: Option<Vec<MigrationChannel>>) -> Result<Place, QmpError> {
    match (uri, channels.filter(|channels| !channels.is_empty())) {
        (Some(uri), None) => Ok(Place::Uri(uri)),
        (None, Some(channels)) => Ok(Place::Channels(channels)),
        _ => Err(QmpError::generic("need either 'uri' or 'channels' argument")),
    }
}

/// Where a migration goes to or comes from.
pub fn parse(uri: &str) -> Result<Address, QmpError> {
    Address::parse(uri).map_err(|error| QmpError::generic(error.to_string()))
}

fn main_channel(channels: Vec<MigrationChannel>) -> Result<Address, QmpError> {
    Address::main(channels).map_err(|error| QmpError::generic(error.to_string()))
}

/// Whether what is switched on works over this kind of channel.
fn compatible(address: &Address, settings: &Settings) -> Result<(), QmpError> {
    let on = settings.capabilities;
    // What a descriptor is of shows when it is used.
    let seeks = matches!(address, Address::File { .. } | Address::Fd { .. });
    if on.has(Capability::MappedRam) && !seeks {
        return Err(QmpError::generic("Migration requires seekable transport (e.g. file)"));
    }
    let takes_many = match address {
        Address::Inet(_) | Address::Unix(_) | Address::Vsock { .. } => true,
        Address::File { .. } | Address::Fd { .. } => on.has(Capability::MappedRam),
        Address::Exec(_) => false,
    };
    let needs_many = on.has(Capability::Multifd) || on.has(Capability::PostcopyPreempt);
    if needs_many && !takes_many {
        return Err(QmpError::generic("Migration requires multi-channel URIs (e.g. tcp)"));
    }
    match settings.direct_io() && !matches!(address, Address::File { .. }) {
        true => Err(QmpError::generic(
            "Migration requires a transport that allows for extra fds (e.g. file)",
        )),
        false => Ok(()),
    }
}

/// Whether there is a postcopy that has lost its connection, and can get it back.
fn resumable(services: &Services, settings: &Settings) -> Result<(), QmpError> {
    let (busy, status) = services.migration.cache(|cache| (cache.busy(), cache.status()));
    if busy != Some(Side::Source) || status != MigrationStatus::PostcopyPaused {
        return Err(QmpError::generic("Cannot resume if there is no paused migration"));
    }
    match settings.capabilities.has(Capability::ReleaseRam) {
        true => Err(QmpError::generic(
            "Postcopy recovery cannot work when release-ram capability is set",
        )),
        false => Ok(()),
    }
}

async fn run_state(services: &Services) -> Result<RunState, QmpError> {
    let peer = &services.link.query_status;
    Ok(services.ask(peer, "query-status", QueryStatus).await?.state)
}

/// Whether a migration can start, in QEMU's order.
async fn startable(services: &Services, settings: &Settings) -> Result<(), QmpError> {
    let refused = |sentence: &str| Err(QmpError::generic(sentence));
    let (busy, blocked) =
        services.migration.cache(|cache| (cache.busy(), blocker(cache.blockers())));
    if busy == Some(Side::Source) {
        return Err(in_progress());
    }
    match run_state(services).await? {
        RunState::Inmigrate => return refused("Guest is waiting for an incoming migration"),
        RunState::Postmigrate => {
            return refused("Can't migrate the vm that was paused due to previous migration");
        }
        // What has arrived is still arriving: a postcopy.
        _ if busy.is_some() => return Err(in_progress()),
        _ => {}
    }
    if services.info.dump.is_active() {
        return refused(dump::BLOCKER);
    }
    if let Some(sentence) = blocked {
        return Err(QmpError::generic(sentence));
    }
    let mapped = settings.capabilities.has(Capability::MappedRam);
    if mapped && settings.parameters.uses_tls() {
        return refused("Cannot use TLS with mapped-ram");
    }
    if mapped && settings.parameters.compresses() {
        return refused("Cannot use compression with mapped-ram");
    }
    Ok(())
}

/// The blocker that refuses a migration, as it does so.
fn blocker(all: &[String]) -> Option<String> {
    let device = all.iter().find_map(|reason| reason.strip_prefix(NON_MIGRATABLE));
    match device {
        Some(path) => Some(format!("State blocked by non-migratable device '{path}'")),
        None => all.first().cloned(),
    }
}
