//! Datagrams as a byte stream: what one write brings goes out as one datagram, and what one brings
//! in is read in order. What is refused or lost is nobody's error, as with any datagram.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UdpSocket;

use super::device::{Ends, Source};
use super::socket::resolve;
use super::spec::UdpSpec;
use super::{ChardevError, words};

/// The longest datagram that is taken whole.
const DATAGRAM_MAX: usize = 4096;

/// Bind and connect a socket.
pub async fn open(spec: &UdpSpec) -> Result<Source, ChardevError> {
    let remote = resolve(&spec.remote, "localhost").await?;
    let remote = *remote.first().ok_or(ChardevError::NoFamily)?;
    let any = match remote {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let local = match &spec.local {
        Some(local) => resolve(local, &any.to_string()).await?,
        None => vec![SocketAddr::new(any, 0)],
    };
    let bound = UdpSocket::bind(local.as_slice()).await;
    let socket = bound.map_err(|error| ChardevError::BindInet(words(&error)))?;
    socket.connect(remote).await.map_err(|error| ChardevError::Connect {
        address: format!("{}:{}", spec.remote.host, spec.remote.port),
        reason: words(&error),
    })?;
    let socket = Arc::new(socket);
    let reader = Receiver { socket: Arc::clone(&socket), datagram: Vec::new(), read: 0 };
    Ok(Source::Fixed(Ends {
        reader: Some(Box::new(reader)),
        writer: Some(Box::new(Sender(socket))),
        ..Ends::default()
    }))
}

struct Receiver {
    socket: Arc<UdpSocket>,
    /// The last datagram.
    datagram: Vec<u8>,
    /// How much of it has been read.
    read: usize,
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // An empty datagram is not the end.
        while self.read == self.datagram.len() {
            let mut space = vec![0; DATAGRAM_MAX];
            let mut received = ReadBuf::new(&mut space);
            match ready!(self.socket.poll_recv(cx, &mut received)) {
                // An earlier one that we have sent was.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                result => result?,
            }
            let length = received.filled().len();
            space.truncate(length);
            (self.datagram, self.read) = (space, 0);
        }
        let rest = &self.datagram[self.read..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

struct Sender(Arc<UdpSocket>);

impl AsyncWrite for Sender {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let _ = ready!(self.0.poll_send(cx, bytes));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
