//! One migration, phase after phase. Every phase ends with `?`: see the parent module for what
//! happens then.

mod back;
mod figures;
mod mapped;
mod postcopy;
mod sides;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::multifd::{self, SideChannels};
use super::pace::Pace;
use super::throttle::{Brake, Convergence};
use super::{
    Connect as _, Hold, Lifeline, Memory, Opened, Reins, Remembering, Reporter, Resume,
    SourcePeers, Wishes,
};
use crate::machine::message::{Quiesce, ReleaseDrives};
use crate::migration::capability::Capability;
use crate::migration::channel::{
    Address, Channel, ChannelControl, ChannelKind, ChannelWriter, Outgoing,
};
use crate::migration::message::Settings;
use crate::migration::return_path::ReturnMessage;
use crate::migration::sections;
use crate::migration::status::{ErrorDesc, MigrationState};
use crate::migration::stream::{self, Record, StreamCommand};
use crate::migration::vmstate;
use crate::migration::vmstate::machine::{Configuration, GlobalState};
use back::{Back, judged, listen, told};
use figures::Figures;
use mapped::Mapped;
use postcopy::Urgent;

/// Bytes that are made before they are written.
const CHUNK: usize = 512 << 10;
/// Within a pass that takes longer, writes are asked about as often (QEMU's
/// `CPU_THROTTLE_DIRTY_SYNC_TIMESLICE_MS`).
const SLOW_PASS: Duration = Duration::from_secs(5);
/// How long a destination that has hung up may take to say why.
const REASON_WAIT: Duration = Duration::from_secs(1);
/// How often it is looked whether the destination takes what was sent.
const LOOK: Duration = Duration::from_millis(1);
/// How often it is looked whether a slow line is there at all.
const PACE_LOOK: Duration = Duration::from_millis(50);
/// Of a line that the peer has hung up.
const BROKEN: &str = "Unable to write to socket: Broken pipe";
/// The section id of RAM. QEMU's has the same: what it registers before are `timer` and a network
/// that we number and do not have.
const RAM_ID: u32 = 2;
/// The value of the ping that opens the return path.
const PING: u32 = 1;

/// The work.
pub(super) struct Run {
    peers: Arc<SourcePeers>,
    reporter: Reporter,
    wishes: watch::Receiver<Wishes>,
    resumes: mpsc::UnboundedReceiver<Resume>,
    lifeline: Arc<Mutex<Lifeline>>,
    connect: Remembering,
    address: Address,
    settings: Settings,
    opened: Option<Opened>,
    line: Option<Line>,
    /// Beside it, until memory is begun.
    opened_sides: Vec<Channel>,
    sides: Option<SideChannels>,
    /// The destination has agreed to take the machine.
    acknowledged: bool,
    /// For pages that the destination waits for, beside a postcopy's channel.
    urgent: Option<Urgent>,
    /// The file that pages go into (`mapped-ram`).
    mapped: Option<Mapped>,
    hold: Arc<Hold>,
    convergence: Convergence,
    figures: Figures,
}

/// What follows the passes over memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// What is left fits into the downtime.
    Completion,
    /// The machine goes on at the other side without what is left.
    Postcopy,
}

/// The open channel.
struct Line {
    to: ChannelWriter,
    control: ChannelControl,
    back: Option<mpsc::Receiver<Back>>,
    /// What it brought before anybody waited for it.
    early: VecDeque<ReturnMessage>,
    pace: Pace,
    /// Its end says whether what was written has arrived; a socket's does not: the destination may
    /// have loaded everything and be gone.
    end_tells: bool,
    /// The destination has said that its migration has ended, and not well.
    given_up: bool,
    /// It has answered: the destination has this channel.
    ponged: bool,
}

impl Line {
    /// The return path is listened to if there may be bitmaps of so many bytes on it.
    fn new(channel: Channel, listens: Option<u64>) -> Self {
        let control = channel.control();
        let kept = [ChannelKind::Command, ChannelKind::File, ChannelKind::Pipe];
        let end_tells = kept.contains(&channel.kind());
        let (from, to) = channel.split();
        let back = listens.map(|bitmap_max| listen(from, bitmap_max));
        let (early, pace) = (VecDeque::new(), Pace::new());
        Self { to, control, back, early, pace, end_tells, given_up: false, ponged: false }
    }

