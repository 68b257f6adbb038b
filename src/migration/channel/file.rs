//! Files, and descriptors of any kind that somebody else opened.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use rustix::fs::{FileType, OFlags};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;

use super::connect::ChannelContext;
use super::error::ChannelError;
use super::{Channel, ChannelControl, ChannelKind, Shared, socket};
use crate::chardev::fd::PollFd;
use crate::net::descriptors::Descriptors;
use crate::qmp::error::os_words;

/// Permissions of a file that a migration creates.
const MODE: u32 = 0o660;
/// Most bytes handed to the host at once.
const CHUNK: usize = 1 << 20;

/// The file underneath a channel: access at any position, and the stream's own position in it. What
/// goes through here counts as the channel's, and ends with it.
#[derive(Debug, Clone)]
pub struct FileAccess {
    file: Arc<std::fs::File>,
    /// The same file, opened once more for direct I/O if that was asked for.
    direct: Option<Arc<std::fs::File>>,
    position: Arc<AtomicU64>,
    control: ChannelControl,
}

impl FileAccess {
    /// Where the stream's next byte goes or comes from, in bytes from the file's start. True once
    /// the stream is flushed.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Let the stream go on elsewhere. The stream is to be flushed before.
    pub fn set_position(&self, position: u64) {
        self.position.store(position, Ordering::Release);
    }

    /// The same file for whole pages at multiples of a page, from and into memory aligned to one:
    /// past the host's cache, if that was asked for.
    pub fn for_pages(&self) -> Self {
        match &self.direct {
            Some(direct) => Self { file: Arc::clone(direct), ..self.clone() },
            None => self.clone(),
        }
    }
}

/// Everything blocks for as long as the disk does.
impl FileExt for FileAccess {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let Shared { read, .. } = &*self.control.0;
        self.control.0.check()?;
        let length = self.file.read_at(bytes, offset);
        let length = length.map_err(|error| sentence("read from", error))?;
        self.control.0.count(read, length);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let Shared { written, .. } = &*self.control.0;
        self.control.0.check()?;
        let length = self.file.write_at(bytes, offset);
        let length = length.map_err(|error| sentence("write to", error))?;
        self.control.0.count(written, length);
        Ok(length)
    }

    fn read_exact_at(&self, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.read_at(bytes, offset) {
                Ok(0) => return Err(sentence("read from", io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => {
                    bytes = &mut bytes[length..];
                    offset += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn sentence(verb: &str, error: io::Error) -> io::Error {
    let kind = error.kind();
    let reason = match kind {
        io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => os_words(&error),
    };
    io::Error::new(kind, format!("Unable to {verb} file: {reason}"))
}

/// A file as a stream. The host's calls run on threads of their own.
struct FileStream {
    file: Arc<std::fs::File>,
    position: Arc<AtomicU64>,
    busy: Option<Busy>,
    /// An error of a write that had been accepted.
    failed: Option<io::Error>,
}

enum Busy {
    Reading(JoinHandle<io::Result<Vec<u8>>>),
    Writing(JoinHandle<io::Result<()>>),
}

impl FileStream {
    /// Wait for what is under way; bytes that were read come back.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let result = match &mut self.busy {
            None => return Poll::Ready(Ok(None)),
            Some(Busy::Reading(task)) => ready!(Pin::new(task).poll(cx)).map(|r| r.map(Some)),
            Some(Busy::Writing(task)) => ready!(Pin::new(task).poll(cx)).map(|r| r.map(|()| None)),
        };
        self.busy = None;
        Poll::Ready(result.unwrap_or_else(|panic| Err(io::Error::other(panic))))
    }
}

impl AsyncRead for FileStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(bytes) = ready!(self.poll_idle(cx))? {
                let taken = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..taken]);
                self.position.fetch_add(taken as u64, Ordering::AcqRel);
                return Poll::Ready(Ok(()));
            }
            let wanted = buf.remaining().min(CHUNK);
            if wanted == 0 {
                return Poll::Ready(Ok(()));
            }
            let file = Arc::clone(&self.file);
            let position = self.position.load(Ordering::Acquire);
            self.busy = Some(Busy::Reading(tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; wanted];
                let read = file.read_at(&mut bytes, position)?;
                bytes.truncate(read);
                Ok(bytes)
            })));
        }
    }
}

impl AsyncWrite for FileStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // What a reader left unread is read again by the next one.
        ready!(self.poll_idle(cx))?;
        let chunk = bytes[..bytes.len().min(CHUNK)].to_vec();
        let length = chunk.len();
        let file = Arc::clone(&self.file);
        let position = self.position.fetch_add(length as u64, Ordering::AcqRel);
        self.busy = Some(Busy::Writing(tokio::task::spawn_blocking(move || {
            file.write_all_at(&chunk, position)
        })));
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_idle(cx).map_ok(drop)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

