//! TCP, UNIX and vsock sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{SockFlag, SockType, VsockAddr};
use rustix::event::{PollFd as Polled, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Shutdown, SocketType, sockopt};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::address::{InetAddress, UnixAddress};
use super::error::ChannelError;
use super::listen::{Socket, inet_value};
use super::{Channel, ChannelKind, Outgoing};
use crate::chardev::fd::PollFd;
use crate::net::resolve::{ResolveCause, ResolveError, Resolver, is_numeric};
use crate::net::unix_path::{SUN_PATH, UnixPath};
use crate::qmp::error::os_words;

/// Connections that may wait to be accepted: as many as multifd opens at once.
const BACKLOG: u32 = 256;
/// Before trying again to connect to a UNIX socket whose queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// A channel over a connected socket: shutting it down is a `shutdown(2)`.
fn channel<S>(stream: S, kind: ChannelKind, peer: String) -> io::Result<Channel>
where
    S: AsFd + super::Stream + 'static,
{
    let duplicate = Arc::new(stream.as_fd().try_clone_to_owned()?);
    let seen = Arc::clone(&duplicate);
    let stop = move || {
        // Refused only when the peer has ended the connection already.
        let _ = rustix::net::shutdown(&duplicate, Shutdown::Both);
    };
    Ok(Channel::new(stream, kind, peer).stopped_by(stop).seen_by(move || outgoing(&seen)))
}

