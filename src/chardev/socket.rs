//! Stream sockets: listening for one client at a time, or connecting, perhaps again and again.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, sockopt};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::device::{Connection, Connector, Ends, Passed, Source};
use super::spec::{ChardevSpec, SocketAddress, SocketSpec};
use super::{ChardevError, words};
use crate::net::inherited;
use crate::net::resolve::{self, Families, ResolveError};
use crate::net::unix_path::{SUN_PATH, UnixPath};

/// Most descriptors of one message that are received; the kernel closes the others.
const MESSAGE_MAX: usize = 16;

/// Before accepting again after an error of the host, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Open a socket back end.
pub async fn open(socket: &SocketSpec, spec: &ChardevSpec) -> Result<Source, ChardevError> {
    if !socket.server {
        let mut client = Client { socket: socket.clone() };
        if let SocketAddress::Fd(fd) = socket.address {
            let first = adopt_stream(fd, socket.nodelay)?;
            return Ok(Source::Connections { first: Some(first), more: None });
        }
        let first = match (client.connect_once().await, socket.reconnect) {
            (Ok(connection), _) => Some(connection),
            (Err(error), None) => return Err(error),
            (Err(_), Some(_)) => None,
        };
        let more = socket.reconnect.map(|_| Box::new(client) as Box<dyn Connector>);
        return Ok(Source::Connections { first, more });
    }
    let mut server = listen(socket).await?;
    let mut first = None;
    if socket.wait {
        crate::report::line(&format!(
            "{}: info: QEMU waiting for connection on: {}",
            spec.origin,
            server.disconnected()
        ));
        first = Some(server.accept().await);
    }
    Ok(Source::Connections { first, more: Some(Box::new(server)) })
}

fn over_tcp(stream: TcpStream, nodelay: bool, server: &str) -> Connection {
    // Refused only for a socket that is dead already, which reading it will show.
    let _ = stream.set_nodelay(nodelay);
    let name =
        |address: io::Result<SocketAddr>| address.map_or("?".into(), |address| address.to_string());
    let filename =
        format!("tcp:{}{server} <-> {}", name(stream.local_addr()), name(stream.peer_addr()));
    let (reader, writer) = stream.into_split();
    let ends =
        Ends { reader: Some(Box::new(reader)), writer: Some(Box::new(writer)), passed: None };
    Connection { ends, filename }
}

fn over_unix(stream: UnixStream, filename: String) -> Connection {
    let (half, writer) = stream.into_split();
    let passed = Passed::default();
    let reader = PassingReader { half, passed: Arc::clone(&passed) };
    let ends = Ends {
        reader: Some(Box::new(reader)),
        writer: Some(Box::new(writer)),
        passed: Some(passed),
    };
    Connection { ends, filename }
}

/// What comes over a UNIX socket: bytes, and descriptors along with them.
struct PassingReader {
    half: OwnedReadHalf,
    /// The first descriptor of the message that was read last.
    passed: Passed,
}

impl AsyncRead for PassingReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket: &UnixStream = self.half.as_ref();
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            match socket.try_io(Interest::READABLE, || receive(socket, space)) {
                Ok((count, passed)) => {
                    buf.advance(count);
                    if passed.is_some() {
                        *self.passed.lock() = passed;
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Read bytes, at most up to the next that a descriptor came with; the first that came with them.
/// Commands take one each, so that the others of a message are closed here.
fn receive(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(bytes)];
    let received =
        rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let first = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
        _ => None,
    });
    Ok((received.bytes, first))
}

/// `unix:` and `tcp:` as `query-chardev` writes an address.
fn address_name(address: &SocketAddress) -> String {
    match address {
        SocketAddress::Inet { host, port, .. } => format!("tcp:{host}:{port}"),
        SocketAddress::Unix { path, .. } => format!("unix:{}", path.display()),
        SocketAddress::Fd(fd) => format!("fd:{fd}"),
    }
}

/// The addresses of a host and service, of the families that are wanted; `default` stands for a
/// host that is left out.
async fn resolve(
    host: &str,
    default: &str,
    port: &str,
    ipv4: Option<bool>,
    ipv6: Option<bool>,
) -> Result<Vec<SocketAddr>, ChardevError> {
    let families = Families::from_switches(ipv4, ipv6).ok_or(ChardevError::NoFamily)?;
    let name = if host.is_empty() { default } else { host };
    let found = resolve::resolve(name, port, families).await;
    Ok(found.map_err(|error| ResolveError { host: host.to_owned(), ..error })?)
}

