//! What the monitors hold of migration: the links to its actors, the settings of the next one, and
//! the cache of the last, which alone answers what clients ask.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, Context, Handler, Recipient};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::error::QmpError;
use crate::machine::dirty_rate::{LimitWrites, MeasureDirtyRate, QueryDirtyRate, QueryWriteLimits};
use crate::migration::cache::MigrationCache;
use crate::migration::message::{
    CancelMigration, ContinueMigration, CutMigration, MigrationEvent, PauseMigration, Ping,
    RecoverIncoming, Settings, Side, StartIncoming, StartMigration, StartPostcopy,
    UpdateParameters, UpdateSettings,
};
use crate::migration::status::{ErrorDesc, MigrationState};

/// Every message the monitors send to the migration actors.
#[derive(Debug, Clone)]
pub struct MigrationLink {
    pub start: Recipient<StartMigration>,
    pub cancel: Recipient<CancelMigration>,
    pub go_on: Recipient<ContinueMigration>,
    pub start_postcopy: Recipient<StartPostcopy>,
    pub pause: Recipient<PauseMigration>,
    pub update: Recipient<UpdateParameters>,
    pub cut: Recipient<CutMigration>,
    pub ping_source: Recipient<Ping>,
    pub incoming: Recipient<StartIncoming>,
    pub update_incoming: Recipient<UpdateSettings>,
    pub recover: Recipient<RecoverIncoming>,
    pub pause_incoming: Recipient<PauseMigration>,
    pub cut_incoming: Recipient<CutMigration>,
    pub ping_destination: Recipient<Ping>,
    pub dirty_rate: Option<DirtyRateLink>,
}

/// Who measures and limits how fast the guest writes.
#[derive(Debug, Clone)]
pub struct DirtyRateLink {
    pub measure: Recipient<MeasureDirtyRate>,
    pub query: Recipient<QueryDirtyRate>,
    pub limit: Recipient<LimitWrites>,
    pub limits: Recipient<QueryWriteLimits>,
}

impl MigrationLink {
    /// The link to the two actors.
    pub fn to<S, D>(source: &Addr<S>, destination: &Addr<D>) -> Self
    where
        S: Actor<Context = Context<S>>
            + Handler<StartMigration>
            + Handler<CancelMigration>
            + Handler<ContinueMigration>
            + Handler<StartPostcopy>
            + Handler<PauseMigration>
            + Handler<CutMigration>
            + Handler<UpdateParameters>
            + Handler<Ping>,
        D: Actor<Context = Context<D>>
            + Handler<StartIncoming>
            + Handler<UpdateSettings>
            + Handler<RecoverIncoming>
            + Handler<PauseMigration>
            + Handler<CutMigration>
            + Handler<Ping>,
    {
        Self {
            start: source.clone().recipient(),
            cancel: source.clone().recipient(),
            go_on: source.clone().recipient(),
            start_postcopy: source.clone().recipient(),
            pause: source.clone().recipient(),
            update: source.clone().recipient(),
            cut: source.clone().recipient(),
            ping_source: source.clone().recipient(),
            incoming: destination.clone().recipient(),
            update_incoming: destination.clone().recipient(),
            recover: destination.clone().recipient(),
            pause_incoming: destination.clone().recipient(),
            cut_incoming: destination.clone().recipient(),
            ping_destination: destination.clone().recipient(),
            dirty_rate: None,
        }
    }

    /// With somebody who measures and limits how fast the guest writes.
    pub fn measured_by<A>(mut self, measurer: &Addr<A>) -> Self
    where
        A: Actor<Context = Context<A>>
            + Handler<MeasureDirtyRate>
            + Handler<QueryDirtyRate>
            + Handler<LimitWrites>
            + Handler<QueryWriteLimits>,
    {
        self.dirty_rate = Some(DirtyRateLink {
            measure: measurer.clone().recipient(),
            query: measurer.clone().recipient(),
            limit: measurer.clone().recipient(),
            limits: measurer.clone().recipient(),
        });
        self
    }
}

/// Shared by the monitor and the commands that it executes.
#[derive(Debug)]
pub struct Migration {
    /// Set once the actors are there.
    link: OnceLock<MigrationLink>,
    settings: Mutex<Settings>,
    cache: Mutex<MigrationCache>,
    /// Counts changes of the cache.
    changed: watch::Sender<u64>,
    /// Where an event goes that a dead actor can no longer tell.
    monitor: Recipient<MigrationEvent>,
    /// An actor has been asked whether it lives.
    asked: AtomicBool,
    /// The destination listens, or has.
    arrival: AtomicBool,
}

/// What has become of a migration that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// Under way; percent of the memory that is over there, once that is known.
    Going(Option<u64>),
    /// Over, or paused until somebody asks for more; with the reason if it failed.
    Settled(Option<ErrorDesc>),
}

impl Migration {
    pub fn new(
        settings: Settings,
        cache: MigrationCache,
        monitor: Recipient<MigrationEvent>,
    ) -> Self {
        Self {
            link: OnceLock::new(),
            settings: Mutex::new(settings),
            cache: Mutex::new(cache),
            changed: watch::Sender::new(0),
            monitor,
            asked: AtomicBool::new(false),
            arrival: AtomicBool::new(false),
        }
    }

