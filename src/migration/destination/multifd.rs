//! The channels beside the main one, on the receiving side. Connections come in any order, so each
//! is told by its first word; each that brings pages has a thread, and where the main channel says
//! so all of them are waited for.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Cursor, Read};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::blocking::{Blocking, Until};
use super::{Accept, AcceptError};
use crate::migration::channel::Channel;
use crate::migration::message::Settings;
use crate::migration::parameters::MultifdCompression;
use crate::migration::ram::loader::Incoming;
use crate::migration::ram::multifd::{self, MultifdReceiver, Numbers, Received};
use crate::migration::status::ErrorDesc;
use crate::migration::stream::{Input, LoadError, StreamInput};
use crate::threads;

/// Most connections at once that have not said yet what they are.
const UNKNOWN: usize = 300;
/// How long they may take to say it, and how long channels may take to connect.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a wait for channels looks whether it has lasted too long.
const LOOK: Duration = Duration::from_secs(1);

/// A connection and the first bytes of it.
pub(super) struct Opening {
    pub channel: Channel,
    pub head: [u8; 4],
}

impl Opening {
    fn brings_pages(&self) -> bool {
        self.head == multifd::MAGIC.to_be_bytes()
    }
}

async fn first_word(mut channel: Channel) -> Result<Opening, ErrorDesc> {
    use tokio::io::AsyncReadExt as _;

    let mut head = [0; 4];
    let read = tokio::time::timeout(PATIENCE, channel.read_exact(&mut head)).await;
    match read {
        Ok(Ok(_)) => Ok(Opening { channel, head }),
        Ok(Err(error)) => Err(ErrorDesc::from(error.to_string())),
        Err(_) => Err(ErrorDesc::new("a connection that says nothing")),
    }
}

/// Connections as they come.
pub(super) struct Gathering {
    listener: Box<dyn Accept>,
    unknown: JoinSet<Result<Opening, ErrorDesc>>,
    /// Why no more come.
    over: Option<ErrorDesc>,
    /// Those with pages that came before the main one.
    early: VecDeque<Opening>,
}

impl Gathering {
    pub(super) fn new(listener: Box<dyn Accept>) -> Self {
        let (unknown, early) = (JoinSet::new(), VecDeque::new());
        Self { listener, unknown, over: None, early }
    }

    async fn next(&mut self) -> Result<Opening, ErrorDesc> {
        loop {
            if let Some(over) = self.over.as_ref().filter(|_| self.unknown.is_empty()) {
                return Err(over.clone());
            }
            tokio::select! {
                biased;
                Some(read) = self.unknown.join_next() => match read {
                    Ok(Ok(opening)) => return Ok(opening),
                    Ok(Err(reason)) => tracing::error!("incoming migration: {reason}"),
                    Err(died) => tracing::error!("incoming migration: {died}"),
                },
                accepted = self.listener.accept(),
                    if self.over.is_none() && self.unknown.len() < UNKNOWN => match accepted
                {
                    Ok(channel) => {
                        self.unknown.spawn(first_word(channel));
                    }
                    Err(AcceptError::Connection(reason) | AcceptError::Refused(reason)) => {
                        tracing::error!("incoming migration: {reason}");
                    }
                    Err(AcceptError::Final(reason)) => self.over = Some(reason),
                },
            }
        }
    }

    /// The main connection; anything that brings no pages counts as one.
    pub(super) async fn main(&mut self) -> Result<Opening, ErrorDesc> {
        loop {
            let opening = self.next().await?;
            if !opening.brings_pages() {
                return Ok(opening);
            }
            // More than there are to be is for the migration to refuse.
            match self.early.len() < UNKNOWN {
                true => self.early.push_back(opening),
                false => tracing::error!("incoming migration: too many multifd channels"),
            }
        }
    }
}

/// What a channel's thread tells the main one.
enum Told {
    Greeted,
    /// All of a round is there: the channel that says so, and which packets it has brought.
    Synced(u8, Numbers),
    /// It has ended where it may.
    Ended(LoadError),
    Failed(LoadError),
}

