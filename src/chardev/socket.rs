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
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::device::{Connection, Connector, Ends, Passed, Source};
use super::spec::{ChardevSpec, Host, SocketAddress, SocketSpec, TlsSpec};
use super::telnet::Telnet;
use super::{ChardevError, OpenContext, address, websocket, words};
use crate::net::inherited;
use crate::net::resolve::{self, Families, ResolveCause, ResolveError};
use crate::net::unix_path::{SUN_PATH, UnixPath};
use crate::objects::{ObjectError, Objects};
use crate::tls::{self, Endpoint, HandshakeError};

/// Most descriptors of one message that are received; the kernel closes the others.
const MESSAGE_MAX: usize = 16;

/// Before accepting again after an error of the host, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Open a socket back end: where its connections come from, and QAPI's `SocketAddress` of where it
/// listens or connects to.
pub async fn open(
    socket: &SocketSpec,
    spec: &ChardevSpec,
    context: &OpenContext,
) -> Result<(Source, Value), ChardevError> {
    if let Some(tls) = &socket.tls {
        // What is wrong with them already is said at once.
        let side = if socket.server { Endpoint::Server } else { Endpoint::Client };
        context.objects.credentials(&tls.credentials, side)?;
    }
    if !socket.server {
        let mut client = Client {
            socket: socket.clone(),
            objects: context.objects.clone(),
            label: spec.id.clone(),
            tried: false,
            told: false,
        };
        if let SocketAddress::Fd(fd) = &socket.address {
            let first = adopt_stream(fd, socket, context)?;
            let source = Source::Connections { first: Some(first), more: None };
            return Ok((source, socket.given.clone()));
        }
        let source = match socket.reconnect {
            Some(_) => Source::Connections { first: None, more: Some(Box::new(client)) },
            None => {
                let first = Some(client.connect_once().await?);
                Source::Connections { first, more: None }
            }
        };
        return Ok((source, socket.given.clone()));
    }
    let mut server = listen(socket, context).await?;
    let mut first = None;
    if socket.wait {
        crate::report::line(&format!(
            "{}: info: QEMU waiting for connection on: {}",
            spec.origin,
            server.disconnected()
        ));
        first = Some(server.accept().await);
    }
    let address = server.listener.address();
    Ok((Source::Connections { first, more: Some(Box::new(server)) }, address))
}

fn tcp_name(stream: &TcpStream, socket: &SocketSpec) -> String {
    let name =
        |address: io::Result<SocketAddr>| address.map_or("?".into(), |address| address.to_string());
    format!(
        "{}:{}{} <-> {}",
        socket.protocol(),
        name(stream.local_addr()),
        if socket.server { ",server=on" } else { "" },
        name(stream.peer_addr())
    )
}

/// Ends of a connection that is made, and what is said on it first.
async fn over_tcp(
    stream: TcpStream,
    socket: &SocketSpec,
    objects: &Objects,
) -> Result<Connection, ConnectionError> {
    // Refused only for a socket that is dead already, which reading it will show.
    let _ = stream.set_nodelay(socket.nodelay);
    let filename = tcp_name(&stream, socket);
    let ends = match &socket.tls {
        None => speak(stream, over_split, socket).await?,
        Some(TlsSpec { credentials, authorization }) => {
            let secured = if socket.server {
                let ours = objects.server_tls(credentials, authorization.as_deref())?;
                tls::accept(stream, &ours).await?
            } else {
                let host = match &socket.address {
                    SocketAddress::Inet { at, .. } => Some(at.host.as_str()),
                    SocketAddress::Unix { .. } | SocketAddress::Fd(_) => None,
                };
                tls::connect(stream, &objects.client_tls(credentials, None)?, host).await?
            };
            let split = |secured| {
                let (reader, writer) = tokio::io::split(secured);
                of_halves(reader, writer)
            };
            speak(secured, split, socket).await?
        }
    };
    Ok(Connection { ends, filename })
}

