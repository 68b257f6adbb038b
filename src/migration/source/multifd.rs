//! What sends pages beside the main channel: threads, each of which looks for zeroes, compresses,
//! encrypts and writes, so that this is done on more than one processor. With `multifd` each has a
//! channel of its own; with `mapped-ram` all write into one file.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;

use super::Connect;
use crate::migration::channel::{Address, Channel, ChannelControl, ChannelWriter};
use crate::migration::message::Settings;
use crate::migration::parameters::{MultifdCompression, ZeroPageDetection};
use crate::migration::ram::block::RamBlock;
use crate::migration::ram::multifd::{MultifdSender, PacketPages, greeting};
use crate::migration::ram::saver::PageBatch;
use crate::migration::status::ErrorDesc;
use crate::threads;

/// Packets that wait for one channel, with the one that it writes.
const QUEUE: usize = 2;

enum Job {
    Pages(PageBatch, u64),
    /// Everything of this round has been given.
    Sync(u64),
    /// Nothing more comes.
    End,
}

/// What has become of a job.
struct Done {
    channel: usize,
    result: Result<(PacketPages, usize), ErrorDesc>,
}

/// Does a thread's jobs.
pub(super) trait PageSender: Send + 'static {
    /// Send pages, as packet `number` of all channels; what they were, and the bytes written.
    fn pages(&mut self, batch: &PageBatch, number: u64) -> Result<(PacketPages, usize), ErrorDesc>;
    /// Say that everything of the round is sent; the bytes written.
    fn sync(&mut self, number: u64) -> Result<usize, ErrorDesc>;
    /// Nothing more comes.
    fn end(&mut self) -> Result<(), ErrorDesc>;
}

struct Side {
    jobs: mpsc::UnboundedSender<Job>,
    /// Of its own channel.
    control: Option<ChannelControl>,
    waiting: usize,
    /// The host's id of the thread; 0 before it runs, and when it has ended.
    thread: Arc<AtomicU32>,
}

/// Open the channels that the settings ask for, and say which is which.
pub(super) async fn open(
    connect: &dyn Connect,
    address: &Address,
    settings: &Settings,
    uuid: &[u8; 16],
) -> Result<Vec<Channel>, ErrorDesc> {
    let mut channels = Vec::new();
    for number in 0..settings.parameters.multifd_channels {
        let opened = async {
            let mut channel = connect.connect(address, settings).await?;
            let greeted = async {
                channel.write_all(&greeting(uuid, number)).await?;
                channel.flush().await
            };
            greeted.await.map_err(|error| ErrorDesc::from(error.to_string()))?;
            Ok(channel)
        };
        let opened: Result<Channel, ErrorDesc> = opened.await;
        channels.push(opened.map_err(|reason| of_channel(number.into(), &reason))?);
    }
    Ok(channels)
}

fn thread_name(number: usize) -> String {
    format!("mig/src/send_{number}")
}

fn of_channel(number: usize, reason: &ErrorDesc) -> ErrorDesc {
    ErrorDesc::from(format!("multifd channel {number}: {reason}"))
}

/// Those who send. Dropping them ends them at once.
pub(super) struct SideChannels {
    sides: Vec<Side>,
    done: mpsc::UnboundedReceiver<Done>,
    /// Channels that take another packet; as often as they do.
    free: VecDeque<usize>,
    /// Number of the next packet.
    number: u64,
    /// What was sent and not yet asked for.
    sent: (PacketPages, usize),
    /// Bytes of jobs that are done.
    total: u64,
}

impl Drop for SideChannels {
    fn drop(&mut self) {
        self.controls().for_each(ChannelControl::shutdown);
    }
}

impl SideChannels {
    /// Send pages of `blocks` over `channels`.
    pub(super) fn new(
        channels: Vec<Channel>,
        blocks: &Arc<[RamBlock]>,
        settings: &Settings,
    ) -> Result<Self, ErrorDesc> {
        let parameters = &settings.parameters;
        let compression = parameters.multifd_compression;
        let level = match compression {
            MultifdCompression::None => 0,
            MultifdCompression::Zlib => parameters.multifd_zlib_level,
            MultifdCompression::Zstd => parameters.multifd_zstd_level,
        };
        // `legacy` looks for them on the main channel.
        let find_zero = parameters.zero_page_detection == ZeroPageDetection::Multifd;
        let mut senders = Vec::new();
        for (number, channel) in (0..).zip(channels) {
            let blocks = Arc::clone(blocks);
            let sender = MultifdSender::new(number, blocks, compression, level, find_zero);
            let sender = sender.map_err(|error| ErrorDesc::from(error.to_string()))?;
            let control = channel.control();
            let (_, to) = channel.split();
            let (runtime, out) = (Runtime::current(), Vec::new());
            let sender: Box<dyn PageSender> = Box::new(Packets { sender, to, runtime, out });
            senders.push((sender, Some(control)));
        }
        Self::of(senders)
    }

    /// Have these send pages, each on a thread; beside each the channel that is its own.
    pub(super) fn of(
        senders: Vec<(Box<dyn PageSender>, Option<ChannelControl>)>,
    ) -> Result<Self, ErrorDesc> {
        let (tell, done) = mpsc::unbounded_channel();
        let mut sides = Vec::new();
        for (number, (sender, control)) in senders.into_iter().enumerate() {
            let (jobs, taken) = mpsc::unbounded_channel();
            let tell = tell.clone();
            let thread = Arc::<AtomicU32>::default();
            let id = Arc::clone(&thread);
            threads::named(thread_name(number))
                .spawn(move || {
                    let own = rustix::thread::gettid().as_raw_nonzero().get();
                    id.store(own.cast_unsigned(), Ordering::Relaxed);
                    work(sender, taken, &tell, number);
                    id.store(0, Ordering::Relaxed);
                })
                .map_err(|error| of_channel(number, &ErrorDesc::from(error.to_string())))?;
            sides.push(Side { jobs, control, waiting: 0, thread });
        }
        let free = (0..QUEUE).flat_map(|_| 0..sides.len()).collect();
        let sent = (PacketPages { normal: 0, zero: 0 }, 0);
        Ok(Self { sides, done, free, number: 1, sent, total: 0 })
    }