/// What the threads share.
#[derive(Clone)]
struct Common {
    told: std_mpsc::Sender<Told>,
    /// Rounds that are over; gone with the migration.
    rounds: watch::Receiver<u64>,
    broken: Arc<watch::Sender<bool>>,
    greeted: Arc<Mutex<Vec<u8>>>,
    channels: u8,
    uuid: [u8; 16],
    compression: MultifdCompression,
}

/// The channels as the main one sees them. Dropping this ends them.
pub(super) struct SideChannels {
    blocks: Option<oneshot::Sender<Arc<[Incoming]>>>,
    told: std_mpsc::Receiver<Told>,
    rounds: watch::Sender<u64>,
    broken: watch::Receiver<bool>,
    greeted: usize,
    channels: u8,
    begun: Instant,
}

/// Prepare for the channels; the future takes them in.
pub(super) fn prepare(
    gathering: Gathering,
    settings: &Settings,
    uuid: [u8; 16],
) -> (SideChannels, impl Future<Output = ()> + 'static) {
    let (give, blocks) = oneshot::channel();
    let (tell, told) = std_mpsc::channel();
    let rounds = watch::Sender::new(0);
    let (broken, breaks) = watch::channel(false);
    let channels = settings.parameters.multifd_channels;
    let common = Common {
        told: tell,
        rounds: rounds.subscribe(),
        broken: Arc::new(broken),
        greeted: Arc::default(),
        channels,
        uuid,
        compression: settings.parameters.multifd_compression,
    };
    let sides = SideChannels {
        blocks: Some(give),
        told,
        rounds,
        broken: breaks,
        greeted: 0,
        channels,
        begun: Instant::now(),
    };
    (sides, take_in(gathering, common, blocks))
}

async fn take_in(
    mut gathering: Gathering,
    common: Common,
    blocks: oneshot::Receiver<Arc<[Incoming]>>,
) {
    let Ok(blocks) = blocks.await else { return };
    let mut rounds = common.rounds.clone();
    for number in 0..common.channels {
        let opening = loop {
            let next = match gathering.early.pop_front() {
                Some(early) => Ok(early),
                None => tokio::select! {
                    // The migration is over.
                    _ = rounds.wait_for(|_| false) => return,
                    next = gathering.next() => next,
                },
            };
            match next {
                Ok(opening) if opening.brings_pages() => break opening,
                Ok(_) => tracing::error!("incoming migration: a second main channel"),
                Err(reason) => return common.fail(LoadError::io(reason.as_str())),
            }
        };
        let (common, blocks) = (common.clone(), Arc::clone(&blocks));
        let (broken, runtime) = (common.clone(), Runtime::current());
        let thread = threads::named(format!("mig/dst/recv_{number}"))
            .spawn(move || common.receive(opening, blocks, runtime));
        if let Err(error) = thread {
            return broken.fail(LoadError::io(error.to_string()));
        }
    }
    // Whatever came over one more would be missed.
    let surplus = match gathering.early.is_empty() {
        false => true,
        true => loop {
            tokio::select! {
                _ = rounds.wait_for(|_| false) => return,
                next = gathering.next() => match next {
                    Ok(opening) if opening.brings_pages() => break true,
                    Ok(_) => tracing::error!("incoming migration: a second main channel"),
                    Err(_) => break false,
                },
            }
        },
    };
    if surplus {
        common.fail(too_many(common.channels));
    }
}

fn too_many(channels: u8) -> LoadError {
    LoadError::invalid(format!(
        "the source has more multifd channels than multifd-channels is here: {channels}"
    ))
}

impl Common {
    fn fail(&self, error: LoadError) {
        let _ = self.told.send(Told::Failed(error));
        self.broken.send_replace(true);
    }