/// Agree with the peer on what is spoken over the stream, which is bytes alone unless a server is
/// told otherwise.
async fn speak<S>(
    stream: S,
    plain: impl FnOnce(S) -> Ends,
    socket: &SocketSpec,
) -> Result<Ends, ConnectionError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut ends = if socket.websocket { websocket::accept(stream).await? } else { plain(stream) };
    if socket.server && (socket.telnet || socket.tn3270) {
        let telnet = ends.telnet.insert(Telnet::new(socket.tn3270));
        if let Some(writer) = &mut ends.writer {
            writer.write_all(telnet.offer()).await?;
            writer.flush().await?;
        }
    }
    Ok(ends)
}

fn of_halves(
    reader: impl AsyncRead + Send + Unpin + 'static,
    writer: impl AsyncWrite + Send + Unpin + 'static,
) -> Ends {
    Ends { reader: Some(Box::new(reader)), writer: Some(Box::new(writer)), ..Ends::default() }
}

fn over_split(stream: TcpStream) -> Ends {
    let (reader, writer) = stream.into_split();
    of_halves(reader, writer)
}

/// Why a connection that was made cannot be used.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("{}", words(.0))]
    Io(#[from] io::Error),
    /// It never was.
    #[error("{}", words(.0))]
    Accept(io::Error),
}

fn over_unix(stream: UnixStream) -> Ends {
    let (half, writer) = stream.into_split();
    let passed = Passed::default();
    let reader = PassingReader { half, passed: Arc::clone(&passed) };
    Ends { passed: Some(passed), ..of_halves(reader, writer) }
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

/// An address as `query-chardev` writes it.
fn address_name(socket: &SocketSpec) -> String {
    match &socket.address {
        SocketAddress::Inet { at, .. } => {
            format!("{}:{}:{}", socket.protocol(), at.host, at.port)
        }
        SocketAddress::Unix { path, is_abstract, tight } => {
            let kind = match (is_abstract, tight) {
                (false, _) => "",
                (true, false) => ",abstract=on",
                (true, true) => ",abstract=on,tight=on",
            };
            format!("unix:{}{kind}", path.display())
        }
        SocketAddress::Fd(fd) => format!("fd:{fd}"),
    }
}

/// The addresses of a host; `default` stands for one that is left out.
pub async fn resolve(at: &Host, default: &str) -> Result<Vec<SocketAddr>, ChardevError> {
    let families = Families::from_switches(at.ipv4, at.ipv6).ok_or(ChardevError::NoFamily)?;
    let name = if at.host.is_empty() { default } else { &at.host };
    if at.numeric && !resolve::is_numeric(name) {
        let (host, port) = (at.host.clone(), at.port.clone());
        return Err(ResolveError { host, port, cause: ResolveCause::NoSuchName }.into());
    }
    let found = resolve::resolve(name, &at.port, families).await;
    Ok(found.map_err(|error| ResolveError { host: at.host.clone(), ..error })?)
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
            return Err(ChardevError::PathTooLong { path: shown() });
        }
        if !tight {
            name.resize(SUN_PATH - 1, 0);
        }
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name);
        return Ok((address.map_err(failed)?, None));
    }
    let Some(short) = UnixPath::new(path).map_err(failed)? else {
        return Err(ChardevError::PathTooLong { path: shown() });
    };
    let address = std::os::unix::net::SocketAddr::from_pathname(short.path());
    Ok((address.map_err(failed)?, Some(short)))
}

/// The socket that a client has passed under this name, or a duplicate of the one of this number
/// that the parent process left open for us.
fn given(fd: &str, context: &OpenContext) -> Result<OwnedFd, ChardevError> {
    let owned = match &context.named {
        Some(named) => named.take(fd).ok_or_else(|| ChardevError::NoSuchName(fd.to_owned()))?,
        None => {
            let unparsed = || ChardevError::NotANumber(fd.to_owned());
            let number = fd.parse().map_err(|_| unparsed())?;
            inherited::duplicate(number)
                .map_err(|_| ChardevError::NotASocket { fd: fd.to_owned() })?
        }
    };
    sockopt::socket_type(&owned).map_err(|_| ChardevError::NotASocket { fd: fd.to_owned() })?;
    Ok(owned)
}

