//! A postcopy after its machine has been told to run: a thread goes on taking pages from the
//! stream, over one channel after another, until it has all of them.
//!
//! What the other side may get wrong, or the network, ends the channel and never the machine: the
//! thread waits for the next channel (`migrate-recover`), tells the source which pages have come,
//! and goes on. What ends the migration is a device that cannot be loaded, and nothing else: the
//! package with all devices is here when the thread starts, and the source counts on it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix::{Addr, Message};
use parking_lot::{Condvar, Mutex};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{mpsc, oneshot};

use super::blocking::Blocking;
use super::{MemoryTarget, MigrationDestination};
use crate::actors::context::panic_reason;
use crate::machine::memory::{GuestRam, PAGE_SIZE};
use crate::machine::presence::Ask;
use crate::migration::channel::{Channel, ChannelControl, ChannelWriter};
use crate::migration::message::Blocktime;
use crate::migration::ram::loader::postcopy::load_urgent;
use crate::migration::ram::machine::RAM_NAME;
use crate::migration::return_path::{RESUMED, ReturnMessage};
use crate::migration::status::{ErrorDesc, MigrationState};
use crate::migration::stream::{Input, LoadError, Record, StreamCommand, StreamInput};
use crate::threads;

/// How often it is looked whether pages have come beside the main channel.
const LOOK: Duration = Duration::from_millis(1);
/// How long none may come before the rest is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// The listening thread → the actor: the migration has entered this state.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub(super) struct Entered {
    pub state: MigrationState,
    /// Once it is over, if it was measured.
    pub blocktime: Option<Blocktime>,
}

/// Where the machine is, as far as the listening thread has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Its devices are being loaded.
    Loading,
    /// They are, and the machine is asked to run.
    Loaded,
    /// It has been asked to run, and has answered.
    Started,
    Failed(LoadError),
}

/// What the listening thread shares with the thread that loads the devices, and with harts that
/// ask for pages.
#[derive(Debug)]
pub(super) struct Shared {
    phase: Mutex<Phase>,
    changed: Condvar,
    /// Where requests for pages go; `None` while there is no source to ask.
    requests: Mutex<Option<ReturnQueue>>,
    /// The channel that is lost if the one for urgent pages is.
    main: Mutex<ChannelControl>,
    /// Pages may come over that one.
    urgent: AtomicBool,
}

impl Shared {
    /// No source can be asked yet.
    pub(super) fn new(main: ChannelControl) -> Arc<Self> {
        Arc::new(Self {
            phase: Mutex::new(Phase::Loading),
            changed: Condvar::new(),
            requests: Mutex::new(None),
            main: Mutex::new(main),
            urgent: AtomicBool::new(false),
        })
    }

    /// How harts ask for pages of RAM. What is asked while there is no channel is asked again when
    /// there is one.
    pub(super) fn ask(self: &Arc<Self>) -> Ask {
        let shared = Arc::clone(self);
        Arc::new(move |pages| {
            if let Some(queue) = &*shared.requests.lock() {
                queue.ask(RAM_NAME, pages);
            }
        })
    }

    /// The devices are loaded, unless something has failed.
    pub(super) fn loaded(&self) -> Result<(), LoadError> {
        let mut phase = self.phase.lock();
        if let Phase::Failed(error) = &*phase {
            return Err(error.clone());
        }
        *phase = Phase::Loaded;
        Ok(())
    }

    /// The machine runs, or is in the state that it is to be in.
    pub(super) fn started(&self) {
        *self.phase.lock() = Phase::Started;
        self.changed.notify_all();
    }

    /// The machine will not run. The first reason, which may be another.
    pub(super) fn fail(&self, error: LoadError) -> LoadError {
        let mut phase = self.phase.lock();
        if let Phase::Failed(first) = &*phase {
            return first.clone();
        }
        *phase = Phase::Failed(error.clone());
        self.changed.notify_all();
        error
    }

