//! The ring buffer back end: the last bytes of output, for `ringbuf-read`.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::AsyncWrite;

/// A handle on a ring buffer; clones share it.
#[derive(Debug, Clone)]
pub struct Ring(Arc<Mutex<Buffer>>);

#[derive(Debug)]
struct Buffer {
    bytes: VecDeque<u8>,
    size: usize,
}

impl Ring {
    /// A buffer of `size` bytes.
    pub fn new(size: usize) -> Self {
        Self(Arc::new(Mutex::new(Buffer { bytes: VecDeque::new(), size })))
    }

    /// Append; the oldest bytes give way.
    pub fn write(&self, bytes: &[u8]) {
        let mut buffer = self.0.lock();
        let fresh = &bytes[bytes.len().saturating_sub(buffer.size)..];
        let excess = (buffer.bytes.len() + fresh.len()).saturating_sub(buffer.size);
        buffer.bytes.drain(..excess);
        buffer.bytes.extend(fresh);
    }

    /// Take up to `size` of the oldest bytes out.
    pub fn read(&self, size: usize) -> Vec<u8> {
        let mut buffer = self.0.lock();
        let count = size.min(buffer.bytes.len());
        buffer.bytes.drain(..count).collect()
    }
}

impl AsyncWrite for Ring {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
