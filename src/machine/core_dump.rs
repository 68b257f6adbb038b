//! Core dumps of the guest (`dump-guest-memory`): an actor that holds the machine, has a thread
//! write what the harts and the memory are, and lets the machine go on.
//!
//! The formats are `elf`, which debuggers read, and `kdump`, which is compressed. How far a dump is
//! stands in a [`DumpState`] that monitors look at without asking anybody.
#![forbid(unsafe_code)]

mod elf;
mod kdump;

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

use actix::prelude::*;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::oneshot;

use super::memory::{PAGE_SIZE, RamError};
use super::message::{
    Announce, CpuInfo, HoldForDump, QueryCpus, QueryHart, Quiesced, VmError, VmEvent,
};
use crate::migration::ram::block::RamBlock;
use crate::qmp::error::os_words;
use crate::threads;

/// Bytes read from the guest at a time; a multiple of the page size.
const CHUNK: usize = 64 << 10;

/// QAPI `DumpStatus`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DumpStatus {
    #[default]
    None,
    Active,
    Completed,
    Failed,
}

impl DumpStatus {
    /// As QAPI writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// QAPI `DumpQueryResult`: in bytes of guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DumpQueryResult {
    pub total: u64,
    pub status: DumpStatus,
    pub completed: u64,
}

/// How the last dump stands; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct DumpState(Arc<Mutex<DumpQueryResult>>);

impl DumpState {
    pub fn query(&self) -> DumpQueryResult {
        *self.0.lock()
    }

    /// Whether one is being written.
    pub fn is_active(&self) -> bool {
        self.query().status == DumpStatus::Active
    }

    /// Begin one; false if there is one.
    pub fn claim(&self) -> bool {
        let mut state = self.0.lock();
        let free = state.status != DumpStatus::Active;
        if free {
            *state = DumpQueryResult { status: DumpStatus::Active, ..DumpQueryResult::default() };
        }
        free
    }

    fn expect(&self, total: u64) {
        self.0.lock().total = total;
    }

    fn progress(&self, bytes: usize) {
        self.0.lock().completed += bytes as u64;
    }

    fn end<T, E>(&self, result: &Result<T, E>) -> DumpQueryResult {
        let mut state = self.0.lock();
        state.status = match result {
            Ok(_) => DumpStatus::Completed,
            Err(_) => DumpStatus::Failed,
        };
        *state
    }
}

/// Ends a dump that nobody else has ended.
struct Claimed(DumpState);

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.0.is_active() {
            self.0.end::<(), ()>(&Err(()));
        }
    }
}

/// What a dump is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreFormat {
    Elf,
    /// Compressed by zlib: as records with their places (makedumpfile's flattened form), or each in
    /// its place in the file.
    Kdump {
        in_place: bool,
    },
}

/// Guest-physical memory to be dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    pub begin: i64,
    pub length: i64,
}

/// Monitor → dumper: write a dump, which has been claimed. With `detach` it is answered when it has
/// begun, otherwise when it is done.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), DumpError>")]
pub struct StartDump {
    pub to: File,
    pub format: CoreFormat,
    pub filter: Option<Filter>,
    pub detach: bool,
}

