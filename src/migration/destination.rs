//! The incoming side: an actor that listens, has the stream loaded on a thread of its own, and
//! starts the machine.
//!
//! Loading blocks (it reads a socket and copies memory), so it is the one part of a migration that
//! is not a task of an arbiter. What the thread does with the machine goes through messages and
//! through guest RAM; the machine does not run, so nobody else does.

mod blocking;
mod load;
mod multifd;
mod postcopy;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix::prelude::*;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::capability::Capability;
use super::channel::{Address, Channel, ChannelControl};
use super::message::{
    CutMigration, MigrationEvent, PauseMigration, Ping, Progress, RecoverIncoming, Settings, Side,
    StartIncoming, UpdateSettings,
};
use super::ram::loader::{Incoming, RamLoader};
use super::ram::mapped::MappedFile;
use super::sections::Sections;
use super::status::{ErrorDesc, MigrationState, MigrationStatus};
use super::stream::{LoadError, StreamInput};
use crate::actors::outlet::Outlet;
use crate::machine::memory::GuestRam;
use crate::machine::message::{Arrived, ReleaseDrives, RunState, TakeDrives};
use crate::machine::presence::Ask;
use crate::machine::vm::Exited;
use load::{Afterwards, Connected, Load, Loaded};
use multifd::{Gathering, Opening};
use postcopy::{Entered, Shared};

/// Why there is no channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptError {
    /// This connection came to nothing (a handshake that failed); others may come.
    Connection(ErrorDesc),
    /// The source does not want to talk to us: what it does not like it would find again.
    Refused(ErrorDesc),
    /// None will come.
    Final(ErrorDesc),
}

/// A listener's next channel.
pub type Accepting<'a> = Pin<Box<dyn Future<Output = Result<Channel, AcceptError>> + Send + 'a>>;

/// What listens.
pub trait Accept: Send {
    /// QAPI `SocketAddress` each.
    fn addresses(&self) -> Vec<Value>;
    fn accept(&mut self) -> Accepting<'_>;
}

/// A listener that is being made.
pub type Listening = Pin<Box<dyn Future<Output = Result<Box<dyn Accept>, ErrorDesc>> + Send>>;

/// Capabilities and parameters as they stand whenever they are looked at.
pub type LiveSettings = watch::Receiver<Settings>;

/// Makes listeners, which use TLS with what connects while the settings ask for it.
pub trait Listen: Send + Sync {
    fn listen(&self, address: &Address, settings: LiveSettings) -> Listening;
}

/// Guest memory as it is loaded.
pub trait MemoryTarget: Send {
    /// The section begins.
    fn begin(&mut self, version: u32) -> Result<(), LoadError>;
    /// Take a piece of the section. `flush` waits for all channels of a multifd migration.
    fn piece(
        &mut self,
        input: &mut StreamInput,
        flush: &mut dyn FnMut() -> Result<(), LoadError>,
    ) -> Result<(), LoadError>;
    /// Take the section's first piece, and with it all pages, from a file (capability
    /// `mapped-ram`), from `position` on; where the stream goes on.
    fn mapped(&mut self, from: MappedFile<'_>, position: u64) -> Result<u64, LoadError>;
    /// Where other channels put pages, once the section has begun.
    fn incoming(&self) -> Option<Arc<[Incoming]>>;
    /// What keeps account of the pages, once the section has begun.
    fn loader(&mut self) -> Option<&mut RamLoader>;
    /// A postcopy begins: the machine will run without what has not come; `ask` is how to ask for
    /// pages of its RAM, which is returned.
    fn listen(&mut self, ask: Ask) -> Result<Arc<GuestRam>, LoadError>;
}

/// Makes the memory of one migration.
pub type MakeTarget = Box<dyn Fn(&Settings) -> Box<dyn MemoryTarget> + Send + Sync>;

/// What the destination works with.
pub struct DestinationPeers {
    pub events: Recipient<MigrationEvent>,
    pub take_drives: Recipient<TakeDrives>,
    pub release_drives: Recipient<ReleaseDrives>,
    pub arrived: Recipient<Arrived>,
    /// With `exit-on-error`: the process ends.
    pub exit: Outlet<Exited>,
    pub listen: Box<dyn Listen>,
    pub memory: MakeTarget,
    pub sections: Sections,
    /// The machine type, e.g. `virt`.
    pub machine: String,
    /// `-uuid`
    pub uuid: Option<[u8; 16]>,
}

impl std::fmt::Debug for DestinationPeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DestinationPeers({} sections)", self.sections.sources.len())
    }
}

