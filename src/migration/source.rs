//! The outgoing side: an actor that takes one migration at a time through its phases and tells
//! every change.
//!
//! The work is a task that owns what it has taken: the channel and the dirty log. Whatever ends the
//! task (its last phase, an error, a cancellation, a panic) releases both by dropping them; then
//! the supervisor lets the machine go on, or hands it over, and only then tells the outcome. So
//! there is one path out, and the one thing that can fail on it (the drives are somebody else's by
//! now) is part of what is told.

mod multifd;
mod pace;
mod run;
mod throttle;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix::prelude::*;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::channel::{Address, Channel, ChannelControl};
use super::message::{
    CancelMigration, ContinueMigration, CutMigration, MigrationEvent, PauseMigration, Ping,
    Progress, RamStats, Settings, Side, StartMigration, StartPostcopy, UpdateParameters,
    XbzrleStats,
};
use super::parameters::Parameters;
use super::ram::saver::RamSaver;
use super::sections::Sections;
use super::status::{ErrorDesc, MigrationState, MigrationStatus};
use crate::cpu::inbox::Peers;
use crate::machine::dirty_rate::LimitWrites;
use crate::machine::message::{HandOver, Quiesce, Quiesced, ReleaseDrives, RunState, TakeRest};
use run::Run;

/// A channel that is being opened.
pub type Opening = Pin<Box<dyn Future<Output = Result<Channel, ErrorDesc>> + Send>>;

/// Opens channels, with TLS if the settings ask for it.
pub trait Connect: Send + Sync {
    fn connect(&self, address: &Address, settings: &Settings) -> Opening;
}

/// Opens channels, and remembers them for `yank`. Those that are closed stay in the list until the
/// next migration; cutting one does nothing.
struct Remembering {
    peers: Arc<SourcePeers>,
    opened: Arc<Mutex<Vec<ChannelControl>>>,
}

impl Connect for Remembering {
    fn connect(&self, address: &Address, settings: &Settings) -> Opening {
        let opening = self.peers.connect.connect(address, settings);
        let opened = Arc::clone(&self.opened);
        Box::pin(async move {
            let channel = opening.await?;
            opened.lock().push(channel.control());
            Ok(channel)
        })
    }
}

/// Guest memory as the source sends it. Dropping it ends the dirty log.
pub trait Memory: Send {
    /// Version of the section.
    fn version(&self) -> u32;
    /// Append what the section begins with; from now on writes are logged.
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), ErrorDesc>;
    /// Settings that may change under way are these now.
    fn set_parameters(&mut self, parameters: &Parameters);
    /// Learn what has been written since it was last asked; pages that are to be sent again.
    fn collect(&mut self) -> Result<u64, ErrorDesc>;
    /// The machine has stopped: what is sent from now on is sent for the last time.
    fn stopped(&mut self);
    /// Append pages until `out` has about `most` bytes; false if there are none left to send.
    fn pages(&mut self, out: &mut Vec<u8>, most: usize) -> Result<bool, ErrorDesc>;
    /// Whose pages go elsewhere than into the stream; there once the section has begun.
    fn saver(&mut self) -> Option<&mut RamSaver>;
    /// Append what ends a piece of the section.
    fn end_piece(&mut self, out: &mut Vec<u8>);
    /// Bytes of guest memory still to be sent.
    fn remaining(&self) -> u64;
    /// The figures, but for those that follow from time and from the channel.
    fn stats(&self) -> RamStats;
    /// The figures of XBZRLE, if it is on.
    fn xbzrle(&self) -> Option<XbzrleStats>;
}

/// Makes the memory of one migration.
pub type MakeMemory = Box<dyn Fn(&Settings) -> Box<dyn Memory> + Send + Sync>;

/// What the source works with.
pub struct SourcePeers {
    pub events: Recipient<MigrationEvent>,
    pub quiesce: Recipient<Quiesce>,
    pub release_drives: Recipient<ReleaseDrives>,
    pub hand_over: Recipient<HandOver>,
    /// Who is slowed down when the guest writes faster than can be sent.
    pub vcpus: Arc<[Recipient<TakeRest>]>,
    /// Whose writing is limited in place of that.
    pub writers: Writers,
    pub connect: Box<dyn Connect>,
    pub memory: MakeMemory,
    pub sections: Sections,
    /// The machine type, e.g. `virt`.
    pub machine: String,
    /// `-uuid`
    pub uuid: Option<[u8; 16]>,
}