fn adopt_stream(
    fd: &str,
    socket: &SocketSpec,
    context: &OpenContext,
) -> Result<Connection, ChardevError> {
    let failed =
        |error: io::Error| ChardevError::Descriptor { fd: fd.to_owned(), reason: words(&error) };
    let owned = given(fd, context)?;
    let domain = sockopt::socket_domain(&owned).map_err(|error| failed(error.into()))?;
    if domain == AddressFamily::UNIX {
        let stream = std::os::unix::net::UnixStream::from(owned);
        stream.set_nonblocking(true).map_err(failed)?;
        let stream = UnixStream::from_std(stream).map_err(failed)?;
        let peer = stream.peer_addr().ok();
        let path = peer.as_ref().and_then(|peer| peer.as_pathname());
        let path = path.map(|path| path.display().to_string()).unwrap_or_default();
        Ok(Connection { ends: over_unix(stream), filename: format!("unix:{path}") })
    } else {
        let stream = std::net::TcpStream::from(owned);
        stream.set_nonblocking(true).map_err(failed)?;
        let stream = TcpStream::from_std(stream).map_err(failed)?;
        // Without TLS and telnet, which a descriptor does not have at this end.
        let filename = tcp_name(&stream, socket);
        let _ = stream.set_nodelay(socket.nodelay);
        Ok(Connection { ends: over_split(stream), filename })
    }
}

/// A socket that listens.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

struct Server {
    listener: Listener,
    socket: SocketSpec,
    objects: Objects,
    /// Where it listens, as `query-chardev` writes it.
    name: String,
    /// The path of its address, as far as it has one.
    path: String,
    /// The socket's file, gone with it.
    file: Option<PathBuf>,
}

async fn listen(socket: &SocketSpec, context: &OpenContext) -> Result<Server, ChardevError> {
    let mut file = None;
    let listener = match &socket.address {
        SocketAddress::Inet { at, to } => {
            let any = if at.ipv4 == Some(false) || (at.ipv6 == Some(true) && at.ipv4.is_none()) {
                "::"
            } else {
                "0.0.0.0"
            };
            Listener::Tcp(listen_tcp(&resolve(at, any).await?, *to)?)
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
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        return Err(ChardevError::Unlink {
                            path: path.display().to_string(),
                            reason: words(&error),
                        });
                    }
                    Ok(()) => {}
                }
                file = Some(path.clone());
            }
            let listener = std::os::unix::net::UnixListener::bind_addr(&address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            Listener::Unix(UnixListener::from_std(listener).map_err(failed)?)
        }
        SocketAddress::Fd(fd) => {
            let failed = |error: io::Error| ChardevError::Descriptor {
                fd: fd.clone(),
                reason: words(&error),
            };
            let owned = given(fd, context)?;
            // As QEMU does; for one that listens already this sets the backlog.
            rustix::net::listen(&owned, 1).map_err(|error| failed(error.into()))?;
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
    let (name, path) = listener.name(socket);
    let (socket, objects) = (socket.clone(), context.objects.clone());
    Ok(Server { listener, socket, objects, name, path, file })
}

impl Listener {
    /// QAPI's `SocketAddress` of where it listens.
    fn address(&self) -> Value {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or(Value::Null, address::inet),
            Self::Unix(listener) => {
                let at = listener.local_addr().ok();
                let name = at.as_ref().and_then(|at| at.as_abstract_name());
                let Some(name) = name else {
                    let path = at.as_ref().and_then(|at| at.as_pathname());
                    let path = path.map(|path| path.display().to_string());
                    return address::unix(&path.unwrap_or_default(), None, None);
                };
                // One that fills the address goes on with zeroes.
                let tight = name.len() < SUN_PATH - 1;
                let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                let text = String::from_utf8_lossy(&name[..end]);
                address::unix(&text, Some(true), Some(tight))
            }
        }
    }

    /// Where it listens, as `query-chardev` writes it, and the path of that if it has one.
    fn name(&self, socket: &SocketSpec) -> (String, String) {
        match self {
            Self::Tcp(listener) => {
                let at = listener.local_addr();
                let at = at.map_or("?".into(), |at| format!("{}:{}", at.ip(), at.port()));
                (format!("{}:{at}", socket.protocol()), String::new())
            }
            Self::Unix(listener) => {
                let at = listener.local_addr().ok();
                let path = at.as_ref().and_then(|at| at.as_pathname());
                match (&socket.address, path) {
                    // The path as it was given: what is bound may be a shorter way to say it.
                    (SocketAddress::Unix { path, is_abstract: false, .. }, _) => {
                        (format!("unix:{}", path.display()), path.display().to_string())
                    }
                    (SocketAddress::Unix { .. }, _) => (address_name(socket), String::new()),
                    (_, Some(path)) => {
                        (format!("unix:{}", path.display()), path.display().to_string())
                    }
                    (_, None) => ("unix:".to_owned(), String::new()),
                }
            }
        }
    }
}