    /// Whether nothing has failed yet.
    pub(super) fn check(&self) -> Result<(), LoadError> {
        match &*self.phase.lock() {
            Phase::Failed(error) => Err(error.clone()),
            Phase::Loading | Phase::Loaded | Phase::Started => Ok(()),
        }
    }

    /// The machine is on its way, or runs.
    fn is_loaded(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Loaded | Phase::Started)
    }

    /// Wait for the machine to have been started.
    fn wait_for_start(&self) -> Result<(), LoadError> {
        let mut phase = self.phase.lock();
        loop {
            match &*phase {
                Phase::Started => return Ok(()),
                Phase::Failed(error) => return Err(error.clone()),
                Phase::Loading | Phase::Loaded => self.changed.wait(&mut phase),
            }
        }
    }
}

enum Queued {
    Message(ReturnMessage),
    /// Answered when everything before has been sent.
    Flush(oneshot::Sender<()>),
}

/// The way to the source. Whoever says something there does not wait: the source may be writing
/// itself, and read only then.
#[derive(Debug, Clone)]
pub(super) struct ReturnQueue(mpsc::UnboundedSender<Queued>);

impl ReturnQueue {
    /// Over `to`. What is queued is bounded by what there is to say: pages are asked for once.
    pub(super) fn start(mut to: ChannelWriter, runtime: &Runtime) -> Self {
        let (queue, mut queued) = mpsc::unbounded_channel();
        runtime.spawn(async move {
            while let Some(next) = queued.recv().await {
                match next {
                    Queued::Message(message) => {
                        // Who reads of the same channel learns why it is broken.
                        if to.write_all(&message.encode()).await.is_err() {
                            return;
                        }
                        if queued.is_empty() && to.flush().await.is_err() {
                            return;
                        }
                    }
                    // The asker may be gone.
                    Queued::Flush(done) => drop(done.send(())),
                }
            }
        });
        Self(queue)
    }

    pub(super) fn tell(&self, message: ReturnMessage) {
        // The channel is broken if nobody takes it; see above.
        let _ = self.0.send(Queued::Message(message));
    }

    /// Wait until everything has been sent, or cannot be.
    pub(super) fn flush(&self, runtime: &Runtime) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Queued::Flush(done)).is_ok() {
            let _ = runtime.block_on(flushed);
        }
    }

    fn ask(&self, block: &str, pages: Range<u64>) {
        /// Pages in one request: their bytes fit its length.
        const MOST: u64 = u32::MAX as u64 / PAGE_SIZE;
        let mut first = pages.start;
        while first < pages.end {
            let count = MOST.min(pages.end - first);
            let (start, len) = (first * PAGE_SIZE, (count * PAGE_SIZE) as u32);
            self.tell(ReturnMessage::ReqPages { block: Some(block.to_owned()), start, len });
            first += count;
        }
    }
}

/// The thread's work.
pub(super) struct Listener {
    pub memory: Box<dyn MemoryTarget>,
    pub ram: Arc<GuestRam>,
    pub input: StreamInput,
    pub queue: ReturnQueue,
    /// The number that the stream gives RAM.
    pub section: u32,
    pub shared: Arc<Shared>,
    pub actor: Addr<MigrationDestination>,
    /// Channels to go on with.
    pub channels: mpsc::UnboundedReceiver<Channel>,
    pub runtime: Runtime,
    /// Over this channel nothing has been agreed yet.
    pub recovering: bool,
    /// It is told how long harts waited (capability `postcopy-blocktime`).
    pub measured: bool,
}

