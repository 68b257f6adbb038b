//! Opening an address as the destination of a migration.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::task::Poll;

use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinError, JoinSet};

use super::address::{Address, InetAddress, UnixAddress};
use super::connect::{ChannelContext, ServerTlsChoice};
use super::error::ChannelError;
use super::socket::{self, VsockListener};
use super::{Channel, command, file};
use crate::net::inherited;
use crate::qmp::error::os_words;

/// Most handshakes under way at once; further clients wait.
const HANDSHAKES: usize = 64;

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
    Vsock(VsockListener),
}

/// Where channels come from, after one that is open already.
#[derive(Debug)]
enum Source {
    Sockets(Vec<Socket>),
    /// There is only one.
    Nowhere(&'static str),
    /// Each channel opens the file once more.
    File {
        path: PathBuf,
        offset: u64,
        context: Box<ChannelContext>,
    },
}

/// The destination's end, which gives a channel for every connection.
#[derive(Debug)]
pub struct Listener {
    opened: Option<Channel>,
    tls: ServerTlsChoice,
    /// There is nobody at the other end to shake hands with.
    is_file: bool,
    /// Handshakes under way: a slow client holds up nobody else.
    handshakes: JoinSet<Result<Channel, ChannelError>>,
    source: Source,
    addresses: Vec<Value>,
    /// The socket's file, gone with the listener.
    path: Option<PathBuf>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody else may have removed it; nobody is left to be told.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listen at an address, or open what there is no connecting to.
pub async fn listen(address: &Address, context: &ChannelContext) -> Result<Listener, ChannelError> {
    let tls = context.server_tls.clone();
    let is_file = matches!(address, Address::File { .. });
    let make = |opened, source, addresses, path| {
        let handshakes = JoinSet::new();
        Ok(Listener { opened, tls, is_file, handshakes, source, addresses, path })
    };
    let sockets =
        |sockets, addresses, path| make.clone()(None, Source::Sockets(sockets), addresses, path);
    let opened = |channel, source| make.clone()(Some(channel), source, Vec::new(), None);
    match address {
        Address::Inet(inet) => {
            let (listeners, addresses) = socket::listen_inet(inet, &context.resolver()).await?;
            sockets(listeners.into_iter().map(Socket::Tcp).collect(), addresses, None)
        }
        Address::Unix(unix) => {
            let listener = socket::listen_unix(unix)?;
            let path = (unix.is_abstract != Some(true)).then(|| unix.path.clone());
            sockets(vec![Socket::Unix(listener)], vec![unix_value(unix)], path)
        }
        Address::Vsock { cid, port } => {
            let (listener, port) = socket::listen_vsock(cid, port)?;
            let address = json!({"type": "vsock", "cid": cid, "port": port});
            sockets(vec![Socket::Vsock(listener)], vec![address], None)
        }
        Address::Exec(words) => opened(command::spawn(words)?, Source::Nowhere("a command")),
        Address::Fd { name, of } => {
            let fd = match of {
                Some(names) if !name.starts_with(|c: char| c.is_ascii_digit()) => {
                    let named = names.take(name);
                    named.ok_or_else(|| ChannelError::NoSuchDescriptor(name.clone()))?
                }
                _ => inherited_by_number(name)?,
            };
            opened(file::adopt(fd, name)?, Source::Nowhere("a file descriptor"))
        }
        Address::File { path, offset } => {
            let (path, offset) = (path.clone(), *offset);
            let channel = file::open(&path, offset, context).await?;
            opened(channel, Source::File { path, offset, context: Box::new(context.clone()) })
        }
    }
}

fn inherited_by_number(name: &str) -> Result<OwnedFd, ChannelError> {
    let number = name.parse::<i32>().ok().filter(|&number| number >= 0);
    let number = number.ok_or_else(|| ChannelError::DescriptorNumber(name.to_owned()))?;
    inherited::duplicate(number).map_err(|error| ChannelError::descriptor(name, &error))
}

fn unix_value(unix: &UnixAddress) -> Value {
    let mut value = json!({"type": "unix", "path": unix.path.to_string_lossy()});
    for (name, switch) in [("abstract", unix.is_abstract), ("tight", unix.tight)] {
        if let Some(on) = switch {
            value[name] = on.into();
        }
    }
    value
}

/// An address that is listened at, as QAPI's `SocketAddress`.
pub(super) fn inet_value(address: &std::net::SocketAddr) -> Value {
    let inet = InetAddress {
        host: address.ip().to_string(),
        port: address.port().to_string(),
        ipv4: address.is_ipv4().then_some(true),
        ipv6: address.is_ipv6().then_some(true),
        ..InetAddress::default()
    };
    let mut value = json!(inet);
    value["type"] = "inet".into();
    value
}

impl Listener {
    /// Where it listens (QAPI `SocketAddress`), with the ports that were chosen.
    pub fn addresses(&self) -> &[Value] {
        &self.addresses
    }

    /// The next channel, handshake included. An error is that of one connection: the listener goes
    /// on, unless there is only one channel to be had (`OneChannel`), or the credentials are no good
    /// (`Credentials`).
    pub async fn accept(&mut self) -> Result<Channel, ChannelError> {
        loop {
            let more = self.opened.is_some() || !matches!(self.source, Source::Nowhere(_));
            tokio::select! {
                biased;
                Some(shaken) = self.handshakes.join_next() => {
                    let lost = |error: JoinError| ChannelError::Accept(error.to_string());
                    return shaken.map_err(lost).flatten();
                }
                accepted = accept_plain(&mut self.opened, &mut self.source),
                    if self.handshakes.is_empty() || more && self.handshakes.len() < HANDSHAKES =>
                {
                    let channel = accepted?;
                    let Some(tls) = self.tls.now()? else { return Ok(channel) };
                    if self.is_file {
                        return Err(ChannelError::TlsOverFile);
                    }
                    self.handshakes.spawn(async move { channel.secured_as_server(&tls).await });
                }
            }
        }
    }
}

async fn accept_plain(
    opened: &mut Option<Channel>,
    source: &mut Source,
) -> Result<Channel, ChannelError> {
    if let Some(channel) = opened.take() {
        return Ok(channel);
    }
    match source {
        Source::Sockets(sockets) => {
            poll_fn(|cx| {
                for socket in &mut *sockets {
                    if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                        let failed = |error| ChannelError::Accept(os_words(&error));
                        return Poll::Ready(accepted.map_err(failed));
                    }
                }
                Poll::Pending
            })
            .await
        }
        Source::Nowhere(what) => Err(ChannelError::OneChannel(what)),
        Source::File { path, offset, context } => file::open(path, *offset, context).await,
    }
}