/// The harts as writers of memory.
#[derive(Debug, Clone)]
pub struct Writers {
    pub limit: Recipient<LimitWrites>,
    /// What the limit does to each.
    pub harts: Peers,
}

impl std::fmt::Debug for SourcePeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SourcePeers({} sections)", self.sections.sources.len())
    }
}

/// What the monitor has asked of the migration under way.
#[derive(Debug, Clone)]
struct Wishes {
    cancel: bool,
    /// `migrate-continue`
    go_on: bool,
    /// `migrate-start-postcopy`
    postcopy: bool,
    parameters: Parameters,
}

/// A channel for a postcopy that has lost its own (`migrate` with `resume`).
#[derive(Debug)]
struct Resume {
    address: Address,
    settings: Settings,
    opened: Opened,
}

/// What `migrate-pause` ends.
#[derive(Debug, Default)]
struct Lifeline {
    controls: Vec<ChannelControl>,
    /// It has been ended so.
    by_user: bool,
}

/// What reaches the work from outside.
#[derive(Debug)]
struct Reins {
    wishes: watch::Receiver<Wishes>,
    resumes: mpsc::UnboundedReceiver<Resume>,
    lifeline: Arc<Mutex<Lifeline>>,
    opened: Arc<Mutex<Vec<ChannelControl>>>,
}

/// Tells the monitor, and knows what it told last.
#[derive(Debug, Clone)]
struct Reporter {
    events: Recipient<MigrationEvent>,
    last: Arc<Mutex<Last>>,
}

#[derive(Debug)]
struct Last {
    status: MigrationStatus,
    progress: Progress,
    /// The last byte is on its way: the other side may run.
    committed: bool,
}

impl Default for Last {
    fn default() -> Self {
        let status = MigrationStatus::None;
        Self { status, progress: Progress::default(), committed: false }
    }
}

impl Wishes {
    /// Nothing but these parameters.
    fn new(parameters: Parameters) -> Self {
        Self { cancel: false, go_on: false, postcopy: false, parameters }
    }
}

impl Reporter {
    fn enter(&self, state: MigrationState) {
        let mut last = self.last.lock();
        if last.status == MigrationStatus::Cancelling && !state.status().is_final() {
            // The work has not noticed yet.
            return;
        }
        last.status = state.status();
        let progress = Box::new(last.progress.clone());
        self.events.do_send(MigrationEvent::State { side: Side::Source, state, progress });
    }

    fn progress(&self, progress: Progress) {
        let mut last = self.last.lock();
        last.progress = progress;
        self.events.do_send(MigrationEvent::Progress(Box::new(last.progress.clone())));
    }

    fn pass(&self, pass: u64) {
        self.events.do_send(MigrationEvent::Pass(pass));
    }

    fn status(&self) -> MigrationStatus {
        self.last.lock().status
    }
}

/// The hold on the machine: the work takes it, the supervisor gives it back.
#[derive(Debug)]
struct Hold {
    reporter: Reporter,
    machine: Mutex<Option<Quiesced>>,
}

impl Hold {
    fn keep(&self, machine: Quiesced) {
        *self.machine.lock() = Some(machine);
    }

    /// The state that the machine was held in, if it is.
    fn was(&self) -> Option<RunState> {
        self.machine.lock().as_ref().map(Quiesced::was)
    }

    /// Let the machine go on, if it is held; why it does not.
    async fn undo(&self) -> Option<String> {
        let machine = self.machine.lock().take()?;
        machine.undo().await.err().map(|error| error.to_string())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.reporter.last.lock().committed
            && let Some(machine) = self.machine.lock().take()
        {
            machine.hand_over();
        }
    }
}

/// The actor.
#[derive(Debug)]
pub struct MigrationSource {
    peers: Arc<SourcePeers>,
    reporter: Reporter,
    wishes: watch::Sender<Wishes>,
    /// To the postcopy under way.
    resumes: mpsc::UnboundedSender<Resume>,
    lifeline: Arc<Mutex<Lifeline>>,
    /// What `yank` cuts.
    opened: Arc<Mutex<Vec<ChannelControl>>>,
}