/// The address, and what it needs as long as it is used.
fn unix_address(
    path: &Path,
    is_abstract: bool,
    tight: bool,
) -> Result<(std::os::unix::net::SocketAddr, Option<UnixPath>), ChardevError> {
    let shown = || path.display().to_string();
    let failed = |error: io::Error| ChardevError::Open { path: shown(), reason: words(&error) };
    if is_abstract {
        let mut name = path.as_os_str().as_encoded_bytes().to_vec();
        if name.len() >= SUN_PATH {
            return Err(ChardevError::PathTooLong { path: shown(), limit: SUN_PATH - 1 });
        }
        if !tight {
            name.resize(SUN_PATH - 1, 0);
        }
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name);
        return Ok((address.map_err(failed)?, None));
    }
    let Some(short) = UnixPath::new(path).map_err(failed)? else {
        return Err(ChardevError::PathTooLong { path: shown(), limit: SUN_PATH });
    };
    let address = std::os::unix::net::SocketAddr::from_pathname(short.path());
    Ok((address.map_err(failed)?, Some(short)))
}

/// A duplicate of a socket that the parent process left open for us.
fn inherited(fd: i32) -> Result<OwnedFd, ChardevError> {
    inherited::duplicate(fd)
        .and_then(|owned| Ok(sockopt::socket_type(&owned).map(|_| owned)?))
        .map_err(|error| match rustix::io::Errno::from_io_error(&error) {
            Some(rustix::io::Errno::BADF | rustix::io::Errno::NOTSOCK) => {
                ChardevError::NotASocket { fd }
            }
            _ => ChardevError::Descriptor { fd, reason: words(&error) },
        })
}

fn adopt_stream(fd: i32, nodelay: bool) -> Result<Connection, ChardevError> {
    let failed = |error: io::Error| ChardevError::Descriptor { fd, reason: words(&error) };
    let owned = inherited(fd)?;
    let domain = sockopt::socket_domain(&owned).map_err(|error| failed(error.into()))?;
    if domain == AddressFamily::UNIX {
        let stream = std::os::unix::net::UnixStream::from(owned);
        stream.set_nonblocking(true).map_err(failed)?;
        let stream = UnixStream::from_std(stream).map_err(failed)?;
        Ok(over_unix(stream, format!("unix:fd:{fd}")))
    } else {
        let stream = std::net::TcpStream::from(owned);
        stream.set_nonblocking(true).map_err(failed)?;
        let stream = TcpStream::from_std(stream).map_err(failed)?;
        Ok(over_tcp(stream, nodelay, ""))
    }
}

/// A socket that listens.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

struct Server {
    listener: Listener,
    nodelay: bool,
    name: String,
    /// The socket's file, gone with it.
    path: Option<PathBuf>,
}

async fn listen(socket: &SocketSpec) -> Result<Server, ChardevError> {
    let mut name = address_name(&socket.address);
    let mut file = None;
    let listener = match &socket.address {
        SocketAddress::Inet { host, port, to, ipv4, ipv6 } => {
            let any = if *ipv4 == Some(false) || (*ipv6 == Some(true) && ipv4.is_none()) {
                "::"
            } else {
                "0.0.0.0"
            };
            let addresses = resolve(host, any, port, *ipv4, *ipv6).await?;
            let listener = listen_tcp(&addresses, *to)?;
            if let Ok(bound) = listener.local_addr() {
                name = format!("tcp:{host}:{}", bound.port());
            }
            Listener::Tcp(listener)
        }
        SocketAddress::Unix { path, is_abstract, tight } => {
            let failed = |error: io::Error| ChardevError::Bind {
                address: path.display().to_string(),
                reason: words(&error),
            };
            let (address, _path) = unix_address(path, *is_abstract, *tight)?;
            if !is_abstract {
                // What an earlier machine left behind.
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failed(error));
                    }
                    _ => file = Some(path.clone()),
                }
            }
            let listener = std::os::unix::net::UnixListener::bind_addr(&address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            Listener::Unix(UnixListener::from_std(listener).map_err(failed)?)
        }
        SocketAddress::Fd(fd) => {
            let failed =
                |error: io::Error| ChardevError::Descriptor { fd: *fd, reason: words(&error) };
            let owned = inherited(*fd)?;
            let listening =
                sockopt::socket_acceptconn(&owned).map_err(|error| failed(error.into()))?;
            if !listening {
                return Err(failed(io::Error::other("the socket does not listen")));
            }
            let domain = sockopt::socket_domain(&owned).map_err(|error| failed(error.into()))?;
            if domain == AddressFamily::UNIX {
                let listener = std::os::unix::net::UnixListener::from(owned);
                listener.set_nonblocking(true).map_err(failed)?;
                Listener::Unix(UnixListener::from_std(listener).map_err(failed)?)
            } else {
                let listener = std::net::TcpListener::from(owned);
                listener.set_nonblocking(true).map_err(failed)?;
                Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?)
            }
        }
    };
    Ok(Server { listener, nodelay: socket.nodelay, name, path: file })
}

