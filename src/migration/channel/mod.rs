//! Channels: the byte streams that a migration goes over.
//!
//! An [`Address`] says where; [`connect()`] opens it as the source, [`listen()`] as the destination.
//! What comes out is a [`Channel`], whatever is underneath; errors of its reads and writes are
//! whole sentences. Nothing here blocks, and everything that waits ends when its future is
//! dropped, or at [`ChannelControl::shutdown`].

mod address;
mod command;
mod connect;
mod error;
mod file;
mod listen;
mod socket;

pub use address::{
    Address, AddressError, InetAddress, MigrationChannel, SocketAddress, UnixAddress,
};
pub use connect::{ChannelContext, ServerTlsChoice, connect};
pub use error::ChannelError;
pub use file::FileAccess;
pub use listen::{Listener, listen};

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};

use crate::qmp::error::os_words;
use crate::tls::{self, ClientTls, ServerTls, TlsStream};

/// What a channel's bytes go through.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What is at the end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    Tcp,
    Unix,
    Vsock,
    Command,
    File,
    /// A descriptor that is neither a socket nor a file: a pipe or a device.
    Pipe,
    /// In memory, for tests.
    Memory,
}

impl ChannelKind {
    /// How errors call it.
    fn noun(self) -> &'static str {
        match self {
            Self::Tcp | Self::Unix | Self::Vsock | Self::Memory => "socket",
            Self::Command => "command",
            Self::File | Self::Pipe => "file",
        }
    }
}

/// Ends what is underneath at once: shuts the socket down, kills the command.
type Stop = Box<dyn Fn() + Send + Sync>;
/// Looks how what was written fares.
type Look = Box<dyn Fn() -> Outgoing + Send + Sync>;

/// What has become of the bytes that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    /// There is room for more: most of them are on their way, as far as this host can tell.
    Taken,
    /// The peer has yet to take most of them.
    Waiting,
    /// The peer has hung up.
    Broken,
}

/// What the two halves of a channel and its controls have in common.
struct Shared {
    kind: ChannelKind,
    shut: AtomicBool,
    /// Who waits for the read half and for the write half.
    waiting: Mutex<[Option<Waker>; 2]>,
    /// Gone with the channel.
    stop: Mutex<Option<Stop>>,
    /// Gone with the channel; absent where everything is taken at once.
    look: Mutex<Option<Look>>,
    read: AtomicU64,
    written: AtomicU64,
    opened: Instant,
    /// When bytes last went either way, in nanoseconds since `opened`.
    progress: AtomicU64,
}

const READ: usize = 0;
const WRITE: usize = 1;