impl MigrationSource {
    /// Nothing migrates yet.
    pub fn new(peers: SourcePeers) -> Self {
        let reporter = Reporter { events: peers.events.clone(), last: Arc::default() };
        let wishes = watch::Sender::new(Wishes::new(Parameters::default()));
        // Nobody listens until there is something to resume.
        let (resumes, _) = mpsc::unbounded_channel();
        Self {
            peers: Arc::new(peers),
            reporter,
            wishes,
            resumes,
            lifeline: Arc::default(),
            opened: Arc::default(),
        }
    }

    /// Go on with a postcopy over another channel.
    fn resume(
        &mut self,
        address: Address,
        settings: Settings,
    ) -> ResponseFuture<Result<(), ErrorDesc>> {
        let refused = ErrorDesc::new("Cannot resume if there is no paused migration");
        if self.reporter.status() != MigrationStatus::PostcopyPaused {
            return Box::pin(async { Err(refused) });
        }
        self.reporter.enter(MigrationState::PostcopyRecoverSetup);
        let waits = address.opens_at_once();
        let (opened, open) = oneshot::channel();
        if self.resumes.send(Resume { address, settings, opened }).is_err() {
            return Box::pin(async { Err(refused) });
        }
        Box::pin(async move { if waits { open.await.unwrap_or(Ok(())) } else { Ok(()) } })
    }
}

impl Actor for MigrationSource {
    type Context = Context<Self>;
}

/// Told when the channel is open, or could not be opened.
type Opened = oneshot::Sender<Result<(), ErrorDesc>>;

/// Why the work ended before its end.
#[derive(Debug)]
enum Stopped {
    Cancelled,
    Failed(ErrorDesc),
}

/// See the work through, whatever happens to it, and tell how it ended.
async fn supervise(
    run: Run,
    reporter: Reporter,
    mut wishes: watch::Receiver<Wishes>,
    hand_over: Recipient<HandOver>,
    hold: Arc<Hold>,
) {
    let mut work = actix::spawn(run.phases());
    let died = |died| Stopped::Failed(ErrorDesc::of_task(died, "the migration's source"));
    let outcome = tokio::select! {
        biased;
        ended = &mut work => match ended {
            Ok(result) => result.map_err(Stopped::Failed),
            Err(error) => Err(died(error)),
        },
        // Also when the actor is gone.
        _ = wishes.wait_for(|wishes| wishes.cancel) => {
            work.abort();
            match work.await {
                // It had ended in that moment.
                Ok(result) => result.map_err(Stopped::Failed),
                Err(error) if error.is_cancelled() => Err(Stopped::Cancelled),
                Err(error) => Err(died(error)),
            }
        }
    };
    let cancelling = wishes.borrow().cancel;
    let committed = reporter.last.lock().committed;
    let stays = if committed {
        // The other side has the machine, or may have it.
        drop(hold);
        let _ = hand_over.send(HandOver).await;
        None
    } else {
        hold.undo().await.map(|reason| format!("this side stays paused: {reason}"))
    };
    reporter.enter(match with(outcome, stays) {
        Ok(()) => MigrationState::Completed,
        Err(Stopped::Cancelled) if committed => MigrationState::Cancelled(Some(ErrorDesc::new(
            "the destination had everything and has not said whether it runs; \
             this side stays stopped until 'cont'",
        ))),
        Err(Stopped::Cancelled) => MigrationState::Cancelled(None),
        // The error is that of the channel being shut down, or of the drives.
        Err(Stopped::Failed(reason)) if cancelling => MigrationState::Cancelled(Some(reason)),
        Err(Stopped::Failed(reason)) => MigrationState::Failed(reason),
    });
}

/// The outcome, and what became of the machine if that is not what it was to be.
fn with(outcome: Result<(), Stopped>, stays: Option<String>) -> Result<(), Stopped> {
    let Some(stays) = stays else { return outcome };
    Err(Stopped::Failed(ErrorDesc::from(match outcome {
        Err(Stopped::Failed(reason)) => format!("{reason}; {stays}"),
        Err(Stopped::Cancelled) | Ok(()) => stays,
    })))
}

impl Handler<StartMigration> for MigrationSource {
    type Result = ResponseFuture<Result<(), ErrorDesc>>;