/// Listen on the first port that is free, from that of the addresses up to `to`.
fn listen_tcp(addresses: &[SocketAddr], to: Option<u16>) -> Result<TcpListener, ChardevError> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    let first = addresses.first().map_or(0, SocketAddr::port);
    for port in first..=to.unwrap_or(first) {
        for address in addresses {
            let mut address = *address;
            address.set_port(port);
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            let listening = socket.and_then(|socket| {
                socket.set_reuseaddr(true)?;
                socket.bind(address)?;
                socket.listen(1)
            });
            match listening {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
    }
    Err(ChardevError::NoPort { reason: words(&last) })
}

impl Server {
    async fn accept(&mut self) -> Connection {
        loop {
            let accepted = match &self.listener {
                Listener::Tcp(listener) => listener
                    .accept()
                    .await
                    .map(|(stream, _)| over_tcp(stream, self.nodelay, ",server=on")),
                Listener::Unix(listener) => listener
                    .accept()
                    .await
                    .map(|(stream, _)| over_unix(stream, format!("{},server=on", self.name))),
            };
            match accepted {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::warn!("{}: accepting a connection: {error}", self.name);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Connector for Server {
    fn connect(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(async { Ok(self.accept().await) })
    }

    fn disconnected(&self) -> String {
        format!("disconnected:{},server=on", self.name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The connecting side.
struct Client {
    socket: SocketSpec,
}

impl Client {
    async fn connect_once(&mut self) -> Result<Connection, ChardevError> {
        match &self.socket.address {
            SocketAddress::Inet { host, port, ipv4, ipv6, .. } => {
                let addresses = resolve(host, "localhost", port, *ipv4, *ipv6).await?;
                let stream = TcpStream::connect(addresses.as_slice()).await.map_err(|error| {
                    ChardevError::Connect {
                        address: format!("{host}:{port}"),
                        reason: words(&error),
                    }
                })?;
                Ok(over_tcp(stream, self.socket.nodelay, ""))
            }
            SocketAddress::Unix { path, is_abstract, tight } => {
                let (address, path_of_address) = unix_address(path, *is_abstract, *tight)?;
                let failed = |error: io::Error| ChardevError::Connect {
                    address: path.display().to_string(),
                    reason: words(&error),
                };
                // Connecting to a local socket waits only while its queue is full.
                let stream = tokio::task::spawn_blocking(move || {
                    let connected = std::os::unix::net::UnixStream::connect_addr(&address);
                    drop(path_of_address);
                    connected
                })
                .await
                .map_err(|error| failed(io::Error::other(error)))?
                .map_err(failed)?;
                stream.set_nonblocking(true).map_err(failed)?;
                let stream = UnixStream::from_std(stream).map_err(failed)?;
                Ok(over_unix(stream, address_name(&self.socket.address)))
            }
            SocketAddress::Fd(fd) => adopt_stream(*fd, self.socket.nodelay),
        }
    }
}

impl Connector for Client {
    fn connect(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(async {
            let interval = self.socket.reconnect.unwrap_or(ACCEPT_PAUSE);
            loop {
                tokio::time::sleep(interval).await;
                if let Ok(connection) = self.connect_once().await {
                    return Ok(connection);
                }
            }
        })
    }

    fn disconnected(&self) -> String {
        format!("disconnected:{}", address_name(&self.socket.address))
    }
}
