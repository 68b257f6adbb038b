//! Postcopy: the machine goes on at the other side, and what is left of its memory follows, what
//! it asks for first. A channel that is lost pauses the migration, and another one resumes it.
//!
//! The last byte of the package with the devices is the point of no return. Up to there a failure
//! leaves the machine here, as ever; so does a destination that says that it could not load the
//! package. From there on neither side is whole without the other: nothing
//! but success ends the work, and every failure, any number of times, leads back to
//! `postcopy-paused`. What was on its way when a channel was lost is in nobody's account: the
//! destination tells which pages it has, and all others are sent again.

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use super::back::Back;
use super::{CHUNK, Line, RAM_ID, REASON_WAIT, Run, no_line, unexpected};
use crate::migration::capability::Capability;
use crate::migration::channel::{Address, ChannelControl, ChannelWriter};
use crate::migration::message::Settings;
use crate::migration::ram::PAGE;
use crate::migration::ram::machine::RAM_NAME;
use crate::migration::ram::saver::{RamSaver, Sent};
use crate::migration::return_path::{RESUMED, ReturnMessage};
use crate::migration::source::pace::Pace;
use crate::migration::source::{Connect as _, Lifeline, Memory, Resume};
use crate::migration::status::{ErrorDesc, MigrationState};
use crate::migration::stream::{self, Record, StreamCommand};

/// Values of the pings around the switch.
const BEFORE_PACKAGE: u32 = 2;
const IN_PACKAGE: u32 = 3;
const AFTER_PACKAGE: u32 = 4;
/// Bytes of background pages that a request may have to wait for.
const BACKGROUND: usize = 64 << 10;

/// The channel beside a postcopy's own (capability `postcopy-preempt`): pages that are waited for
/// overtake those that are on their way already.
pub(super) struct Urgent {
    to: ChannelWriter,
    control: ChannelControl,
}

impl Urgent {
    pub(super) fn bytes_written(&self) -> u64 {
        self.control.bytes_written()
    }
}

/// Append the announcement that there may be a postcopy, of pages of this size.
pub(super) fn put_advice(out: &mut Vec<u8>) {
    // A set of sizes, a bit each, of which there is one; and the size itself.
    let page = (PAGE as u64).to_be_bytes();
    stream::put_command(out, StreamCommand::PostcopyAdvise, &[page, page].concat());
}

fn put_ping(out: &mut Vec<u8>, value: u32) {
    stream::put_command(out, StreamCommand::Ping, &value.to_be_bytes());
}

impl Run {
    /// The client wants a postcopy, and it can begin.
    pub(super) fn wants_postcopy(&self) -> bool {
        self.has(Capability::PostcopyRam) && self.wishes.borrow().postcopy
    }

    /// Phase: the machine has stopped; its devices, and the word to go on over there.
    pub(super) async fn switch_to_postcopy(
        &mut self,
        memory: &mut dyn Memory,
    ) -> Result<(), ErrorDesc> {
        if self.has(Capability::PostcopyPreempt) {
            // The first connection to be accepted has to be that of the stream.
            while self.line.as_ref().is_some_and(|line| !line.ponged) {
                self.heard(memory).await?;
            }
            let (address, settings) = (self.address.clone(), self.settings.clone());
            self.open_urgent(&address, &settings).await?;
        }
        self.release_drives().await?;
        memory.collect()?;
        self.pass(memory);
        let mut out = Vec::new();
        stream::put_command(&mut out, StreamCommand::SwitchoverStart, &[]);
        while self.others(&mut out, memory).await? {}
        saver(memory)?.put_discards(&mut out);
        put_ping(&mut out, BEFORE_PACKAGE);

        let mut package = Vec::new();
        stream::put_command(&mut package, StreamCommand::PostcopyListen, &[]);
        self.devices(&mut package).await?;
        put_ping(&mut package, IN_PACKAGE);
        stream::put_command(&mut package, StreamCommand::PostcopyRun, &[]);
        let too_long = |_| ErrorDesc::new("the devices' state is too long for a postcopy");
        let length = u32::try_from(package.len()).map_err(too_long)?;
        stream::put_command(&mut out, StreamCommand::Packaged, &length.to_be_bytes());
        let last = package.pop();
        out.extend(package);
        self.send(&out, memory).await?;

        // Without the last byte the destination has nothing that it could run.
        self.keep_lifeline();
        self.reporter.last.lock().committed = true;
        self.figures.downtime = self.figures.stopped.map(|at| at.elapsed());
        self.figures.postcopy = Some(self.transferred());
        self.report(memory);
        self.reporter.enter(MigrationState::PostcopyActive);
        let sent = self.send_now(last.as_slice(), memory).await;
        if sent.is_err() {
            self.reporter.last.lock().committed = false;
        }
        sent
    }

