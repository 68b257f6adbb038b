//! The channels beside the main one (capability `multifd`): each has a thread, which looks for
//! zeroes, compresses, encrypts and writes, so that this is done on more than one processor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;

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
/// How long a channel may take nothing of what waits for it. A peer that does not serve the channel
/// cannot be told from one that is slow in any other way.
const PATIENCE: Duration = Duration::from_secs(30);

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

struct Side {
    jobs: mpsc::UnboundedSender<Job>,
    control: ChannelControl,
    waiting: usize,
    /// When something began to wait.
    since: Instant,
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
        let late = |_| Err(ErrorDesc::from(format!("no answer in {} s", PATIENCE.as_secs())));
        let opened = tokio::time::timeout(PATIENCE, opened).await.unwrap_or_else(late);
        channels.push(opened.map_err(|reason| of_channel(number.into(), &reason))?);
    }
    Ok(channels)
}

fn of_channel(number: usize, reason: &ErrorDesc) -> ErrorDesc {
    ErrorDesc::from(format!("multifd channel {number}: {reason}"))
}

/// The open channels. Dropping them ends them at once.
pub(super) struct SideChannels {
    sides: Vec<Side>,
    done: mpsc::UnboundedReceiver<Done>,
    /// Channels that take another packet; as often as they do.
    free: VecDeque<usize>,
    /// Number of the next packet.
    number: u64,
    /// What was sent and not yet asked for.
    sent: (PacketPages, usize),
}

impl Drop for SideChannels {
    fn drop(&mut self) {
        self.sides.iter().for_each(|side| side.control.shutdown());
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
        let (tell, done) = mpsc::unbounded_channel();
        let mut all = Self {
            sides: Vec::new(),
            done,
            free: VecDeque::new(),
            number: 1,
            sent: (PacketPages { normal: 0, zero: 0 }, 0),
        };
        for (number, channel) in (0..).zip(channels) {
            let blocks = Arc::clone(blocks);
            let sender = MultifdSender::new(number, blocks, compression, level, find_zero);
            let sender = sender.map_err(|error| ErrorDesc::from(error.to_string()))?;
            let control = channel.control();
            let (_, to) = channel.split();
            let (jobs, taken) = mpsc::unbounded_channel();
            let number = usize::from(number);
            let work = Work { sender, to, runtime: Runtime::current() };
            let tell = tell.clone();
            threads::named(format!("mig/src/send_{number}"))
                .spawn(move || work.run(taken, &tell, number))
                .map_err(|error| of_channel(number, &ErrorDesc::from(error.to_string())))?;
            all.sides.push(Side { jobs, control, waiting: 0, since: Instant::now() });
        }
        all.free = (0..QUEUE).flat_map(|_| 0..all.sides.len()).collect();
        Ok(all)
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
        if side.waiting == 0 {
            side.since = Instant::now();
        }
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
        let (pages, bytes) = result.map_err(|reason| of_channel(channel, &reason))?;
        let side = &mut self.sides[channel];
        side.waiting = side.waiting.saturating_sub(1);
        side.since = Instant::now();
        if pages.normal + pages.zero > 0 {
            self.free.push_back(channel);
        }
        self.sent.0.normal += pages.normal;
        self.sent.0.zero += pages.zero;
        self.sent.1 += bytes;
        Ok(())
    }

    /// Pages and bytes that were sent since this was last asked.
    pub(super) fn take_sent(&mut self) -> (PacketPages, usize) {
        std::mem::replace(&mut self.sent, (PacketPages { normal: 0, zero: 0 }, 0))
    }

    /// A channel whose peer takes nothing, in words.
    pub(super) fn stuck(&self) -> Result<(), ErrorDesc> {
        let stuck = |side: &Side| {
            side.waiting > 0 && side.control.idle().min(side.since.elapsed()) > PATIENCE
        };
        match self.sides.iter().position(stuck) {
            None => Ok(()),
            Some(number) => {
                let seconds = PATIENCE.as_secs();
                let text = format!("the destination has taken nothing from it for {seconds} s");
                Err(of_channel(number, &ErrorDesc::from(text)))
            }
        }
    }

    /// Bytes written so far.
    pub(super) fn bytes_written(&self) -> u64 {
        self.sides.iter().map(|side| side.control.bytes_written()).sum()
    }

    /// Time since any channel's bytes last moved.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.sides.iter().map(|side| side.control.idle()).min()
    }
}

/// What a channel's thread has.
struct Work {
    sender: MultifdSender,
    to: ChannelWriter,
    runtime: Runtime,
}

impl Work {
    fn run(
        mut self,
        mut jobs: mpsc::UnboundedReceiver<Job>,
        done: &mpsc::UnboundedSender<Done>,
        channel: usize,
    ) {
        let mut out = Vec::new();
        while let Some(job) = jobs.blocking_recv() {
            let result = self.job(&job, &mut out);
            let failed = result.is_err();
            if done.send(Done { channel, result }).is_err() || failed {
                return;
            }
        }
    }

    fn job(&mut self, job: &Job, out: &mut Vec<u8>) -> Result<(PacketPages, usize), ErrorDesc> {
        out.clear();
        let mut pages = PacketPages { normal: 0, zero: 0 };
        match job {
            Job::Pages(batch, number) => {
                pages = self
                    .sender
                    .packet(batch, *number, out)
                    .map_err(|error| ErrorDesc::from(error.to_string()))?;
            }
            Job::Sync(number) => self.sender.sync(*number, out),
            Job::End => {}
        }
        let written = self.runtime.block_on(async {
            self.to.write_all(out).await?;
            match job {
                Job::Pages(..) => Ok(()),
                Job::Sync(_) => self.to.flush().await,
                Job::End => self.to.shutdown().await,
            }
        });
        written.map_err(|error| ErrorDesc::from(error.to_string()))?;
        Ok((pages, out.len()))
    }
}