/// Listen on the first port that is free, from that of the addresses up to `to`.
fn listen_tcp(addresses: &[SocketAddr], to: Option<u16>) -> Result<TcpListener, ChardevError> {
    let mut last = io::Error::from_raw_os_error(libc::EADDRINUSE);
    let first = addresses.first().map_or(0, SocketAddr::port);
    for port in first..=to.unwrap_or(first).max(first) {
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
    match last.kind() {
        io::ErrorKind::AddrInUse => Err(ChardevError::NoPort { reason: words(&last) }),
        _ => Err(ChardevError::BindInet(words(&last))),
    }
}

impl Server {
    /// The next client that is good enough.
    async fn accept(&mut self) -> Connection {
        loop {
            let accepted = match &self.listener {
                Listener::Tcp(listener) => match listener.accept().await {
                    Ok((stream, _)) => over_tcp(stream, &self.socket, &self.objects).await,
                    Err(error) => Err(ConnectionError::Accept(error)),
                },
                Listener::Unix(listener) => match listener.accept().await {
                    Ok((stream, _)) => {
                        let filename = format!("unix:{},server=on", self.path);
                        let ends = speak(stream, over_unix, &self.socket).await;
                        ends.map(|ends| Connection { ends, filename })
                    }
                    Err(error) => Err(ConnectionError::Accept(error)),
                },
            };
            match accepted {
                Ok(connection) => return connection,
                Err(ConnectionError::Accept(error)) => {
                    tracing::warn!("{}: accepting a connection: {error}", self.name);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(error) => tracing::warn!("{}: a client is turned away: {error}", self.name),
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
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The connecting side.
struct Client {
    socket: SocketSpec,
    objects: Objects,
    /// Of the device, for messages.
    label: String,
    /// The first attempt has been made: a pause comes before each other.
    tried: bool,
    /// That there is nobody to connect to has been said.
    told: bool,
}

impl Client {
    async fn connect_once(&mut self) -> Result<Connection, ChardevError> {
        match &self.socket.address {
            SocketAddress::Inet { at, .. } => {
                let addresses = resolve(at, "localhost").await?;
                let failed = |reason| {
                    let address = format!("{}:{}", at.host, at.port);
                    ChardevError::Connect { address, reason }
                };
                let stream = TcpStream::connect(addresses.as_slice()).await;
                let stream = stream.map_err(|error| failed(words(&error)))?;
                let connection = over_tcp(stream, &self.socket, &self.objects).await;
                connection.map_err(|error| failed(error.to_string()))
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
                let name = if *is_abstract { String::new() } else { path.display().to_string() };
                Ok(Connection { ends: over_unix(stream), filename: format!("unix:{name}") })
            }
            // Adopted when the device was opened; there is no second one.
            SocketAddress::Fd(fd) => Err(ChardevError::NotASocket { fd: fd.clone() }),
        }
    }
}

impl SocketSpec {
    /// What `query-chardev` calls the protocol over TCP.
    fn protocol(&self) -> &'static str {
        match self {
            Self { telnet: true, .. } => "telnet",
            Self { websocket: true, .. } => "websocket",
            _ => "tcp",
        }
    }
}

impl Connector for Client {
    fn connect(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(async {
            let interval = self.socket.reconnect.unwrap_or(ACCEPT_PAUSE);
            loop {
                if std::mem::replace(&mut self.tried, true) {
                    tokio::time::sleep(interval).await;
                }
                match self.connect_once().await {
                    Ok(connection) => {
                        self.told = false;
                        return Ok(connection);
                    }
                    Err(error) if !std::mem::replace(&mut self.told, true) => {
                        let label = &self.label;
                        crate::report::line(&format!(
                            "Unable to connect character device {label}: {error}"
                        ));
                    }
                    Err(_) => {}
                }
            }
        })
    }

    fn disconnected(&self) -> String {
        format!("disconnected:{}", address_name(&self.socket))
    }
}