/// What the kernel says of a socket's other end.
fn outgoing(socket: &OwnedFd) -> Outgoing {
    let over = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
    let mut polled = [Polled::new(socket, PollFlags::OUT | PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut polled, Some(&now)) {
        Ok(_) if polled[0].revents().intersects(over) => Outgoing::Broken,
        Ok(0) => Outgoing::Waiting,
        // An error of the look itself says nothing: writing will tell.
        Ok(_) | Err(_) => Outgoing::Taken,
    }
}

fn over_tcp(stream: TcpStream, keep_alive: bool) -> io::Result<Channel> {
    // Refused only for a socket that is dead already, which using it will show.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(&stream, keep_alive);
    let peer = stream.peer_addr()?.to_string();
    channel(stream, ChannelKind::Tcp, peer)
}

async fn addresses(
    inet: &InetAddress,
    host: &str,
    resolver: &Resolver,
) -> Result<Vec<SocketAddr>, ChannelError> {
    let families = inet.families().ok_or(ChannelError::NoFamily)?;
    if inet.numeric == Some(true) && !is_numeric(host) {
        let (host, port) = (host.to_owned(), inet.port.clone());
        return Err(ResolveError { host, port, cause: ResolveCause::NoSuchName }.into());
    }
    Ok(resolver.resolve(host, &inet.port, families).await?)
}

fn tcp_socket(address: &SocketAddr, inet: &InetAddress) -> io::Result<TcpSocket> {
    if inet.mptcp == Some(true) {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let protocol = Some(rustix::net::ipproto::MPTCP);
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, protocol)?;
        return Ok(TcpSocket::from_std_stream(fd.into()));
    }
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// Connect to the first of a name's addresses that takes it.
pub(super) async fn connect_inet(
    inet: &InetAddress,
    resolver: &Resolver,
) -> Result<Channel, ChannelError> {
    let mut refusal: Option<io::Error> = None;
    for address in addresses(inet, &inet.host, resolver).await? {
        let connected = match tcp_socket(&address, inet) {
            Ok(socket) => socket.connect(address).await,
            Err(error) => Err(error),
        };
        let keep_alive = inet.keep_alive.unwrap_or(false);
        match connected.and_then(|stream| over_tcp(stream, keep_alive)) {
            Ok(channel) => return Ok(channel),
            // That the host lacks one kind of address says nothing about the peer.
            Err(error) if refusal.is_some() && is_local(&error) => {}
            Err(error) => refusal = Some(error),
        }
    }
    let refusal = refusal.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(ChannelError::connect(&refusal))
}

/// True of errors that come from this host's own configuration.
fn is_local(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Unsupported
    ) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Listen at all of a name's addresses that can be had, and say where that is.
pub(super) async fn listen_inet(
    inet: &InetAddress,
    resolver: &Resolver,
) -> Result<(Vec<TcpListener>, Vec<Value>), ChannelError> {
    let mut found = Vec::new();
    if inet.host.is_empty() {
        for any in ["::", "0.0.0.0"] {
            found.extend(addresses(inet, any, resolver).await.unwrap_or_default());
        }
    }
    if found.is_empty() {
        let host = if inet.host.is_empty() { "0.0.0.0" } else { &inet.host };
        found = addresses(inet, host, resolver).await?;
    }
    let mut listeners = Vec::new();
    let mut refusal: Option<io::Error> = None;
    let alone = found.len() == 1;
    for address in found {
        match listen_one(address, inet, alone) {
            Ok(listener) => listeners.push(listener),
            Err(error) if refusal.is_some() && is_local(&error) => {}
            Err(error) => refusal = Some(error),
        }
    }
    if listeners.is_empty() {
        let refusal = refusal.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
        return Err(ChannelError::NoPort(os_words(&refusal)));
    }
    let bound = |listener: &TcpListener| listener.local_addr().ok().as_ref().map(inet_value);
    let values = listeners.iter().filter_map(bound).collect();
    Ok((listeners, values))
}

/// The first port that is free, from the address' own up to `to`. An IPv6 address that is `alone`
/// serves IPv4 too, where it can and is not told otherwise.
fn listen_one(mut address: SocketAddr, inet: &InetAddress, alone: bool) -> io::Result<TcpListener> {
    let both = match (inet.ipv4, inet.ipv6) {
        (None, None) => alone,
        families => families == (Some(true), Some(true)),
    };
    let first = address.port();
    let mut refusal = io::Error::from(io::ErrorKind::AddrInUse);
    for port in first..=inet.to.unwrap_or(first).max(first) {
        address.set_port(port);
        let listen = |both: bool| {
            let socket = tcp_socket(&address, inet)?;
            socket.set_reuseaddr(true)?;
            if address.is_ipv6() {
                sockopt::set_ipv6_v6only(&socket, !both)?;
            }
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        let listening = match listen(both) {
            // Somebody may have the port for IPv4.
            Err(error) if both && error.kind() == io::ErrorKind::AddrInUse => listen(false),
            listening => listening,
        };
        match listening {
            Ok(listener) => return Ok(listener),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// The path that tokio takes: an abstract name starts with a zero byte.
fn unix_path(
    unix: &UnixAddress,
    failed: impl FnOnce(io::Error) -> ChannelError,
) -> Result<UnixPath, ChannelError> {
    let too_long = |limit| {
        let path = unix.path.display().to_string();
        Err(ChannelError::PathTooLong { path, limit })
    };
    if unix.is_abstract != Some(true) {
        let path = UnixPath::new(&unix.path).map_err(failed)?;
        return path.map_or_else(|| too_long(SUN_PATH), Ok);
    }
    let bytes = unix.path.as_os_str().as_bytes();
    if bytes.len() >= SUN_PATH {
        return too_long(SUN_PATH - 1);
    }
    let mut name = vec![0];
    name.extend(bytes);
    if unix.tight == Some(false) {
        name.resize(SUN_PATH, 0);
    }
    Ok(UnixPath::abstract_name(&name))
}

fn over_unix(stream: UnixStream, path: &Path) -> io::Result<Channel> {
    channel(stream, ChannelKind::Unix, path.display().to_string())
}

pub(super) async fn connect_unix(unix: &UnixAddress) -> Result<Channel, ChannelError> {
    let path = unix_path(unix, |error| ChannelError::connect(&error))?;
    loop {
        match UnixStream::connect(path.path())
            .await
            .and_then(|stream| over_unix(stream, &unix.path))
        {
            // The listener's queue is full: it will accept, or the caller gives up.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(QUEUE_FULL_PAUSE).await;
            }
            result => return result.map_err(|error| ChannelError::connect(&error)),
        }
    }
}

pub(super) fn listen_unix(unix: &UnixAddress) -> Result<UnixListener, ChannelError> {
    let failed = |error: io::Error| ChannelError::bind(unix.path.display().to_string(), &error);
    let path = unix_path(unix, failed)?;
    if unix.is_abstract != Some(true) {
        // What an earlier listener left behind.
        match std::fs::remove_file(&unix.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    UnixListener::bind(path.path()).map_err(failed)
}

/// A socket of this kind that is `fd`, already connected.
pub(super) fn adopt(fd: OwnedFd, name: &str) -> io::Result<Channel> {
    match sockopt::socket_domain(&fd)? {
        AddressFamily::UNIX => {
            let stream = std::os::unix::net::UnixStream::from(fd);
            stream.set_nonblocking(true)?;
            channel(UnixStream::from_std(stream)?, ChannelKind::Unix, format!("fd:{name}"))
        }
        AddressFamily::INET | AddressFamily::INET6 => {
            let stream = std::net::TcpStream::from(fd);
            stream.set_nonblocking(true)?;
            over_tcp(TcpStream::from_std(stream)?, false)
        }
        _ => channel(PollFd::new(fd)?, ChannelKind::Vsock, format!("fd:{name}")),
    }
}

fn vsock_address(cid: &str, port: &str) -> Result<VsockAddr, ChannelError> {
    let cid = cid.parse().map_err(|_| ChannelError::Cid(cid.to_owned()))?;
    let port = port.parse().map_err(|_| ChannelError::VsockPort(port.to_owned()))?;
    Ok(VsockAddr::new(cid, port))
}

fn vsock_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let family = nix::sys::socket::AddressFamily::Vsock;
    Ok(nix::sys::socket::socket(family, SockType::Stream, flags, None)?)
}

pub(super) async fn connect_vsock(cid: &str, port: &str) -> Result<Channel, ChannelError> {
    let address = vsock_address(cid, port)?;
    let connected = async {
        let fd = vsock_socket()?;
        match nix::sys::socket::connect(fd.as_raw_fd(), &address) {
            Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = PollFd::new(fd)?;
        stream.writable().await?;
        sockopt::socket_error(&stream)??;
        channel(stream, ChannelKind::Vsock, format!("{cid}:{port}"))
    };
    connected.await.map_err(|error: io::Error| ChannelError::ConnectVsock {
        address: format!("{cid}:{port}"),
        reason: os_words(&error),
    })
}

/// A vsock socket that listens.
#[derive(Debug)]
pub(super) struct VsockListener(PollFd);

/// Listen; the port that was chosen, if it was left open.
pub(super) fn listen_vsock(cid: &str, port: &str) -> Result<(VsockListener, String), ChannelError> {
    let address = vsock_address(cid, port)?;
    let listening = || {
        let fd = vsock_socket()?;
        nix::sys::socket::bind(fd.as_raw_fd(), &address)?;
        rustix::net::listen(&fd, BACKLOG as i32)?;
        let bound: VsockAddr = nix::sys::socket::getsockname(fd.as_raw_fd())?;
        Ok((VsockListener(PollFd::new(fd)?), bound.port().to_string()))
    };
    listening().map_err(|error: io::Error| ChannelError::bind(format!("{cid}:{port}"), &error))
}

impl Socket {
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Channel>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(cx)
                .map(|accepted| accepted.and_then(|(stream, _)| over_tcp(stream, false))),
            Self::Unix(listener) => listener.poll_accept(cx).map(|accepted| {
                accepted.and_then(|(stream, _)| over_unix(stream, Path::new("a UNIX socket")))
            }),
            Self::Vsock(VsockListener(listener)) => listener.poll_accept(cx).map(|accepted| {
                let stream = PollFd::new(accepted?)?;
                channel(stream, ChannelKind::Vsock, "a vsock socket".to_owned())
            }),
        }
    }
}