impl Listener {
    /// Start the thread.
    pub(super) fn start(self) -> Result<(), LoadError> {
        // Blocks that others than harts read: nobody asks for their pages later.
        let (ram, shared) = (Arc::clone(&self.ram), Arc::clone(&self.shared));
        *shared.requests.lock() = Some(self.queue.clone());
        for block in self.memory.incoming().iter().flat_map(|blocks| blocks.iter()) {
            if !block.is_ram() {
                block.missing().into_iter().for_each(|run| self.queue.ask(block.name(), run));
            }
        }
        let actor = self.actor.clone();
        let work = move || {
            let listened = catch_unwind(AssertUnwindSafe(|| self.listen()));
            let reason = match listened {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.cause,
                Err(panic) => format!("the postcopy has panicked: {}", panic_reason(&*panic)),
            };
            ram.presence().abandon(&reason);
            let ran = shared.is_loaded();
            shared.fail(LoadError::io(reason.clone()));
            if ran {
                let state = MigrationState::Failed(ErrorDesc::from(reason));
                actor.do_send(Entered { state, blocktime: None });
            }
        };
        let spawned = threads::named("mig/dst/listen").spawn(work);
        spawned.map(drop).map_err(|error| LoadError::io(format!("cannot start a thread: {error}")))
    }

    /// Start a second thread: it takes the pages that are waited for, over channels of their own.
    pub(super) fn start_urgent(
        &self,
        mut channels: mpsc::UnboundedReceiver<Channel>,
    ) -> Result<(), LoadError> {
        let blocks = self.memory.incoming().ok_or_else(|| LoadError::io("no section ram"))?;
        let (shared, runtime) = (Arc::clone(&self.shared), self.runtime.clone());
        // The source has opened it already.
        shared.urgent.store(true, Ordering::Release);
        let work = move || {
            while let Some(channel) = runtime.block_on(channels.recv()) {
                shared.urgent.store(true, Ordering::Release);
                let (from, _to) = channel.split();
                let never = Box::pin(std::future::pending());
                let from = Blocking::new(from, runtime.clone(), never);
                let mut input: StreamInput = Input::new(Box::new(from));
                let loaded = load_urgent(&blocks, &mut input);
                shared.urgent.store(false, Ordering::Release);
                if let Err(error) = loaded {
                    tracing::error!("a postcopy's second channel: {error}");
                    // One does not go without the other: the next pair is waited for.
                    shared.main.lock().shutdown();
                }
            }
        };
        let spawned = threads::named("mig/dst/preempt").spawn(work);
        spawned.map(drop).map_err(|error| LoadError::io(format!("cannot start a thread: {error}")))
    }

    fn enter(&self, state: MigrationState) {
        let over = self.measured && state == MigrationState::Completed;
        let blocktime = over.then(|| self.ram.presence().blocktime());
        let blocktime = blocktime.map(|(all, vcpus)| Blocktime { all, vcpus });
        self.actor.do_send(Entered { state, blocktime });
    }

    /// Take pages until all have come.
    fn listen(mut self) -> Result<(), LoadError> {
        self.enter(MigrationState::PostcopyActive);
        while let Err(error) = self.stream() {
            self.shared.check()?;
            // What the source gets to know if it is there still.
            self.queue.tell(ReturnMessage::Reason(error.cause.clone()));
            self.pause(&error)?;
        }
        // The devices may not have been loaded yet, though all pages are here.
        self.shared.wait_for_start()?;
        self.queue.tell(ReturnMessage::Shut(0));
        self.queue.flush(&self.runtime);
        self.enter(MigrationState::Completed);
        Ok(())
    }

    /// The channel is lost: wait for another one.
    fn pause(&mut self, error: &LoadError) -> Result<(), LoadError> {
        *self.shared.requests.lock() = None;
        // Nothing that comes over the old channel counts from now on, and the source sees its end.
        self.input = Input::new(Box::new(std::io::empty()));
        self.enter(MigrationState::PostcopyPaused(ErrorDesc::from(error.cause.clone())));
        let channel = self.runtime.block_on(self.channels.recv());
        let gone = || LoadError::io("the migration's destination is gone");
        let channel = channel.ok_or_else(gone)?;
        *self.shared.main.lock() = channel.control();
        let (from, to) = channel.split();
        self.queue = ReturnQueue::start(to, &self.runtime);
        let never = Box::pin(std::future::pending());
        self.input = Input::new(Box::new(Blocking::new(from, self.runtime.clone(), never)));
        if let Some(loader) = self.memory.loader() {
            loader.reconnected();
        }
        self.recovering = true;
        Ok(())
    }