/// The actor.
#[derive(Debug)]
pub struct MigrationDestination {
    peers: Arc<DestinationPeers>,
    status: MigrationStatus,
    /// Those of a migration are what they are when its source connects.
    settings: watch::Sender<Settings>,
    /// Ends the channel when the actor ends.
    channel: Option<ChannelControl>,
    /// What a postcopy needs to go on over another channel.
    recovery: Option<Recovery>,
}

/// See `RecoverIncoming`.
#[derive(Debug)]
struct Recovery {
    channels: mpsc::UnboundedSender<Channel>,
    /// Channels for pages that are waited for (capability `postcopy-preempt`).
    urgent: mpsc::UnboundedSender<Channel>,
    /// What waits for the source at present.
    waits: Option<SpawnHandle>,
    /// `migrate-pause` ends the channel.
    by_user: bool,
}

impl MigrationDestination {
    /// Nothing comes yet.
    pub fn new(peers: DestinationPeers) -> Self {
        let (status, settings) = (MigrationStatus::None, watch::Sender::default());
        Self { peers: Arc::new(peers), status, settings, channel: None, recovery: None }
    }

    fn enter(&mut self, state: MigrationState) {
        self.enter_with(state, Progress::default());
    }

    fn enter_with(&mut self, state: MigrationState, progress: Progress) {
        self.status = state.status();
        let progress = Box::new(progress);
        let event = MigrationEvent::State { side: Side::Destination, state, progress };
        self.peers.events.do_send(event);
    }

    /// It listens: wait for the source.
    fn wait(&mut self, listener: Box<dyn Accept>, exit_on_error: bool, ctx: &mut Context<Self>) {
        self.enter(MigrationState::Setup);
        let addresses = listener.addresses();
        if !addresses.is_empty() {
            self.peers.events.do_send(MigrationEvent::Listening(addresses));
        }
        // The channels of a file are threads that read it. multifd can be switched off from now on,
        // but no longer on.
        let capabilities = self.settings.borrow().capabilities;
        if capabilities.has(Capability::Multifd) && !capabilities.has(Capability::MappedRam) {
            let mut gathering = Gathering::new(listener);
            let connected = async move {
                let main = gathering.main().await;
                main.map(|main| (main, gathering))
            };
            ctx.spawn(connected.into_actor(self).map(
                move |connected, this, ctx| match connected {
                    Ok((Opening { channel, head }, gathering)) => {
                        let settings = this.settings.borrow().clone();
                        let sides = settings.capabilities.has(Capability::Multifd).then(|| {
                            let uuid = this.peers.uuid.unwrap_or_default();
                            let (sides, taking) = multifd::prepare(gathering, &settings, uuid);
                            ctx.spawn(taking.into_actor(this));
                            sides
                        });
                        let incoming = Connected { channel, head: head.to_vec(), sides };
                        this.load(incoming, settings, exit_on_error, ctx);
                    }
                    Err(reason) => this.fail(reason, exit_on_error),
                },
            ));
            return;
        }
        ctx.spawn(next(listener, exit_on_error).into_actor(self).map(
            move |connected, this, ctx| match connected {
                Ok((channel, listener)) => {
                    let incoming = Connected { channel, head: Vec::new(), sides: None };
                    let settings = this.settings.borrow().clone();
                    this.load(incoming, settings, exit_on_error, ctx);
                    this.accept_urgent(listener, ctx);
                }
                Err(reason) => this.fail(reason, exit_on_error),
            },
        ));
    }

    /// Connected: load.
    fn load(
        &mut self,
        connected: Connected,
        settings: Settings,
        exit_on_error: bool,
        ctx: &mut Context<Self>,
    ) {
        self.channel = Some(connected.channel.control());
        self.enter(MigrationState::Active);
        let memory = (self.peers.memory)(&settings);
        let (channels, more) = mpsc::unbounded_channel();
        let (urgent, urgents) = mpsc::unbounded_channel();
        let recovery = Recovery { channels, urgent, waits: None, by_user: false };
        self.recovery = Some(recovery);
        let after = Afterwards { actor: ctx.address(), channels: more, urgents };
        let load = Load::new(Arc::clone(&self.peers), settings, memory, connected, after);
        let thread = tokio::task::spawn_blocking(move || load.run());
        ctx.spawn(thread.into_actor(self).map(move |loaded, this, ctx| {
            let loaded = loaded
                .unwrap_or_else(|died| Err(ErrorDesc::of_task(died, "loading the migration")));
            match loaded {
                Ok(Loaded::Whole(arrived)) => this.start(arrived, exit_on_error, ctx),
                Ok(Loaded::Begun(arrived, shared)) => this.begin(arrived, shared, ctx),
                Err(reason) => this.fail(reason, exit_on_error),
            }
        }));
    }