    /// A message of the return path; a refusal is the error.
    fn judged(&mut self, back: Option<Back>) -> Result<ReturnMessage, ErrorDesc> {
        match &back {
            Some(Back::Message(ReturnMessage::Shut(value))) => self.given_up |= *value != 0,
            Some(Back::Message(ReturnMessage::Pong(_))) => self.ponged = true,
            _ => {}
        }
        judged(back)
    }
}

impl Run {
    pub(super) fn new(
        peers: Arc<SourcePeers>,
        reporter: Reporter,
        reins: Reins,
        address: Address,
        settings: Settings,
        opened: Opened,
        hold: Arc<Hold>,
    ) -> Self {
        let convergence = Convergence::new(Arc::clone(&peers.vcpus), peers.writers.clone());
        let Reins { wishes, resumes, lifeline, opened: channels } = reins;
        let connect = Remembering { peers: Arc::clone(&peers), opened: channels };
        Self {
            peers,
            reporter,
            wishes,
            resumes,
            lifeline,
            connect,
            address,
            settings,
            opened: Some(opened),
            line: None,
            opened_sides: Vec::new(),
            sides: None,
            acknowledged: false,
            urgent: None,
            mapped: None,
            hold,
            convergence,
            figures: Figures::new(),
        }
    }

    /// Migrate.
    pub(super) async fn phases(mut self) -> Result<(), ErrorDesc> {
        self.open().await?;
        let mut memory = (self.peers.memory)(&self.settings);
        self.begin(memory.as_mut()).await?;
        let next = self.precopy(memory.as_mut()).await?;
        self.stop_machine(memory.as_mut()).await?;
        if next == Next::Postcopy {
            self.switch_to_postcopy(memory.as_mut()).await?;
            return self.postcopy(memory.as_mut()).await;
        }
        self.complete(memory.as_mut()).await?;
        self.confirm(memory.as_ref()).await
    }

    fn has(&self, capability: Capability) -> bool {
        self.settings.capabilities.has(capability)
    }