    fn handle(&mut self, message: StartMigration, _: &mut Self::Context) -> Self::Result {
        let StartMigration { address, settings, resume } = message;
        let refuse = |sentence: &str| -> Self::Result {
            let refused = ErrorDesc::new(sentence);
            Box::pin(async { Err(refused) })
        };
        if resume {
            return self.resume(address, settings);
        }
        if !self.reporter.status().is_final() {
            return refuse("There's a migration process in progress");
        }
        *self.reporter.last.lock() = Last::default();
        self.wishes.send_replace(Wishes::new(settings.parameters.clone()));
        let (resumes, resumed) = mpsc::unbounded_channel();
        self.resumes = resumes;
        self.lifeline = Arc::default();
        self.opened = Arc::default();
        self.reporter.enter(MigrationState::Setup);
        // What is opened on the spot is waited for; what goes over a network is not.
        let waits = address.opens_at_once();
        let (opened, open) = oneshot::channel();
        let wishes = self.wishes.subscribe();
        let hand_over = self.peers.hand_over.clone();
        let machine = Mutex::new(None);
        let hold = Arc::new(Hold { reporter: self.reporter.clone(), machine });
        let (lifeline, opened_channels) = (Arc::clone(&self.lifeline), Arc::clone(&self.opened));
        let run = Run::new(
            Arc::clone(&self.peers),
            self.reporter.clone(),
            Reins { wishes: wishes.clone(), resumes: resumed, lifeline, opened: opened_channels },
            address,
            settings,
            opened,
            Arc::clone(&hold),
        );
        actix::spawn(supervise(run, self.reporter.clone(), wishes, hand_over, hold));
        Box::pin(async move {
            match waits {
                // If the sender is gone the work has ended; its state tells more.
                true => open.await.unwrap_or(Ok(())),
                false => Ok(()),
            }
        })
    }
}

impl Handler<CancelMigration> for MigrationSource {
    type Result = Result<(), ErrorDesc>;

    fn handle(&mut self, _: CancelMigration, _: &mut Self::Context) -> Self::Result {
        let status = self.reporter.status();
        if status.is_postcopy() {
            return Err(ErrorDesc::new("Postcopy migration in progress, cannot cancel."));
        }
        if !status.is_final() && status != MigrationStatus::Cancelling {
            self.reporter.enter(MigrationState::Cancelling);
            self.wishes.send_modify(|wishes| wishes.cancel = true);
        }
        Ok(())
    }
}

impl Handler<ContinueMigration> for MigrationSource {
    type Result = Result<(), ErrorDesc>;

    fn handle(&mut self, _: ContinueMigration, _: &mut Self::Context) -> Self::Result {
        let status = self.reporter.status();
        if status != MigrationStatus::PreSwitchover {
            return Err(ErrorDesc::from(format!("Migration not in expected state: {status}")));
        }
        self.wishes.send_modify(|wishes| wishes.go_on = true);
        Ok(())
    }
}

impl Handler<StartPostcopy> for MigrationSource {
    type Result = Result<(), ErrorDesc>;

    /// One that comes early is acted on when memory is on its way.
    fn handle(&mut self, _: StartPostcopy, _: &mut Self::Context) -> Self::Result {
        if self.reporter.status() == MigrationStatus::None {
            return Err(ErrorDesc::new(
                "Postcopy must be started after migration has been started",
            ));
        }
        self.wishes.send_modify(|wishes| wishes.postcopy = true);
        Ok(())
    }
}

impl Handler<PauseMigration> for MigrationSource {
    type Result = Result<(), ErrorDesc>;

    fn handle(&mut self, _: PauseMigration, _: &mut Self::Context) -> Self::Result {
        let status = self.reporter.status();
        if !matches!(status, MigrationStatus::PostcopyActive | MigrationStatus::PostcopyRecover) {
            return Err(ErrorDesc::not_postcopy());
        }
        let mut lifeline = self.lifeline.lock();
        lifeline.controls.iter().for_each(ChannelControl::shutdown);
        lifeline.by_user = !lifeline.controls.is_empty();
        Ok(())
    }
}

impl Handler<CutMigration> for MigrationSource {
    type Result = ();

    fn handle(&mut self, _: CutMigration, _: &mut Self::Context) {
        self.opened.lock().iter().for_each(ChannelControl::cut);
    }
}

impl Handler<UpdateParameters> for MigrationSource {
    type Result = ();

    fn handle(&mut self, message: UpdateParameters, _: &mut Self::Context) {
        self.wishes.send_modify(|wishes| wishes.parameters = message.0);
    }
}

impl Handler<Ping> for MigrationSource {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Self::Context) {}
}