    /// Loaded: the machine goes on here.
    fn start(&mut self, arrived: Arrived, exit_on_error: bool, ctx: &mut Context<Self>) {
        let started = self.peers.arrived.send(arrived).into_actor(self);
        ctx.spawn(started.map(move |started, this, ctx| match started {
            Ok(Ok(())) => {
                this.forget(ctx);
                this.enter(MigrationState::Completed);
            }
            Ok(Err(refusal)) => {
                // The source may want to go on with them.
                this.peers.release_drives.do_send(ReleaseDrives);
                this.fail(ErrorDesc::from(refusal.0), exit_on_error);
            }
            Err(_) => this.fail(ErrorDesc::new("the machine has failed"), exit_on_error),
        }));
    }

    /// Loaded but for memory, which comes while the machine runs.
    fn begin(&mut self, arrived: Arrived, shared: Arc<Shared>, ctx: &mut Context<Self>) {
        if self.status == MigrationStatus::Active {
            self.enter(MigrationState::PostcopyActive);
        }
        let peers = Arc::clone(&self.peers);
        let started = async move {
            let answer = peers.arrived.send(arrived).await;
            if let Ok(Err(refusal)) = &answer {
                // There is no way back to the source. The machine waits for `cont`.
                tracing::error!("incoming migration: {refusal}");
                let _ = peers.arrived.send(Arrived { was: RunState::Paused }).await;
            }
            shared.started();
        };
        ctx.spawn(started.into_actor(self));
    }

    fn fail(&mut self, reason: ErrorDesc, exit_on_error: bool) {
        self.channel = None;
        self.recovery = None;
        self.enter(MigrationState::Failed(reason));
        if exit_on_error {
            self.peers.exit.send(Exited { code: 1 });
        }
    }
}

/// The next channel, and where others come from.
async fn next(
    mut listener: Box<dyn Accept>,
    refusal_ends: bool,
) -> Result<(Channel, Box<dyn Accept>), ErrorDesc> {
    loop {
        match listener.accept().await {
            Ok(channel) => return Ok((channel, listener)),
            // Whoever keeps the process to be asked can change that, and let it try again.
            Err(AcceptError::Refused(reason)) if refusal_ends => return Err(reason),
            Err(AcceptError::Connection(reason) | AcceptError::Refused(reason)) => {
                tracing::error!("incoming migration: {reason}");
            }
            Err(AcceptError::Final(reason)) => return Err(reason),
        }
    }
}

impl Actor for MigrationDestination {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        // The thread that loads waits for the channel.
        if let Some(channel) = self.channel.take() {
            channel.shutdown();
        }
    }
}

impl Handler<StartIncoming> for MigrationDestination {
    type Result = ResponseActFuture<Self, Result<(), ErrorDesc>>;

    fn handle(&mut self, message: StartIncoming, _: &mut Self::Context) -> Self::Result {
        let StartIncoming { address, settings, exit_on_error } = message;
        if self.status != MigrationStatus::None {
            let refused = ErrorDesc::new("The incoming migration has already been started");
            return Box::pin(actix::fut::ready(Err(refused)));
        }
        self.settings.send_replace(settings);
        // Until it listens nothing has been started, and another address may be tried.
        let listening = self.peers.listen.listen(&address, self.settings.subscribe());
        Box::pin(listening.into_actor(self).map(move |listening, this, ctx| {
            if this.status != MigrationStatus::None {
                return Err(ErrorDesc::new("The incoming migration has already been started"));
            }
            this.wait(listening?, exit_on_error, ctx);
            Ok(())
        }))
    }
}

impl Handler<UpdateSettings> for MigrationDestination {
    type Result = ();

    fn handle(&mut self, message: UpdateSettings, _: &mut Self::Context) {
        self.settings.send_replace(message.0);
    }
}

impl Handler<RecoverIncoming> for MigrationDestination {
    type Result = ResponseActFuture<Self, Result<(), ErrorDesc>>;