fn over_file(
    file: std::fs::File,
    direct: Option<std::fs::File>,
    position: u64,
    peer: String,
) -> Channel {
    let (file, position) = (Arc::new(file), Arc::new(AtomicU64::new(position)));
    let stream = FileStream {
        file: Arc::clone(&file),
        position: Arc::clone(&position),
        busy: None,
        failed: None,
    };
    let mut channel = Channel::new(stream, ChannelKind::File, peer);
    let (direct, control) = (direct.map(Arc::new), channel.control());
    channel.file = Some(FileAccess { file, direct, position, control });
    channel
}

/// Open a file, or what a client has given in its place, off this thread: a pipe's other end, or a
/// network's file system, may keep one waiting. `flags` are what a given descriptor is to be opened
/// with.
async fn open_with(
    options: std::fs::OpenOptions,
    path: &Path,
    flags: OFlags,
    descriptors: &Descriptors,
    failed: impl FnOnce(&io::Error) -> ChannelError,
) -> Result<std::fs::File, ChannelError> {
    if let Some(given) = descriptors.open(path, flags) {
        return Ok(given?.into());
    }
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || options.open(path)).await;
    opened.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(|error| failed(&error))
}

/// The file once more, for direct I/O, if the context asks for that.
async fn open_direct(
    path: &Path,
    writable: bool,
    context: &ChannelContext,
) -> Result<Option<std::fs::File>, ChannelError> {
    if !context.direct_io {
        return Ok(None);
    }
    let mut options = std::fs::OpenOptions::new();
    options.read(!writable).write(writable).custom_flags(OFlags::DIRECT.bits().cast_signed());
    let access = if writable { OFlags::WRONLY } else { OFlags::RDONLY };
    // The file itself has just been opened.
    let failed = |error: &io::Error| match error.kind() {
        io::ErrorKind::InvalidInput => ChannelError::Open {
            path: path.display().to_string(),
            reason: "filesystem does not support O_DIRECT".to_owned(),
        },
        _ => ChannelError::open(path, error),
    };
    let flags = access | OFlags::DIRECT;
    open_with(options, path, flags, &context.descriptors, failed).await.map(Some)
}

/// Create a file, cut it off at `offset` and write from there.
pub(super) async fn create(
    path: &Path,
    offset: u64,
    context: &ChannelContext,
) -> Result<Channel, ChannelError> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(MODE);
    let shown = path.display().to_string();
    let failed = |error: &io::Error| ChannelError::Create {
        path: path.display().to_string(),
        reason: os_words(error),
    };
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = open_with(options, path, flags, &context.descriptors, failed).await?;
    file.set_len(offset)
        .map_err(|error| ChannelError::Truncate { offset, reason: os_words(&error) })?;
    let direct = open_direct(path, true, context).await?;
    Ok(over_file(file, direct, offset, shown))
}

/// Open a file to read from `offset`.
pub(super) async fn open(
    path: &Path,
    offset: u64,
    context: &ChannelContext,
) -> Result<Channel, ChannelError> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    let failed = |error: &io::Error| ChannelError::open(path, error);
    let file = open_with(options, path, OFlags::RDONLY, &context.descriptors, failed).await?;
    let kind = rustix::fs::fstat(&file).map_err(|error| failed(&error.into()))?.st_mode;
    if FileType::from_raw_mode(kind) == FileType::Directory {
        return Err(failed(&rustix::io::Errno::ISDIR.into()));
    }
    let direct = open_direct(path, false, context).await?;
    Ok(over_file(file, direct, offset, path.display().to_string()))
}

/// A channel over a descriptor, which may be a socket, a pipe, a device or a file.
pub(super) fn adopt(fd: OwnedFd, name: &str) -> Result<Channel, ChannelError> {
    let adopted = || {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        let peer = format!("fd:{name}");
        match kind {
            FileType::Socket => socket::adopt(fd, name),
            FileType::RegularFile | FileType::BlockDevice => {
                let position = rustix::fs::seek(&fd, rustix::fs::SeekFrom::Current(0))?;
                Ok(over_file(fd.into(), None, position, peer))
            }
            FileType::Directory => Err(rustix::io::Errno::ISDIR.into()),
            _ => Ok(Channel::new(PollFd::new(fd)?, ChannelKind::Pipe, peer)),
        }
    };
    adopted().map_err(|error: io::Error| ChannelError::descriptor(name, &error))
}