    /// Phase: the channel.
    async fn open(&mut self) -> Result<(), ErrorDesc> {
        let opening = self.connect.connect(&self.address, &self.settings);
        let channel = match opening.await {
            Ok(channel) => channel,
            Err(reason) => {
                if let Some(opened) = self.opened.take() {
                    // Nobody waits if the address is of a kind that is not waited for.
                    let _ = opened.send(Err(reason.clone()));
                }
                return Err(reason);
            }
        };
        let listened = [Capability::ReturnPath, Capability::SwitchoverAck, Capability::PostcopyRam];
        let listens = listened.into_iter().any(|capability| self.has(capability));
        let checked = self.check_file(&channel, listens);
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(checked.clone());
        }
        checked?;
        // Nobody has lost pages yet that could be listed.
        self.line = Some(Line::new(channel, listens.then_some(0)));
        if self.has(Capability::Multifd) && self.mapped.is_none() {
            let (connect, uuid) = (&self.connect, &self.peers.uuid.unwrap_or_default());
            self.opened_sides = multifd::open(connect, &self.address, &self.settings, uuid).await?;
        }
        Ok(())
    }

    /// Phase: what the stream begins with.
    async fn begin(&mut self, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        let mut out = Vec::new();
        stream::put_header(&mut out);
        out.push(Record::Configuration as u8);
        out.extend(saved(&mut self.configuration())?.bytes);
        if self.line.as_ref().is_some_and(|line| line.back.is_some()) {
            stream::put_command(&mut out, StreamCommand::OpenReturnPath, &[]);
            stream::put_command(&mut out, StreamCommand::Ping, &PING.to_be_bytes());
        }
        if self.has(Capability::PostcopyRam) {
            postcopy::put_advice(&mut out);
        }
        stream::put_section_head(
            &mut out,
            Record::SectionStart,
            RAM_ID,
            "ram",
            0,
            memory.version(),
        );
        memory.begin(&mut out)?;
        if self.mapped.is_some() {
            self.begin_file(&mut out, memory).await?;
        }
        stream::put_footer(&mut out, RAM_ID);
        self.send(&out, memory).await?;
        if self.has(Capability::Multifd) && self.mapped.is_none() {
            let saver = memory.saver().ok_or_else(no_line)?;
            let blocks = saver.blocks().cloned().collect();
            let channels = std::mem::take(&mut self.opened_sides);
            self.sides = Some(SideChannels::new(channels, &blocks, &self.settings)?);
            // Nothing may come before the destination knows the blocks.
            self.flush_sides(memory).await?;
        }
        self.figures.setup = self.figures.begun.elapsed();
        self.pass(memory);
        self.report(memory);
        self.reporter.enter(MigrationState::Active);
        Ok(())
    }

    fn configuration(&self) -> Configuration {
        // QEMU's `should_validate_capability`: what both sides must have alike.
        let alike = [Capability::XIgnoreShared, Capability::MappedRam];
        let on = alike.into_iter().filter(|&c| self.has(c));
        Configuration {
            machine: self.peers.machine.clone(),
            capabilities: on.map(|c| c.name().to_owned()).collect(),
            uuid: self.peers.uuid.filter(|_| self.has(Capability::ValidateUuid)),
        }
    }

    /// Phase: memory, while the machine runs, until what is left fits into the downtime.
    async fn precopy(&mut self, memory: &mut dyn Memory) -> Result<Next, ErrorDesc> {
        let mut out = Vec::with_capacity(CHUNK + (8 << 10));
        loop {
            while self.piece(&mut out, memory).await? {
                if self.wants_postcopy() && self.agreed(memory).await? {
                    return Ok(Next::Postcopy);
                }
                if self.passes_slowly() {
                    self.collect(memory).await?;
                }
                // Others on this thread (a cancellation) get their turn.
                tokio::task::yield_now().await;
            }
            self.collect(memory).await?;
            if memory.remaining() <= self.most_while_stopped() && self.agreed(memory).await? {
                return Ok(Next::Completion);
            }
            // While the destination has not agreed, there may be nothing to send.
            if self.wants_postcopy() && self.agreed(memory).await? {
                return Ok(Next::Postcopy);
            }
        }
    }

    /// With `auto-converge`, so that the guest is slowed down in time: whether writes were last
    /// asked about too long ago, though the pass is not done. The first pass sends everything.
    fn passes_slowly(&self) -> bool {
        self.has(Capability::AutoConverge)
            && self.figures.passes > 1
            && self.figures.pass_begun.elapsed() >= SLOW_PASS
    }

    /// Learn what the guest has written, and slow it down if it is faster than we are.
    async fn collect(&mut self, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        self.flush_sides(memory).await?;
        self.taken(memory).await?;
        self.figures.remaining_at_pass = memory.remaining();
        let parameters = self.wishes.borrow().parameters.clone();
        memory.set_parameters(&parameters);
        let written = memory.collect()?;
        let brakes =
            [(Capability::AutoConverge, Brake::Rest), (Capability::DirtyLimit, Brake::Writes)];
        if let Some((_, brake)) = brakes.into_iter().find(|(brake, _)| self.has(*brake)) {
            self.convergence.pass(written, self.transferred(), &parameters, brake);
        }
        self.pass(memory);
        Ok(())
    }

    /// Send a piece of memory; false if none was left.
    async fn piece(
        &mut self,
        out: &mut Vec<u8>,
        memory: &mut dyn Memory,
    ) -> Result<bool, ErrorDesc> {
        if self.sides.is_some() {
            return self.packet(out, memory).await;
        }
        out.clear();
        stream::put_piece_head(out, Record::SectionPart, RAM_ID);
        let head = out.len();
        let rate = self.rate();
        let more = memory.pages(out, Pace::chunk(rate, CHUNK))?;
        if out.len() == head {
            return Ok(more);
        }
        memory.end_piece(out);
        stream::put_footer(out, RAM_ID);
        let line = self.line.as_mut().ok_or_else(no_line)?;
        let admitted = line.pace.admit(out.len(), rate);
        if let Some(at) = admitted {
            self.keep_pace(at, memory).await?;
        }
        self.send(out, memory).await?;
        Ok(more)
    }

    /// Wait for the line's turn; on a slow one that is lost, not for long.
    async fn keep_pace(&mut self, at: Instant, memory: &dyn Memory) -> Result<(), ErrorDesc> {
        while Instant::now() < at {
            let line = self.line.as_ref().ok_or_else(no_line)?;
            if line.control.outgoing() == Outgoing::Broken {
                return Err(self.cause(BROKEN).await);
            }
            self.wait_until(at.min(Instant::now() + PACE_LOOK), memory).await;
        }
        Ok(())
    }

    fn rate(&self) -> u64 {
        match self.hold.was() {
            Some(_) => 0,
            None => self.wishes.borrow().parameters.max_bandwidth,
        }
    }

    /// Bytes that can be sent in `downtime-limit` at the bandwidth that was measured or promised.
    fn most_while_stopped(&self) -> u64 {
        let wishes = self.wishes.borrow();
        let promised = wishes.parameters.avail_switchover_bandwidth as f64 / 1000.0;
        let bandwidth = if promised > 0.0 { promised } else { self.figures.bandwidth };
        (bandwidth * wishes.parameters.downtime_limit as f64) as u64
    }

    /// A pass ends when the destination has taken most of it: one that refuses what it reads, and
    /// one that has gone, is noticed while the machine still runs.
    async fn taken(&mut self, memory: &dyn Memory) -> Result<(), ErrorDesc> {
        loop {
            let line = self.line.as_mut().ok_or_else(no_line)?;
            if let Some(back) = &mut line.back
                && let Ok(heard) = back.try_recv()
            {
                line.early.push_back(judged(Some(heard))?);
                continue;
            }
            match line.control.outgoing() {
                Outgoing::Taken => return Ok(()),
                Outgoing::Broken => {
                    return Err(self.cause(BROKEN).await);
                }
                Outgoing::Waiting => self.wait_until(Instant::now() + LOOK, memory).await,
            }
        }
    }

    /// With `switchover-ack`: whether the destination agrees by now. Until it does, memory is sent
    /// as it changes.
    async fn agreed(&mut self, memory: &dyn Memory) -> Result<bool, ErrorDesc> {
        if !self.has(Capability::SwitchoverAck) || self.acknowledged {
            return Ok(true);
        }
        let tick = self.next_tick();
        while let Ok(heard) = tokio::time::timeout_at(tick, self.heard(memory)).await {
            match heard? {
                ReturnMessage::SwitchoverAck => {
                    self.acknowledged = true;
                    return Ok(true);
                }
                ReturnMessage::Pong(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(false)
    }

    /// Phase: the machine stops, and the client has its say if it wants one.
    async fn stop_machine(&mut self, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        // What was sent up to here was sent while the machine ran.
        self.report(memory);
        self.figures.stopped = Some(Instant::now());
        let hold = match self.peers.quiesce.send(Quiesce).await {
            Ok(Ok(hold)) => hold,
            Ok(Err(refusal)) => return Err(ErrorDesc::from(refusal.0)),
            Err(_) => return Err(ErrorDesc::new("the machine has failed")),
        };
        self.hold.keep(hold);
        self.convergence.release();
        memory.stopped();
        if self.has(Capability::PauseBeforeSwitchover) {
            self.report(memory);
            self.reporter.enter(MigrationState::PreSwitchover);
            self.told_to_go_on(memory).await?;
        }
        self.report(memory);
        self.reporter.enter(MigrationState::Device);
        Ok(())
    }

    async fn told_to_go_on(&mut self, memory: &dyn Memory) -> Result<(), ErrorDesc> {
        loop {
            let tick = self.next_tick();
            let told = self.wishes.wait_for(|wishes| wishes.go_on);
            match tokio::time::timeout_at(tick, told).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(ErrorDesc::new("the migration's actor is gone")),
                Err(_) => {}
            }
            self.tick(memory);
        }
    }

    /// Phase: the rest of memory, and the devices.
    async fn complete(&mut self, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        memory.collect()?;
        self.pass(memory);
        let mut out = Vec::with_capacity(CHUNK + (8 << 10));
        while self.piece(&mut out, memory).await? {}
        self.flush_sides(memory).await?;
        self.end_sides(memory).await?;
        self.finish_file().await?;
        out.clear();
        stream::put_piece_head(&mut out, Record::SectionEnd, RAM_ID);
        memory.end_piece(&mut out);
        stream::put_footer(&mut out, RAM_ID);
        let described = self.devices(&mut out).await?;
        self.send(&out, memory).await?;
        self.release_drives().await?;

        out.clear();
        out.push(Record::Eof as u8);
        let text = described.to_string();
        out.push(Record::VmDescription as u8);
        out.extend((text.len() as u32).to_be_bytes());
        out.extend(text.as_bytes());
        // The destination may run from the first of these bytes on.
        self.reporter.last.lock().committed = true;
        let sent = self.send(&out, memory).await;
        let sent = match sent {
            Ok(()) => self.close(memory).await,
            failed => failed,
        };
        if sent.is_err() {
            self.reporter.last.lock().committed = false;
        }
        self.figures.downtime = self.figures.stopped.map(|at| at.elapsed());
        self.report(memory);
        sent
    }

    /// The destination takes the drives when it has everything: it must find them free.
    async fn release_drives(&self) -> Result<(), ErrorDesc> {
        match self.peers.release_drives.send(ReleaseDrives).await {
            Ok(released) => released.map_err(|refusal| ErrorDesc::from(refusal.0)),
            Err(_) => Err(ErrorDesc::new("the machine has failed")),
        }
    }

    /// Append every device's section and the run state; the JSON that describes them.
    async fn devices(&mut self, out: &mut Vec<u8>) -> Result<Value, ErrorDesc> {
        let mut described = Vec::new();
        for (id, source) in (0..).zip(&self.peers.sections.sources) {
            // RAM's number is left out.
            let id: u32 = if id < RAM_ID { id } else { id + 1 };
            let section =
                source.save().await.map_err(|error| ErrorDesc::from(error.to_string()))?;
            put_section(out, id, &source.idstr, source.instance_id, &section);
            described.push(sections::described(&source.idstr, source.instance_id, &section));
        }
        let was = self.hold.was().and_then(|state| serde_json::to_value(state).ok());
        let run_state = was.as_ref().and_then(Value::as_str).unwrap_or("running").to_owned();
        let section = saved(&mut GlobalState { run_state, suspended: false })?;
        let id = self.peers.sections.sources.len() as u32 + 1;
        put_section(out, id, "globalstate", 0, &section);
        described.push(sections::described("globalstate", 0, &section));
        let configuration = saved(&mut self.configuration())?;
        Ok(sections::vmdesc(&configuration, 4096, described))
    }

    /// End the writing side: what is under way arrives, or the error is known.
    async fn close(&mut self, memory: &dyn Memory) -> Result<(), ErrorDesc> {
        loop {
            let tick = self.next_tick();
            let line = self.line.as_mut().ok_or_else(no_line)?;
            let closing = async {
                match line.back {
                    // The other direction is needed still.
                    Some(_) => line.to.flush().await,
                    None => line.to.shutdown().await,
                }
            };
            match tokio::time::timeout_at(tick, closing).await {
                Ok(Err(error)) if line.end_tells => return Err(ErrorDesc::from(error.to_string())),
                Ok(_) => return Ok(()),
                Err(_) => self.tick(memory),
            }
        }
    }

    /// Phase: with a return path, the destination's word that it has everything.
    async fn confirm(&mut self, memory: &dyn Memory) -> Result<(), ErrorDesc> {
        if self.line.as_ref().is_none_or(|line| line.back.is_none()) {
            return Ok(());
        }
        let confirmed = loop {
            match self.heard(memory).await {
                Ok(ReturnMessage::Shut(0)) => break Ok(()),
                Ok(ReturnMessage::Pong(_) | ReturnMessage::SwitchoverAck) => {}
                Ok(other) => break Err(unexpected(&other)),
                Err(error) => break Err(error),
            }
        };
        if confirmed.is_err() {
            // It says before it runs that it will; it has not.
            self.reporter.last.lock().committed = false;
        }
        confirmed
    }

    /// The next message of the return path; a refusal is the error.
    /// While it is waited for, the figures go on being told.
    async fn heard(&mut self, memory: &dyn Memory) -> Result<ReturnMessage, ErrorDesc> {
        loop {
            let tick = self.next_tick();
            let line = self.line.as_mut().ok_or_else(no_line)?;
            if let Some(early) = line.early.pop_front() {
                return Ok(early);
            }
            let back = line.back.as_mut().ok_or_else(no_line)?;
            match tokio::time::timeout_at(tick, back.recv()).await {
                Ok(heard) => return line.judged(heard),
                Err(_) => self.tick(memory),
            }
        }
    }

    /// Write; while it lasts, the figures go on being told.
    async fn send(&mut self, bytes: &[u8], memory: &dyn Memory) -> Result<(), ErrorDesc> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let tick = self.next_tick();
            let line = self.line.as_mut().ok_or_else(no_line)?;
            let wrote = tokio::select! {
                biased;
                wrote = line.to.write(rest) => Some(wrote),
                () = tokio::time::sleep_until(tick) => None,
            };
            match wrote {
                Some(Ok(0)) => return Err(self.cause("Unable to write: it takes no bytes").await),
                Some(Ok(bytes)) => rest = &rest[bytes..],
                Some(Err(error)) => return Err(self.cause(&error.to_string()).await),
                None => {}
            }
            if Instant::now() >= tick {
                self.tick(memory);
            }
        }
        Ok(())
    }

    /// Why a write failed: what the destination says, if it says anything.
    async fn cause(&mut self, symptom: &str) -> ErrorDesc {
        let said = tokio::time::timeout(REASON_WAIT, async {
            loop {
                match self.line.as_mut()?.back.as_mut()?.recv().await? {
                    Back::Message(ReturnMessage::Reason(reason)) => return Some(told(&reason)),
                    Back::Message(_) => {}
                    Back::End(_) => return None,
                }
            }
        });
        said.await.ok().flatten().unwrap_or_else(|| ErrorDesc::new(symptom))
    }

    async fn wait_until(&mut self, at: Instant, memory: &dyn Memory) {
        loop {
            let tick = self.next_tick();
            tokio::time::sleep_until(at.min(tick)).await;
            if Instant::now() >= tick {
                self.tick(memory);
            }
            if Instant::now() >= at {
                return;
            }
        }
    }

    /// Bytes sent so far.
    fn transferred(&self) -> u64 {
        let main = self.line.as_ref().map_or(0, |line| line.control.bytes_written());
        let urgent = self.urgent.as_ref().map_or(0, Urgent::bytes_written);
        self.figures.lost_lines
            + urgent
            + main
            + self.sides.as_ref().map_or(0, SideChannels::bytes_written)
    }
}

fn put_section(out: &mut Vec<u8>, id: u32, name: &str, instance: u32, section: &vmstate::Section) {
    stream::put_section_head(out, Record::SectionFull, id, name, instance, section.version);
    out.extend(&section.bytes);
    stream::put_footer(out, id);
}

fn saved<S: vmstate::VmState>(state: &mut S) -> Result<vmstate::Section, ErrorDesc> {
    vmstate::save(state).map_err(|error| ErrorDesc::from(error.to_string()))
}

fn unexpected(message: &ReturnMessage) -> ErrorDesc {
    ErrorDesc::from(format!("the destination sent {message:?} at a time when it means nothing"))
}

fn no_line() -> ErrorDesc {
    ErrorDesc::new("the channel is closed")
}