    /// Send a piece of what only the owners of devices' memory read; false if none is left.
    async fn others(
        &mut self,
        out: &mut Vec<u8>,
        memory: &mut dyn Memory,
    ) -> Result<bool, ErrorDesc> {
        stream::put_piece_head(out, Record::SectionPart, RAM_ID);
        let saved = saver(memory)?.save_others(RAM_NAME, out, CHUNK);
        let saved = saved.map_err(|error| ErrorDesc::from(error.to_string()))?;
        memory.end_piece(out);
        stream::put_footer(out, RAM_ID);
        self.send(out, memory).await?;
        out.clear();
        Ok(saved == Sent::More)
    }

    /// Open the channel for pages that are waited for. The other one may be lost meanwhile.
    async fn open_urgent(
        &mut self,
        address: &Address,
        settings: &Settings,
    ) -> Result<(), ErrorDesc> {
        let connecting = self.connect.connect(address, settings);
        let line = self.line.as_mut().ok_or_else(no_line)?;
        let back = line.back.as_mut().ok_or_else(no_line)?;
        let channel = tokio::select! {
            channel = connecting => channel?,
            heard = back.recv() => {
                let said = line.judged(heard)?;
                return Err(unexpected(&said));
            }
        };
        let control = channel.control();
        self.lifeline.lock().controls.push(control.clone());
        self.urgent = Some(Urgent { to: channel.split().1, control });
        Ok(())
    }

    /// Send pages at once, ahead of what is on its way.
    async fn send_urgent(&mut self, pages: &[u8]) -> Result<(), ErrorDesc> {
        let urgent = self.urgent.as_mut().ok_or_else(no_line)?;
        let sent = async {
            urgent.to.write_all(pages).await?;
            urgent.to.flush().await
        };
        let sent: std::io::Result<()> = sent.await;
        sent.map_err(|error| ErrorDesc::from(error.to_string()))
    }

    /// `migrate-pause` ends these channels.
    fn keep_lifeline(&self) {
        let line = self.line.as_ref().map(|line| line.control.clone());
        let urgent = self.urgent.as_ref().map(|urgent| urgent.control.clone());
        let controls = line.into_iter().chain(urgent).collect();
        *self.lifeline.lock() = Lifeline { controls, by_user: false };
    }

    /// Phase: memory, over one channel after another, until the destination has all of it.
    pub(super) async fn postcopy(&mut self, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        let mut out = Vec::new();
        put_ping(&mut out, AFTER_PACKAGE);
        let mut sent = self.send_now(&out, memory).await;
        loop {
            if sent.is_ok() {
                sent = self.pages(memory).await;
            }
            let Err(reason) = sent else { return Ok(()) };
            if self.destination_has_given_up().await {
                self.reporter.last.lock().committed = false;
                return Err(reason);
            }
            self.recover(memory, reason).await?;
            sent = Ok(());
        }
    }

