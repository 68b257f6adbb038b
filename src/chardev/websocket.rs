//! WebSocket (RFC 6455) at the server's end: a client's binary messages as a byte stream, and back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_sink::Sink;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::device::Ends;

/// The longest message of a client.
const MESSAGE_MAX: usize = 1 << 20;
/// Read at once.
const READ_BUFFER: usize = 16 << 10;

const PROTOCOL: &str = "Sec-WebSocket-Protocol";
/// The only one that is spoken.
const BINARY: &str = "binary";

/// What a client asks for: `/`, in binary if it names protocols at all.
#[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
fn check(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status| {
        let mut response = ErrorResponse::new(None);
        *response.status_mut() = status;
        Err(response)
    };
    if request.uri().path() != "/" {
        return refuse(StatusCode::NOT_FOUND);
    }
    if let Some(protocols) = request.headers().get(PROTOCOL) {
        if !protocols.to_str().is_ok_and(|protocols| protocols.contains(BINARY)) {
            return refuse(StatusCode::BAD_REQUEST);
        }
        response.headers_mut().insert(PROTOCOL, HeaderValue::from_static(BINARY));
    }
    Ok(response)
}

/// The two ends of a connection, once it has become a WebSocket.
pub async fn accept<S>(stream: S) -> io::Result<Ends>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let stream = accept_hdr_async_with_config(stream, check, Some(config)).await;
    let bytes = Bytes { stream: stream.map_err(of_socket)?, message: Vec::new(), read: 0 };
    let (reader, writer) = tokio::io::split(bytes);
    Ok(Ends { reader: Some(Box::new(reader)), writer: Some(Box::new(writer)), ..Ends::default() })
}

fn of_socket(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

/// A byte stream over messages.
struct Bytes<S> {
    stream: WebSocketStream<S>,
    /// The last one that came.
    message: Vec<u8>,
    /// How much of it has been read.
    read: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Bytes<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read == self.message.len() {
            let next = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(next) => next.map_err(of_socket)?,
                None => return Poll::Ready(Ok(())),
            };
            match next {
                Message::Binary(bytes) => (self.message, self.read) = (bytes.into(), 0),
                Message::Close(_) => return Poll::Ready(Ok(())),
                // Answered when something is read or written next.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                Message::Text(_) => {
                    let text = "a text message where binary ones are spoken";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
            }
        }
        let rest = &self.message[self.read..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Bytes<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut stream = Pin::new(&mut self.stream);
        ready!(stream.as_mut().poll_ready(cx)).map_err(of_socket)?;
        stream.start_send(Message::binary(bytes.to_vec())).map_err(of_socket)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx).map_err(of_socket)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx).map_err(of_socket)
    }
}