    /// Whether a packet would be taken.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether something waits to be written.
    pub(super) fn is_busy(&self) -> bool {
        self.sides.iter().any(|side| side.waiting > 0)
    }

    fn give(&mut self, channel: usize, job: Job) {
        let side = &mut self.sides[channel];
        side.waiting += 1;
        // One whose thread has ended has said why.
        let _ = side.jobs.send(job);
    }

    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }

    /// Send pages; there has to be room.
    pub(super) fn send(&mut self, batch: PageBatch) {
        let Some(channel) = self.free.pop_front() else { return };
        let number = self.number();
        self.give(channel, Job::Pages(batch, number));
    }

    /// Say on every channel that the round is over.
    pub(super) fn sync(&mut self) {
        for channel in 0..self.sides.len() {
            let number = self.number();
            self.give(channel, Job::Sync(number));
        }
    }

    /// Close every channel when all is written.
    pub(super) fn end(&mut self) {
        (0..self.sides.len()).for_each(|channel| self.give(channel, Job::End));
    }

    /// Wait until a channel has done something. Nothing is lost if it is not waited for to the end.
    pub(super) async fn progress(&mut self) -> Result<(), ErrorDesc> {
        let gone = || ErrorDesc::new("the threads of the multifd channels have ended");
        let Done { channel, result } = self.done.recv().await.ok_or_else(gone)?;
        let side = &mut self.sides[channel];
        let (pages, bytes) = result.map_err(|reason| match &side.control {
            Some(_) => of_channel(channel, &reason),
            None => reason,
        })?;
        side.waiting = side.waiting.saturating_sub(1);
        if pages.normal + pages.zero > 0 {
            self.free.push_back(channel);
        }
        self.sent.0.normal += pages.normal;
        self.sent.0.zero += pages.zero;
        self.sent.1 += bytes;
        self.total += bytes as u64;
        Ok(())
    }

    /// Pages and bytes that were sent since this was last asked.
    pub(super) fn take_sent(&mut self) -> (PacketPages, usize) {
        std::mem::replace(&mut self.sent, (PacketPages { normal: 0, zero: 0 }, 0))
    }

    /// The threads that run: name, and the host's id.
    pub(super) fn threads(&self) -> Vec<(String, u32)> {
        let ids = self.sides.iter().map(|side| side.thread.load(Ordering::Relaxed)).enumerate();
        ids.filter(|&(_, id)| id != 0).map(|(number, id)| (thread_name(number), id)).collect()
    }

    fn controls(&self) -> impl Iterator<Item = &ChannelControl> {
        self.sides.iter().filter_map(|side| side.control.as_ref())
    }

    /// Bytes written so far to channels that are not the main one.
    pub(super) fn bytes_written(&self) -> u64 {
        self.controls().map(ChannelControl::bytes_written).sum()
    }

    /// Bytes sent so far, wherever they went; those of jobs under way come later.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.total
    }

    /// Time since any channel's bytes last moved.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.controls().map(ChannelControl::idle).min()
    }
}

/// A thread that does jobs until there is nobody to give it any.
fn work(
    mut sender: Box<dyn PageSender>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    done: &mpsc::UnboundedSender<Done>,
    channel: usize,
) {
    while let Some(job) = jobs.blocking_recv() {
        let none = PacketPages { normal: 0, zero: 0 };
        let result = match job {
            Job::Pages(batch, number) => sender.pages(&batch, number),
            Job::Sync(number) => sender.sync(number).map(|bytes| (none, bytes)),
            Job::End => sender.end().map(|()| (none, 0)),
        };
        let failed = result.is_err();
        if done.send(Done { channel, result }).is_err() || failed {
            return;
        }
    }
}

/// Sends packets over a channel.
struct Packets {
    sender: MultifdSender,
    to: ChannelWriter,
    runtime: Runtime,
    out: Vec<u8>,
}

impl Packets {
    fn write(&mut self, flush: bool) -> Result<usize, ErrorDesc> {
        let written = self.runtime.block_on(async {
            self.to.write_all(&self.out).await?;
            match flush {
                true => self.to.flush().await,
                false => Ok(()),
            }
        });
        written.map_err(|error| ErrorDesc::from(error.to_string()))?;
        let bytes = self.out.len();
        self.out.clear();
        Ok(bytes)
    }
}

impl PageSender for Packets {
    fn pages(&mut self, batch: &PageBatch, number: u64) -> Result<(PacketPages, usize), ErrorDesc> {
        let packet = self.sender.packet(batch, number, &mut self.out);
        let pages = packet.map_err(|error| ErrorDesc::from(error.to_string()))?;
        Ok((pages, self.write(false)?))
    }

    fn sync(&mut self, number: u64) -> Result<usize, ErrorDesc> {
        self.sender.sync(number, &mut self.out);
        self.write(true)
    }

    fn end(&mut self) -> Result<(), ErrorDesc> {
        let ended = self.runtime.block_on(self.to.shutdown());
        ended.map_err(|error| ErrorDesc::from(error.to_string()))
    }
}