    /// After an error: whether the destination says that it has ended its migration. It does only
    /// while its machine has not run: then this one can.
    async fn destination_has_given_up(&mut self) -> bool {
        let Some(line) = &mut self.line else { return false };
        let _ = tokio::time::timeout(REASON_WAIT, async {
            while !line.given_up
                && let Some(back) = &mut line.back
                && let Some(heard @ Back::Message(_)) = back.recv().await
            {
                // Only this word counts; what the error is has been told.
                let _ = line.judged(Some(heard));
            }
        })
        .await;
        line.given_up
    }

    /// All pages, those asked for first, and the destination's word that it has them.
    async fn pages(&mut self, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        let mut out = Vec::with_capacity(BACKGROUND + (8 << 10));
        loop {
            self.hear_requests(memory)?;
            let rate = self.wishes.borrow().parameters.max_postcopy_bandwidth;
            out.clear();
            if self.urgent.is_some() && saver(memory)?.put_requested(&mut out, BACKGROUND)? {
                self.send_urgent(&out).await?;
                tokio::task::yield_now().await;
                continue;
            }
            stream::put_piece_head(&mut out, Record::SectionPart, RAM_ID);
            let head = out.len();
            let urgent = saver(memory)?.save_requested(&mut out, BACKGROUND);
            // They do not wait for their time, but those after them do.
            if !urgent.map_err(|error| ErrorDesc::from(error.to_string()))? {
                if self.waits_for_its_time(rate, memory).await? {
                    continue;
                }
                memory.pages(&mut out, Pace::chunk(rate, BACKGROUND))?;
            }
            if out.len() == head {
                break;
            }
            memory.end_piece(&mut out);
            stream::put_footer(&mut out, RAM_ID);
            self.line.as_mut().ok_or_else(no_line)?.pace.admit(out.len(), rate);
            self.send_now(&out, memory).await?;
            // Others on this thread get their turn.
            tokio::task::yield_now().await;
        }
        out.clear();
        stream::put_piece_head(&mut out, Record::SectionEnd, RAM_ID);
        memory.end_piece(&mut out);
        stream::put_footer(&mut out, RAM_ID);
        out.push(Record::Eof as u8);
        self.send_now(&out, memory).await?;
        loop {
            match self.heard(memory).await? {
                ReturnMessage::Shut(0) => break,
                // Asked for while it was on its way.
                ReturnMessage::ReqPages { block, start, len } => {
                    saver(memory)?.request(block.as_deref(), start, len)?;
                }
                ReturnMessage::Pong(_) | ReturnMessage::SwitchoverAck => {}
                other => return Err(unexpected(&other)),
            }
        }
        self.report(memory);
        Ok(())
    }