impl Shared {
    fn count(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        self.progress.store(self.opened.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        match self.shut.load(Ordering::Acquire) {
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "Channel was shut down")),
            false => Ok(()),
        }
    }

    /// Have `half` woken by a shutdown too.
    fn park<T>(&self, half: usize, cx: &Context<'_>) -> Poll<io::Result<T>> {
        self.waiting.lock()[half] = Some(cx.waker().clone());
        // One that came before the waker was there has woken nobody.
        match self.check() {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// A duplex stream of bytes to the other machine, or to where its bytes are kept.
pub struct Channel {
    stream: Box<dyn Stream>,
    kind: ChannelKind,
    peer: String,
    file: Option<FileAccess>,
    shared: Arc<Shared>,
}

/// The halves of a channel.
pub type ChannelReader = ReadHalf<Channel>;
pub type ChannelWriter = WriteHalf<Channel>;

impl Channel {
    fn new(stream: impl Stream + 'static, kind: ChannelKind, peer: String) -> Self {
        let shared = Arc::new(Shared {
            kind,
            shut: AtomicBool::new(false),
            waiting: Mutex::new([None, None]),
            stop: Mutex::new(None),
            look: Mutex::new(None),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            opened: Instant::now(),
            progress: AtomicU64::new(0),
        });
        Self { stream: Box::new(stream), kind, peer, file: None, shared }
    }

    fn stopped_by(self, stop: impl Fn() + Send + Sync + 'static) -> Self {
        *self.shared.stop.lock() = Some(Box::new(stop));
        self
    }

    fn seen_by(self, look: impl Fn() -> Outgoing + Send + Sync + 'static) -> Self {
        *self.shared.look.lock() = Some(Box::new(look));
        self
    }

    /// The same channel inside TLS. Ending one ends the other.
    fn within(
        inner: ChannelControl,
        tls: TlsStream<Self>,
        kind: ChannelKind,
        peer: String,
    ) -> Self {
        let look = inner.clone();
        Self::new(tls, kind, peer)
            .stopped_by(move || inner.shutdown())
            .seen_by(move || look.outgoing())
    }

    /// Shake hands with a server that has to be `host`, unless `tls` says otherwise.
    pub async fn secured_as_client(
        self,
        tls: &ClientTls,
        host: Option<&str>,
    ) -> Result<Self, ChannelError> {
        let (control, kind, peer) = (self.control(), self.kind, self.peer.clone());
        let stream = tls::connect(self, tls, host).await?;
        Ok(Self::within(control, stream, kind, peer))
    }

    /// Shake hands with a client.
    pub async fn secured_as_server(self, tls: &ServerTls) -> Result<Self, ChannelError> {
        let (control, kind, peer) = (self.control(), self.kind, self.peer.clone());
        let stream = tls::accept(self, tls).await?;
        Ok(Self::within(control, stream, kind, peer))
    }

    /// Two ends of a channel in memory, for tests of what is above: as much as `buffer` bytes wait
    /// in either direction.
    pub fn pair(buffer: usize) -> (Self, Self) {
        let (a, b) = tokio::io::duplex(buffer);
        let end = |stream| Self::new(stream, ChannelKind::Memory, "memory".to_owned());
        (end(a), end(b))
    }

    /// What is underneath.
    pub fn kind(&self) -> ChannelKind {
        self.kind
    }

    /// Who is at the other end, for messages.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The file underneath, if it is one, for access at any position.
    pub fn file(&self) -> Option<&FileAccess> {
        self.file.as_ref()
    }

    /// What ends the channel and tells its figures, also from other tasks and threads.
    pub fn control(&self) -> ChannelControl {
        ChannelControl(Arc::clone(&self.shared))
    }

    /// Read and write at once.
    pub fn split(self) -> (ChannelReader, ChannelWriter) {
        tokio::io::split(self)
    }

    /// An error of the operating system as a sentence; others are sentences already.
    fn explain(&self, verb: &str, error: io::Error) -> io::Error {
        if self.shared.shut.load(Ordering::Acquire) {
            return self.shared.check().err().unwrap_or(error);
        }
        if error.get_ref().is_some() {
            return error;
        }
        let noun = self.kind.noun();
        io::Error::new(error.kind(), format!("Unable to {verb} {noun}: {}", os_words(&error)))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // A control that is still held keeps nothing open.
        self.shared.stop.lock().take();
        self.shared.look.lock().take();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, peer, .. } = self;
        f.debug_struct("Channel").field("kind", kind).field("peer", peer).finish_non_exhaustive()
    }
}

/// A handle on a channel that others read and write. Does not keep it open.
#[derive(Clone)]
pub struct ChannelControl(Arc<Shared>);

impl ChannelControl {
    /// End the channel: reads and writes under way and to come fail at once, and the peer sees the
    /// end of the stream.
    pub fn shutdown(&self) {
        self.0.shut.store(true, Ordering::Release);
        if let Some(stop) = &*self.0.stop.lock() {
            stop();
        }
        let waiting = std::mem::take(&mut *self.0.waiting.lock());
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// Cut the connection underneath, if there is one, as a network may: who reads or writes finds
    /// out there.
    pub fn cut(&self) {
        if self.0.kind.noun() == "socket"
            && let Some(stop) = &*self.0.stop.lock()
        {
            stop();
        }
    }

    /// Bytes read so far (of the migration stream, not of TLS around it).
    pub fn bytes_read(&self) -> u64 {
        self.0.read.load(Ordering::Relaxed)
    }

    /// Bytes written so far, likewise.
    pub fn bytes_written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// What has become of what was written.
    pub fn outgoing(&self) -> Outgoing {
        self.0.look.lock().as_ref().map_or(Outgoing::Taken, |look| look())
    }

    /// Time since bytes last went either way, or since the channel was opened.
    pub fn idle(&self) -> Duration {
        let progress = Duration::from_nanos(self.0.progress.load(Ordering::Relaxed));
        self.0.opened.elapsed().saturating_sub(progress)
    }
}

impl fmt::Debug for ChannelControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelControl")
            .field("read", &self.bytes_read())
            .field("written", &self.bytes_written())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.shared.check()?;
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.shared.count(&this.shared.read, buf.filled().len() - before);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(this.explain("read from", error))),
            Poll::Pending => this.shared.park(READ, cx),
        }
    }
}

impl Channel {
    fn wrote(&self, result: Poll<io::Result<usize>>, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.shared.count(&self.shared.written, bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.explain("write to", error))),
            Poll::Pending => self.shared.park(WRITE, cx),
        }
    }

    fn finished(&self, result: Poll<io::Result<()>>, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match result {
            Poll::Ready(result) => {
                Poll::Ready(result.map_err(|error| self.explain("write to", error)))
            }
            Poll::Pending => self.shared.park(WRITE, cx),
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.check()?;
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.check()?;
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.check()?;
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.finished(result, cx)
    }

    /// End what is written, and learn how it went: a command's exit status is known only now.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.check()?;
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.finished(result, cx)
    }
}

#[cfg(test)]
mod tests;
