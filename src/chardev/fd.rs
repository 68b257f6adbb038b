//! A descriptor of the host as one end of a byte stream: by readiness where the kernel offers it
//! (terminals, pipes), through tokio's file threads where it does not (regular files).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::fs::{FileType, OFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::device::{Reader, Writer};

/// A non-blocking descriptor; clones share it.
#[derive(Debug, Clone)]
pub struct PollFd(Arc<AsyncFd<OwnedFd>>);

impl PollFd {
    /// Fails if the kernel cannot report readiness of such a descriptor.
    #[expect(deprecated, reason = "sound for a descriptor that is owned and never given away")]
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self(Arc::new(AsyncFd::new(fd)?)))
    }

    /// Wait until it can be written to: a socket that connects is connected, or has failed.
    pub async fn writable(&self) -> io::Result<()> {
        self.0.writable().await.map(drop)
    }

    /// The next connection of a socket that listens.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
            match guard.try_io(|fd| Ok(rustix::net::accept_with(fd.get_ref(), flags)?)) {
                Ok(accepted) => return Poll::Ready(accepted),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsFd for PollFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

impl AsyncRead for PollFd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), space)?)) {
                Ok(read) => {
                    buf.advance(read?);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for PollFd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// True for a file whose reads and writes never wait.
fn is_regular(fd: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// A descriptor to read from.
pub fn reader(fd: OwnedFd) -> io::Result<Reader> {
    if !is_regular(&fd)?
        && let Ok(fd) = PollFd::new(fd.try_clone()?)
    {
        return Ok(Box::new(fd));
    }
    Ok(Box::new(tokio::fs::File::from_std(fd.into())))
}

/// A descriptor to write to.
pub fn writer(fd: OwnedFd) -> io::Result<Writer> {
    if !is_regular(&fd)?
        && let Ok(fd) = PollFd::new(fd.try_clone()?)
    {
        return Ok(Box::new(fd));
    }
    Ok(Box::new(tokio::fs::File::from_std(fd.into())))
}

/// A standard stream of our own: opened anew, because non-blocking mode would otherwise be shared
/// with every process that holds the same terminal or pipe; a duplicate where that is not possible.
pub fn own(stream: impl AsFd, number: u32, flags: OFlags) -> io::Result<OwnedFd> {
    let duplicate = stream.as_fd().try_clone_to_owned()?;
    if is_regular(&duplicate)? {
        return Ok(duplicate);
    }
    let path = format!("/proc/self/fd/{number}");
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    match rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
        Ok(fd) => Ok(fd),
        Err(_) => Ok(duplicate),
    }
}
