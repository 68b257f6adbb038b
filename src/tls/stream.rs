//! The stream after a handshake, and the wire beneath it.
//!
//! In TLS 1.3 a client has finished before the server has looked at its certificate: the server's
//! verdict comes as an alert among the data. So the errors of reads and writes are explained like
//! those of the handshake, and a write that fails first looks for an alert that says why.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::credentials::X509Credentials;
use super::error::{HandshakeError, of_alert};

/// Bytes of a peer's first words that are kept.
const GREETING: usize = 16;
/// An end without a farewell: it may be anybody's, so it is not the stream's.
const CUT_OFF: &str = "Cannot read from TLS channel: The TLS connection was non-properly terminated: \
                       the peer closed the connection in mid-stream";
/// The first and the last content type of a TLS record.
const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;

/// What a peer has sent so far, in its own bytes.
#[derive(Debug, Default)]
pub(super) struct Seen {
    received: AtomicU64,
    greeting: Mutex<Vec<u8>>,
}

impl Seen {
    fn record(&self, bytes: &[u8]) {
        let before = self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before < GREETING as u64 {
            let mut greeting = self.greeting.lock();
            let room = GREETING.saturating_sub(greeting.len());
            greeting.extend(bytes.iter().take(room));
        }
    }

    /// How much, in words.
    pub(super) fn amount(&self) -> String {
        match self.received.load(Ordering::Relaxed) {
            0 => "the peer has sent nothing".to_owned(),
            bytes => format!("the peer has sent {bytes} bytes"),
        }
    }

    /// What the peer speaks, if it is not TLS (RFC 8446 section 5.1).
    pub(super) fn other_language(&self) -> Option<String> {
        let greeting = self.greeting.lock();
        match greeting.as_slice() {
            [] | [CHANGE_CIPHER_SPEC..=APPLICATION_DATA, 3, ..] => None,
            [b'Q', b'E', b'V', b'M', ..] => Some(": it has sent a migration stream".to_owned()),
            bytes => {
                let text: String = bytes.escape_ascii().map(char::from).collect();
                Some(format!(": it has sent \"{text}\""))
            }
        }
    }
}

/// What goes in and out of TLS, with a memory of how it began.
#[derive(Debug)]
pub(super) struct Wire<S> {
    io: S,
    seen: Arc<Seen>,
}

impl<S> Wire<S> {
    pub(super) fn new(io: S, seen: Arc<Seen>) -> Self {
        Self { io, seen }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        self.seen.record(new);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct TlsStream<S> {
    tls: tokio_rustls::TlsStream<Wire<S>>,
    credentials: Arc<X509Credentials>,
}

impl<S> TlsStream<S> {
    pub(super) fn new(
        tls: impl Into<tokio_rustls::TlsStream<Wire<S>>>,
        credentials: Arc<X509Credentials>,
    ) -> Self {
        Self { tls: tls.into(), credentials }
    }

    fn explain(&self, error: io::Error) -> io::Error {
        match of_io(&error, &self.credentials) {
            Some(reason) => io::Error::new(error.kind(), reason.to_string()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                io::Error::new(error.kind(), CUT_OFF)
            }
            None => error,
        }
    }
}

/// The error of rustls within one of its stream.
pub(super) fn of_io(error: &io::Error, credentials: &X509Credentials) -> Option<HandshakeError> {
    let reason = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let own = credentials.identity.as_ref().and_then(|identity| identity.chain.first());
    Some(match reason {
        rustls::Error::AlertReceived(alert) => of_alert(*alert, own, &credentials.missing),
        other => HandshakeError::Other(other.to_string()),
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// What a failed write was told of: the peer's last alert says more than a broken pipe.
    fn last_word(&mut self, error: io::Error) -> io::Error {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.tls).poll_read(&mut cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(Err(told)) if of_io(&told, &self.credentials).is_some() => {
                    return self.explain(told);
                }
                _ => return self.explain(error),
            }
        }
    }

    fn written<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        result.map_err(|error| self.last_word(error))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.tls).poll_read(cx, buf));
        Poll::Ready(result.map_err(|error| self.explain(error)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tls).poll_write(cx, bytes);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tls).poll_write_vectored(cx, slices);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.tls).poll_flush(cx);
        self.written(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.tls).poll_shutdown(cx);
        self.written(result)
    }
}