    /// Whether the one incoming migration of this machine has been started.
    pub fn has_arrival(&self) -> bool {
        self.arrival.load(Ordering::Relaxed)
    }

    /// Start it; false if it has been.
    pub fn claim_arrival(&self) -> bool {
        !self.arrival.swap(true, Ordering::Relaxed)
    }

    /// It could not be started.
    pub fn no_arrival(&self) {
        self.arrival.store(false, Ordering::Relaxed);
    }

    /// The actors are there. Those that came first stay.
    pub fn connect(&self, link: MigrationLink) {
        let _ = self.link.set(link);
    }

    /// The actors, or that there are none.
    pub fn link(&self) -> Result<&MigrationLink, QmpError> {
        self.link.get().ok_or_else(|| QmpError::generic("This machine cannot migrate"))
    }

    /// Capabilities and parameters as they stand.
    pub fn settings(&self) -> Settings {
        self.settings.lock().clone()
    }

    /// Change them; an error leaves them alone. A destination that waits is told.
    pub fn change<T, E>(&self, change: impl FnOnce(&mut Settings) -> Result<T, E>) -> Result<T, E> {
        let mut settings = self.settings.lock();
        let mut new = settings.clone();
        let done = change(&mut new)?;
        if let Some(link) = self.link.get() {
            // Under the lock, so that changes arrive in their order.
            link.update_incoming.do_send(UpdateSettings(new.clone()));
        }
        *settings = new;
        Ok(done)
    }

    /// Look into the cache.
    pub fn cache<T>(&self, look: impl FnOnce(&MigrationCache) -> T) -> T {
        look(&self.cache.lock())
    }

    /// Take in what an actor tells.
    pub fn apply(&self, event: &MigrationEvent) {
        self.update(|cache| cache.apply(event));
    }

    /// Change the cache and wake whoever waits for that.
    pub fn update<T>(&self, change: impl FnOnce(&mut MigrationCache) -> T) -> T {
        let done = change(&mut self.cache.lock());
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        done
    }

    /// Ask a migration actor; one that does not answer within `bound` has died.
    pub async fn ask<M>(
        &self,
        peer: &Recipient<M>,
        side: Side,
        bound: Duration,
        message: M,
    ) -> Result<(), QmpError>
    where
        M: actix::Message<Result = Result<(), ErrorDesc>> + Send + 'static,
    {
        match tokio::time::timeout(bound, peer.send(message)).await {
            Ok(Ok(answer)) => answer.map_err(|reason| QmpError::generic(reason.as_str())),
            Ok(Err(_)) => Err(self.bury(side, GONE.into()).await),
            Err(_) => Err(self.bury(side, silent(bound)).await),
        }
    }

    /// Find out whether the actor of a migration under way lives. One that is gone has failed now;
    /// one that does not answer within `bound` has failed then, and nobody waits for that here.
    pub async fn check_actor(self: &std::sync::Arc<Self>, bound: Duration) {
        let Some(link) = self.link.get() else { return };
        let (side, peer) = match self.cache(MigrationCache::busy) {
            None => return,
            Some(Side::Source) => (Side::Source, link.ping_source.clone()),
            Some(Side::Destination) => (Side::Destination, link.ping_destination.clone()),
        };
        if !peer.connected() {
            self.bury(side, GONE.into()).await;
            return;
        }
        if self.asked.swap(true, Ordering::Relaxed) {
            return;
        }
        let migration = std::sync::Arc::clone(self);
        actix::spawn(async move {
            let answer = tokio::time::timeout(bound, peer.send(Ping)).await;
            migration.asked.store(false, Ordering::Relaxed);
            match answer {
                Ok(Ok(())) => {}
                Ok(Err(_)) => drop(migration.bury(side, GONE.into()).await),
                Err(_) => drop(migration.bury(side, silent(bound)).await),
            }
        });
    }

    /// A migration whose actor has died has failed, as if the actor had told so.
    async fn bury(&self, side: Side, how: String) -> QmpError {
        let reason = ErrorDesc::from(format!("The migration's actor has died: {how}"));
        let error = QmpError::generic(reason.as_str());
        if self.cache(MigrationCache::busy) == Some(side) {
            let state = MigrationState::Failed(reason);
            let event = MigrationEvent::State { side, state, progress: Box::default() };
            // An error means that the monitor is stopping; nobody asks it any more.
            let _ = self.monitor.send(event).await;
        }
        error
    }

    /// How the migration stands: after any change, and at the latest after `patience`.
    pub async fn outlook(&self, patience: Duration) -> Outlook {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                if let Some(settled) = self.cache(settled) {
                    return settled;
                }
                if changed.changed().await.is_err() {
                    return Outlook::Settled(None);
                }
            }
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(settled) => settled,
            Err(_) => Outlook::Going(self.cache(MigrationCache::percent)),
        }
    }
}

const GONE: &str = "it takes no more messages";

fn silent(bound: Duration) -> String {
    format!("no answer within {} ms", bound.as_millis())
}

/// The end of a migration, or a pause that lasts until somebody asks for more.
fn settled(cache: &MigrationCache) -> Option<Outlook> {
    let paused = cache.is_waiting_for_command();
    (cache.busy().is_none() || paused).then(|| Outlook::Settled(cache.told_reason().cloned()))
}