    /// The stream from here to its end.
    fn stream(&mut self) -> Result<(), LoadError> {
        loop {
            match self.input.record()? {
                Record::SectionPart | Record::SectionEnd => {
                    let id = self.input.u32()?;
                    if id != self.section {
                        return Err(LoadError::invalid(format!("Unknown savevm section {id}")));
                    }
                    let place = || format!("error while loading state section id {id}(ram)");
                    let mut flush = || Err(LoadError::invalid("multifd during a postcopy"));
                    let loaded = self.memory.piece(&mut self.input, &mut flush);
                    loaded.map_err(|error| error.within(place()))?;
                    self.input.footer(id, "ram")?;
                }
                Record::Command => self.command()?,
                Record::Eof => {
                    self.await_urgent_pages();
                    let left = self.memory.loader().map_or(0, |loader| loader.left());
                    return match left {
                        0 => Ok(()),
                        left => Err(LoadError::invalid(format!(
                            "the source is done, but {left} pages have not come"
                        ))),
                    };
                }
                record => {
                    let number = record as u8;
                    let text = format!("Unknown savevm section type {number} (postcopy mode)");
                    return Err(LoadError::invalid(text));
                }
            }
        }
    }

    /// The source is done, but what it has sent beside this channel may be on its way.
    fn await_urgent_pages(&mut self) {
        let left =
            |memory: &mut dyn MemoryTarget| memory.loader().map_or(0, |loader| loader.left());
        let mut last = (left(self.memory.as_mut()), Instant::now());
        while self.shared.urgent.load(Ordering::Acquire) && last.0 > 0 {
            std::thread::sleep(LOOK);
            let now = left(self.memory.as_mut());
            if now < last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                return;
            }
        }
    }

    fn command(&mut self) -> Result<(), LoadError> {
        let (number, length) = (self.input.u16()?, self.input.u16()?);
        match (StreamCommand::of(number), length) {
            (Some(StreamCommand::Ping), 4) => {
                let value = self.input.u32()?;
                self.queue.tell(ReturnMessage::Pong(value));
                Ok(())
            }
            (Some(StreamCommand::RecvBitmap), _) if self.recovering => {
                let block = self.input.name()?;
                if usize::from(length) != block.len() + 1 {
                    let text = format!("CMD_RECV_BITMAP: invalid payload length ({length})");
                    return Err(LoadError::invalid(text));
                }
                let bitmap = self.memory.loader().and_then(|loader| loader.received(&block));
                let Some(bitmap) = bitmap else {
                    let name = block.escape_debug();
                    let text = format!("CMD_RECV_BITMAP: block '{name}' not found");
                    return Err(LoadError::invalid(text));
                };
                self.queue.tell(ReturnMessage::RecvBitmap { block, bitmap });
                Ok(())
            }
            (Some(StreamCommand::PostcopyResume), 0) if self.recovering => {
                self.recovering = false;
                self.enter(MigrationState::PostcopyActive);
                self.queue.tell(ReturnMessage::ResumeAck(RESUMED));
                *self.shared.requests.lock() = Some(self.queue.clone());
                // What was asked for over a channel that is gone.
                let wanted = self.ram.presence().wanted();
                wanted.into_iter().for_each(|run| self.queue.ask(RAM_NAME, run));
                Ok(())
            }
            _ => Err(LoadError::invalid(format!(
                "MIG_CMD 0x{number:x} (len 0x{length:x}) means nothing now (postcopy mode)"
            ))),
        }
    }
}