    /// Send, and keep nothing back: the other side waits for it.
    async fn send_now(&mut self, bytes: &[u8], memory: &dyn Memory) -> Result<(), ErrorDesc> {
        self.send(bytes, memory).await?;
        match self.line.as_mut().ok_or_else(no_line)?.to.flush().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.cause(&error.to_string()).await),
        }
    }

    /// Take what the return path has brought; it is not waited for.
    fn hear_requests(&mut self, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        let saver = saver(memory)?;
        let line = self.line.as_mut().ok_or_else(no_line)?;
        while saver.requests() < RamSaver::REQUESTS_MAX {
            let heard = match line.back.as_mut().ok_or_else(no_line)?.try_recv() {
                Err(TryRecvError::Empty) => return Ok(()),
                heard => heard.ok(),
            };
            request(line.judged(heard)?, saver)?;
        }
        Ok(())
    }

    /// True when the next background pages are not due yet: some time has passed, or the return
    /// path has brought something.
    async fn waits_for_its_time(
        &mut self,
        rate: u64,
        memory: &mut dyn Memory,
    ) -> Result<bool, ErrorDesc> {
        let line = self.line.as_mut().ok_or_else(no_line)?;
        let Some(due) = line.pace.admit(0, rate) else { return Ok(false) };
        let tick = self.next_tick();
        let line = self.line.as_mut().ok_or_else(no_line)?;
        let back = line.back.as_mut().ok_or_else(no_line)?;
        let heard = tokio::select! {
            biased;
            heard = back.recv() => Some(heard),
            () = tokio::time::sleep_until(due.min(tick)) => None,
        };
        if let Some(heard) = heard {
            request(line.judged(heard)?, saver(memory)?)?;
        }
        if Instant::now() >= tick {
            self.tick(memory);
        }
        Ok(true)
    }

    /// The channel is lost, for this reason: until another one has been agreed on.
    async fn recover(
        &mut self,
        memory: &mut dyn Memory,
        mut reason: ErrorDesc,
    ) -> Result<(), ErrorDesc> {
        loop {
            if let Some(line) = self.line.take() {
                self.figures.lost_lines += line.control.bytes_written();
                line.control.shutdown();
            }
            if let Some(urgent) = self.urgent.take() {
                self.figures.lost_lines += urgent.bytes_written();
                urgent.control.shutdown();
            }
            if std::mem::take(&mut *self.lifeline.lock()).by_user {
                reason = ErrorDesc::paused_by_user();
            }
            self.report(memory);
            self.reporter.enter(MigrationState::PostcopyPaused(reason));
            let gone = || ErrorDesc::new("the migration's actor is gone");
            let resume = self.resumes.recv().await.ok_or_else(gone)?;
            match self.resume(resume, memory).await {
                Ok(()) => return Ok(()),
                Err(again) => reason = again,
            }
        }
    }

    /// Agree with the destination on what it has, over a new channel.
    async fn resume(&mut self, resume: Resume, memory: &mut dyn Memory) -> Result<(), ErrorDesc> {
        let Resume { address, settings, opened } = resume;
        let channel = self.connect.connect(&address, &settings).await;
        // Nobody waits if the address is of a kind that is not waited for.
        let _ = opened.send(channel.as_ref().map(drop).map_err(Clone::clone));
        let longest = saver(memory)?.longest_bitmap();
        self.line = Some(Line::new(channel?, Some(longest)));
        self.keep_lifeline();
        self.reporter.enter(MigrationState::PostcopyRecover);

        let pages = saver(memory)?;
        pages.reconnected();
        let mut blocks: Vec<String> = pages.blocks().map(|block| block.name.clone()).collect();
        let mut out = Vec::new();
        for name in &blocks {
            let mut payload = Vec::new();
            stream::put_name(&mut payload, name);
            stream::put_command(&mut out, StreamCommand::RecvBitmap, &payload);
        }
        self.send_now(&out, memory).await?;
        while !blocks.is_empty() {
            match self.heard(memory).await? {
                ReturnMessage::RecvBitmap { block, bitmap } if blocks.contains(&block) => {
                    saver(memory)?.reload(&block, &bitmap)?;
                    blocks.retain(|name| *name != block);
                }
                ReturnMessage::Pong(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
        if self.has(Capability::PostcopyPreempt) {
            self.open_urgent(&address, &settings).await?;
        }
        out.clear();
        stream::put_command(&mut out, StreamCommand::PostcopyResume, &[]);
        self.send_now(&out, memory).await?;
        loop {
            match self.heard(memory).await? {
                ReturnMessage::ResumeAck(RESUMED) => break,
                ReturnMessage::ResumeAck(value) => {
                    return Err(ErrorDesc::from(format!("illegal resume_ack value {value}")));
                }
                ReturnMessage::Pong(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
        self.report(memory);
        self.reporter.enter(MigrationState::PostcopyActive);
        Ok(())
    }
}

fn request(message: ReturnMessage, saver: &mut RamSaver) -> Result<(), ErrorDesc> {
    match message {
        ReturnMessage::ReqPages { block, start, len } => {
            saver.request(block.as_deref(), start, len)
        }
        ReturnMessage::Pong(_) | ReturnMessage::SwitchoverAck => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn saver(memory: &mut dyn Memory) -> Result<&mut RamSaver, ErrorDesc> {
    memory.saver().ok_or_else(|| ErrorDesc::new("the section of memory was not begun"))
}