    fn handle(&mut self, message: RecoverIncoming, ctx: &mut Self::Context) -> Self::Result {
        let not_paused =
            || ErrorDesc::new("Migrate recover can only be run when postcopy is paused.");
        let paused = self.status == MigrationStatus::PostcopyPaused;
        let Some(recovery) = self.recovery.as_mut().filter(|_| paused) else {
            return Box::pin(actix::fut::ready(Err(not_paused())));
        };
        // One that waits in vain gives its place to another.
        if let Some(waits) = recovery.waits.take() {
            ctx.cancel_future(waits);
        }
        let listening = self.peers.listen.listen(&message.address, self.settings.subscribe());
        Box::pin(listening.into_actor(self).map(move |listening, this, ctx| {
            let listener = listening?;
            if this.status != MigrationStatus::PostcopyPaused {
                return Err(not_paused());
            }
            let addresses = listener.addresses();
            if !addresses.is_empty() {
                this.peers.events.do_send(MigrationEvent::Listening(addresses));
            }
            let waits =
                ctx.spawn(next(listener, false).into_actor(this).map(|connected, this, ctx| {
                    match connected {
                        Ok((channel, listener)) => {
                            this.recover(channel);
                            this.accept_urgent(listener, ctx);
                        }
                        Err(reason) => tracing::error!("recovery of a migration: {reason}"),
                    }
                }));
            if let Some(recovery) = &mut this.recovery {
                recovery.waits = Some(waits);
            }
            Ok(())
        }))
    }
}

impl MigrationDestination {
    /// With `postcopy-preempt` a second channel follows the first.
    fn accept_urgent(&mut self, listener: Box<dyn Accept>, ctx: &mut Context<Self>) {
        if !self.settings.borrow().capabilities.has(Capability::PostcopyPreempt) {
            return;
        }
        let second = ctx.spawn(next(listener, false).into_actor(self).map(|connected, this, _| {
            match (connected, &this.recovery) {
                // Who takes it may be gone.
                (Ok((channel, _)), Some(recovery)) => drop(recovery.urgent.send(channel)),
                (Ok(_), None) => {}
                (Err(reason), _) => tracing::error!("a postcopy's second channel: {reason}"),
            }
        }));
        if let Some(recovery) = &mut self.recovery {
            recovery.waits = Some(second);
        }
    }

    /// It is over: nobody is waited for.
    fn forget(&mut self, ctx: &mut Context<Self>) {
        self.channel = None;
        if let Some(waits) = self.recovery.take().and_then(|recovery| recovery.waits) {
            ctx.cancel_future(waits);
        }
    }

    /// The source is there again: the postcopy's thread has the word.
    fn recover(&mut self, channel: Channel) {
        let Some(recovery) = &mut self.recovery else { return };
        recovery.waits = None;
        recovery.by_user = false;
        self.channel = Some(channel.control());
        if recovery.channels.send(channel).is_ok() {
            self.enter(MigrationState::PostcopyRecover);
        }
    }
}

impl Handler<Entered> for MigrationDestination {
    type Result = ();

    fn handle(&mut self, Entered { mut state, blocktime }: Entered, ctx: &mut Self::Context) {
        if self.status.is_final() || self.status == state.status() {
            return;
        }
        let by_user = self.recovery.as_ref().is_some_and(|recovery| recovery.by_user);
        if let MigrationState::PostcopyPaused(reason) = &mut state {
            if by_user {
                *reason = ErrorDesc::paused_by_user();
            }
            self.channel = None;
        }
        self.enter_with(state, Progress { blocktime, ..Progress::default() });
        if self.status.is_final() {
            self.forget(ctx);
        }
    }
}

impl Handler<PauseMigration> for MigrationDestination {
    type Result = Result<(), ErrorDesc>;

    fn handle(&mut self, _: PauseMigration, _: &mut Self::Context) -> Self::Result {
        let alive = [MigrationStatus::PostcopyActive, MigrationStatus::PostcopyRecover];
        match (&self.channel, &mut self.recovery) {
            (Some(channel), Some(recovery)) if alive.contains(&self.status) => {
                recovery.by_user = true;
                channel.shutdown();
                Ok(())
            }
            _ => Err(ErrorDesc::not_postcopy()),
        }
    }
}

impl Handler<CutMigration> for MigrationDestination {
    type Result = ();

    /// The main channel's end is the end of all.
    fn handle(&mut self, _: CutMigration, _: &mut Self::Context) {
        if let Some(channel) = &self.channel {
            channel.cut();
        }
    }
}

impl Handler<Ping> for MigrationDestination {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Self::Context) {}
}