/// Why there is no dump, or not all of it. The sentences are QEMU's.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("parameter 'length' expects a non-zero size")]
    EmptyFilter,
    #[error("dump: no guest memory to dump")]
    NoMemory,
    #[error("dumping guest memory is not supported on this target")]
    NoCpu,
    #[error("dump: failed to {step}: {}", os_words(source))]
    Write { step: &'static str, source: io::Error },
    /// Where the operating system's reason is not told.
    #[error("dump: failed to {0}")]
    Failed(&'static str),
    #[error("dump: failed to save memory: {0}")]
    Unreadable(#[from] RamError),
    #[error("{}", .0.0)]
    Machine(VmError),
    #[error("The machine has failed (dump)")]
    Dead(#[from] MailboxError),
}

/// A piece of a block that is dumped.
#[derive(Debug, Clone)]
struct Segment {
    block: RamBlock,
    /// In the block.
    offset: u64,
    /// Bytes, at least one.
    len: u64,
}

impl Segment {
    /// The part of `block` that is asked for.
    fn of(block: &RamBlock, filter: Option<Filter>) -> Option<Self> {
        let (first, end) =
            (i128::from(block.address), i128::from(block.address) + i128::from(block.size()));
        let (from, to) = match filter {
            None => (first, end),
            Some(Filter { begin, length }) => {
                let (begin, length) = (i128::from(begin), i128::from(length));
                (first.max(begin), end.min(begin + length))
            }
        };
        let offset = u64::try_from(from - first).ok()?;
        let len = u64::try_from(to - from).ok().filter(|len| *len > 0)?;
        Some(Self { block: block.clone(), offset, len })
    }

    /// Where the guest sees it.
    fn address(&self) -> u64 {
        self.block.address.saturating_add(self.offset)
    }

    /// Hand its bytes over, in pieces.
    fn each(&self, mut take: impl FnMut(&[u8]) -> Result<(), DumpError>) -> Result<(), DumpError> {
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        while done < self.len {
            let piece = &mut buffer[..(self.len - done).min(CHUNK as u64) as usize];
            self.block.memory.read(self.offset + done, piece)?;
            take(piece)?;
            done += piece.len() as u64;
        }
        Ok(())
    }
}

/// A hart's general registers, as a core file has them: `pc`, then `x1` to `x31`.
type Registers = [u64; 32];

/// What is to be written.
#[derive(Debug)]
struct Core {
    segments: Vec<Segment>,
    harts: Vec<Registers>,
    format: CoreFormat,
}

impl Core {
    fn write(&self, to: &mut File, state: &DumpState) -> Result<(), DumpError> {
        match self.format {
            CoreFormat::Elf => elf::write(self, to, state),
            CoreFormat::Kdump { in_place } => kdump::write(self, to, in_place, state),
        }
    }
}

/// Write everything, and count it page by page: a pipe may take some, and more much later.
fn write_counted(to: &mut File, bytes: &[u8], state: &DumpState) -> io::Result<()> {
    for page in bytes.chunks(PAGE_SIZE as usize) {
        to.write_all(page)?;
        state.progress(page.len());
    }
    Ok(())
}

/// What the dumper asks of the machine.
#[derive(Debug, Clone)]
pub struct DumpPeers {
    pub hold: Recipient<HoldForDump>,
    pub cpus: Recipient<QueryCpus>,
    pub hart: Recipient<QueryHart>,
    pub announce: Recipient<Announce>,
}

/// The actor.
#[derive(Debug)]
pub struct Dumper {
    peers: DumpPeers,
    /// In the order of their addresses.
    blocks: Arc<[RamBlock]>,
    state: DumpState,
}

impl Dumper {
    /// Of a machine with this memory.
    pub fn new(peers: DumpPeers, mut blocks: Vec<RamBlock>, state: DumpState) -> Self {
        blocks.retain(|block| block.size() > 0);
        blocks.sort_by_key(|block| block.address);
        Self { peers, blocks: blocks.into(), state }
    }
}

impl Actor for Dumper {
    type Context = Context<Self>;
}

impl Handler<StartDump> for Dumper {
    type Result = ResponseFuture<Result<(), DumpError>>;

    fn handle(&mut self, request: StartDump, _: &mut Self::Context) -> Self::Result {
        let work = Work {
            peers: self.peers.clone(),
            blocks: Arc::clone(&self.blocks),
            claimed: Claimed(self.state.clone()),
        };
        Box::pin(work.run(request))
    }
}

/// A dump.
struct Work {
    peers: DumpPeers,
    blocks: Arc<[RamBlock]>,
    claimed: Claimed,
}

impl Work {
    async fn run(self, request: StartDump) -> Result<(), DumpError> {
        let StartDump { mut to, format, filter, detach } = request;
        let state = self.claimed.0.clone();
        let held = self.peers.hold.send(HoldForDump).await?.map_err(DumpError::Machine)?;
        let core = match self.prepare(format, filter).await {
            Ok(core) => core,
            Err(error) => {
                state.end::<(), _>(&Err(&error));
                // That the machine is lost too is no more than the reason told already.
                let _ = held.undo().await;
                return Err(error);
            }
        };
        let (told, written) = oneshot::channel();
        let writer = {
            let state = state.clone();
            // Not one that the process waits for at its end: whoever reads a pipe may never come.
            threads::named("dump_thread").spawn(move || {
                let result = core.write(&mut to, &state);
                drop(to);
                // Nobody waits any more at the end of the process.
                let _ = told.send(result);
            })
        };
        let rest = async move {
            let died = DumpError::Failed("save memory: its thread has died");
            let result = match writer {
                Ok(_) => written.await.unwrap_or(Err(died)),
                Err(source) => Err(DumpError::Write { step: "start a thread", source }),
            };
            self.end(result, held).await
        };
        if detach {
            // The event tells how it ends.
            actix::spawn(async move { drop(rest.await) });
            return Ok(());
        }
        rest.await
    }

    /// What there is to be written, of a machine that does not run.
    async fn prepare(&self, format: CoreFormat, filter: Option<Filter>) -> Result<Core, DumpError> {
        if filter.is_some_and(|filter| filter.length == 0) {
            return Err(DumpError::EmptyFilter);
        }
        let segments: Vec<_> =
            self.blocks.iter().filter_map(|block| Segment::of(block, filter)).collect();
        let total = segments.iter().map(|segment| segment.len).sum();
        self.claimed.0.expect(total);
        if segments.is_empty() {
            return Err(DumpError::NoMemory);
        }
        let cpus = self.peers.cpus.send(QueryCpus).await?.map_err(DumpError::Machine)?;
        let mut harts = Vec::new();
        for CpuInfo { index, .. } in cpus {
            let hart = self.peers.hart.send(QueryHart { cpu: index }).await?;
            let hart = hart.map_err(DumpError::Machine)?.state;
            let mut registers = hart.x;
            registers[0] = hart.pc;
            harts.push(registers);
        }
        match harts.is_empty() {
            true => Err(DumpError::NoCpu),
            false => Ok(Core { segments, harts, format }),
        }
    }

    async fn end(self, result: Result<(), DumpError>, held: Quiesced) -> Result<(), DumpError> {
        let error = result.as_ref().err().map(ToString::to_string);
        let now = self.claimed.0.end(&result);
        self.peers.announce.do_send(Announce(VmEvent::DumpCompleted { result: now, error }));
        // A machine that does not go on says why in its run state.
        let _ = held.undo().await;
        result
    }
}

#[cfg(test)]
mod tests;