    fn receive(self, opening: Opening, blocks: Arc<[Incoming]>, runtime: Runtime) {
        let Opening { channel, head } = opening;
        // The other half stays open with it.
        let (from, _to) = channel.split();
        let mut rounds = self.rounds.clone();
        let until: Until = Box::pin(async move {
            let _ = rounds.wait_for(|_| false).await;
        });
        let rest = Blocking::new(from, runtime.clone(), until);
        let mut input: StreamInput = Input::new(Box::new(Cursor::new(head).chain(rest)));
        match self.packets(&mut input, blocks, &runtime) {
            // Nobody listens when the migration is over.
            Ok(ended) => drop(self.told.send(Told::Ended(ended))),
            Err(error) => self.fail(error),
        }
    }

    /// Until it ends between two rounds; how it did.
    fn packets(
        &self,
        input: &mut StreamInput,
        blocks: Arc<[Incoming]>,
        runtime: &Runtime,
    ) -> Result<LoadError, LoadError> {
        let number = multifd::read_greeting(input, Some(&self.uuid), self.channels)?;
        let place = |error: LoadError| error.within(format!("multifd channel {number}"));
        let mut greeted = self.greeted.lock();
        if greeted.contains(&number) {
            let text = format!("multifd: received id '{number}' already setup'");
            return Err(LoadError::invalid(text));
        }
        greeted.push(number);
        drop(greeted);
        let _ = self.told.send(Told::Greeted);
        let mut receiver = MultifdReceiver::new(number, blocks, self.compression)?;
        let mut rounds = self.rounds.clone();
        let (mut round, mut between) = (0, false);
        loop {
            if between
                && input.ahead().is_empty()
                && let Err(end) = input.more()
            {
                return Ok(place(end));
            }
            between = false;
            if receiver.receive(input).map_err(place)? == Received::Sync {
                between = true;
                round += 1;
                let _ = self.told.send(Told::Synced(number, receiver.numbers()));
                if runtime.block_on(rounds.wait_for(|over| *over >= round)).is_err() {
                    return Ok(LoadError::io("the migration is over"));
                }
            }
        }
    }
}

impl SideChannels {
    /// Pages may come into `blocks` from now on.
    pub(super) fn start(&mut self, blocks: Arc<[Incoming]>) {
        if let Some(give) = self.blocks.take() {
            let _ = give.send(blocks);
        }
    }

    /// Ready when a channel has failed.
    pub(super) fn breaks(&self) -> Until {
        let mut broken = self.broken.clone();
        Box::pin(async move {
            if broken.wait_for(|broken| *broken).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    /// Why a channel has failed, if one has.
    pub(super) fn failure(&self) -> Option<LoadError> {
        self.told.try_iter().find_map(|told| match told {
            Told::Failed(error) => Some(error),
            _ => None,
        })
    }

    /// Wait until every channel has brought everything of the round.
    pub(super) fn flush(&mut self) -> Result<(), LoadError> {
        let mut synced = BTreeMap::new();
        while synced.len() < self.channels.into() {
            match self.told.recv_timeout(LOOK) {
                Ok(Told::Greeted) => self.greeted += 1,
                Ok(Told::Synced(channel, numbers)) => {
                    synced.insert(channel, numbers);
                }
                Ok(Told::Ended(error) | Told::Failed(error)) => return Err(error),
                Err(std_mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(LoadError::io("the multifd channels have ended"));
                }
                Err(std_mpsc::RecvTimeoutError::Timeout) => {
                    let (here, all) = (self.greeted, usize::from(self.channels));
                    if here < all && self.begun.elapsed() > PATIENCE {
                        let seconds = PATIENCE.as_secs();
                        return Err(LoadError::io(format!(
                            "only {here} of {all} multifd channels have connected in {seconds} s"
                        )));
                    }
                }
            }
        }
        if !Numbers::complete(synced.values()) {
            return Err(too_many(self.channels));
        }
        self.rounds.send_modify(|over| *over += 1);
        Ok(())
    }
}
