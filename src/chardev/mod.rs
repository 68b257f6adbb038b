//! Character devices: back ends (stdio, pty, socket, file, pipe, ring buffer, null, mux, hub) as
//! mailbox actors, and the messages between them and their front ends (UART, virtio console,
//! monitors).
//!
//! `spec` says what to open, `open` opens it. Every back end but the multiplexer and the hub is one
//! actor, `device`, over the two ends of a byte stream that `host` or `socket` provide.
#![forbid(unsafe_code)]

pub mod address;
mod device;
pub mod fd;
mod front_ends;
mod host;
mod hub;
pub mod message;
mod mux;
pub mod options;
mod registry;
pub mod ring;
mod socket;
pub mod spec;
mod telnet;
mod udp;
mod websocket;

use std::io::{self, Write as _};
use std::sync::Arc;

use actix::{Actor, Addr, Recipient};
use parking_lot::Mutex;
use serde_json::Value;

use crate::actors::outlet::Outlet;
use crate::machine::message::RequestShutdown;
use crate::net::descriptors::{Descriptors, Names};
use crate::objects::{ObjectError, Objects};
use crate::qom::Node;
use device::{Change, Close, Device, Ends, Hangup, Parts, Source};
use front_ends::{FrontEnds, Place};
use message::{CharBackend, Detach, SendBreak};
pub use registry::Chardevs;
use ring::Ring;
use spec::{ChardevKind, ChardevSpec};

/// Front ends that a multiplexer takes.
pub const MAX_MUX: usize = 4;
/// Back ends that a hub takes.
pub const MAX_HUB: usize = 4;

/// Why a character device cannot be opened. The option in front of it is the caller's to add.
#[derive(Debug, thiserror::Error)]
pub enum ChardevError {
    #[error("Could not open '{path}': {reason}")]
    Open { path: String, reason: String },
    #[error("Could not create '{path}': {reason}")]
    Create { path: String, reason: String },
    #[error("Failed to connect to '{address}': {reason}")]
    Connect { address: String, reason: String },
    #[error("Failed to bind socket to {address}: {reason}")]
    Bind { address: String, reason: String },
    #[error("Failed to bind socket: {0}")]
    BindInet(String),
    #[error("Failed to unlink socket {path}: {reason}")]
    Unlink { path: String, reason: String },
    #[error("Failed to find an available port: {reason}")]
    NoPort { reason: String },
    /// Of a set of descriptors in place of a file.
    #[error(transparent)]
    Given(#[from] crate::net::descriptors::DescriptorError),
    #[error(transparent)]
    Resolve(#[from] crate::net::resolve::ResolveError),
    #[error("Cannot disable IPv4 and IPv6 at same time")]
    NoFamily,
    #[error("Unable to parse FD number {0}")]
    NotANumber(String),
    #[error("File descriptor named '{0}' has not been found")]
    NoSuchName(String),
    #[error("File descriptor '{fd}' is not a socket")]
    NotASocket { fd: String },
    #[error("File descriptor '{fd}': {reason}")]
    Descriptor { fd: String, reason: String },
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Of options that are at odds.
    #[error("{0}")]
    Refused(String),
    #[error("UNIX socket path '{path}' is too long")]
    PathTooLong { path: String },
    #[error("mux: base chardev {0} not found")]
    NoBase(String),
    #[error("hub: 'chardevs' list is not defined")]
    EmptyHub,
    #[error("hub: chardev can't be found by id '{0}'")]
    NoBaseOfHub(String),
    #[error(
        "hub: multiplexers and hub devices can't be stacked, check chardev '{0}', chardev should \
         not be a hub device or have 'mux=on' enabled"
    )]
    StackedHub(String),
    #[error("hub: too many uses of chardevs '{0}' (maximum is {MAX_HUB})")]
    FullHub(String),
    #[error("too many uses of multiplexed chardev '{0}' (maximum is {MAX_MUX})")]
    FullMux(String),
    #[error("Failed to create PTY symlink: {0}")]
    Link(String),
    #[error("chardev '{0}' is already in use")]
    InUse(String),
    #[error("attempt to add duplicate property '{0}' to object (type 'container')")]
    Duplicate(String),
    #[error("cannot use stdio by multiple character devices")]
    StdioInUse,
    #[error("Chardev '{0}' not found")]
    NotFound(String),
    #[error("Chardev '{0}' is busy")]
    Busy(String),
    #[error("Chardev '{0}' does not exist")]
    Missing(String),
    #[error("For mux or hub device hotswap is not supported yet")]
    MuxHotswap,
    #[error("Chardev user does not support chardev hotswap")]
    NoHotswap,
    #[error("failed to prepare {what}: {reason}")]
    Host { what: &'static str, reason: String },
}

/// Tell the user on standard output; that it is closed is no error.
pub fn announce(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The words of an operating system's error, without Rust's number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A character device that is open; clones are the same one.
#[derive(Debug, Clone)]
pub struct Chardev {
    pub id: String,
    /// What `query-chardev` shows, kept up to date (`disconnected:unix:/path,server=on`).
    pub filename: Arc<Mutex<String>>,
    what: Arc<Mutex<What>>,
    port: Port,
    /// What it is over, and its place there.
    bases: Vec<(Chardev, Place)>,
    front_ends: Arc<Mutex<FrontEnds>>,
    breaks: Recipient<SendBreak>,
}

#[derive(Debug, Clone)]
enum Port {
    Device(Addr<Device>),
    Mux(Addr<mux::Mux>),
    Hub(Addr<hub::Hub>),
}

/// What a device is until it is changed.
#[derive(Debug)]
struct What {
    /// In the object model.
    type_name: &'static str,
    /// The contents, if it is a ring buffer.
    ring: Option<Ring>,
    /// QAPI `SocketAddress` of a socket: where it listens, or connects to.
    address: Option<Value>,
}

impl Chardev {
    /// The back end for one more front end. Only a multiplexer serves several at a time.
    pub fn front_end(&self) -> CharBackend {
        let place = self.front_ends.lock().admit();
        match &self.port {
            Port::Device(device) => CharBackend {
                attach: device.clone().recipient(),
                output: device.clone().recipient(),
                credit: device.clone().recipient(),
                place,
            },
            Port::Mux(mux) => mux::front_end(mux, place),
            Port::Hub(hub) => CharBackend {
                attach: hub.clone().recipient(),
                output: hub.clone().recipient(),
                credit: hub.clone().recipient(),
                place,
            },
        }
    }

    /// The back end for a front end that does not mind if `chardev-change` makes it another.
    pub fn front_end_of_any(&self) -> CharBackend {
        self.front_ends.lock().hotswap = true;
        self.front_end()
    }

    /// The object that it is, with its name.
    pub fn node(&self) -> (String, Node) {
        let what = self.what.lock();
        let mut device = Node::new(what.type_name);
        if let Some(address) = &what.address {
            device.set("connected", !self.filename.lock().starts_with("disconnected:"));
            device.set("addr", address.clone());
        }
        (self.id.clone(), device)
    }

    /// A front end has taken it.
    pub fn has_front_end(&self) -> bool {
        !self.front_ends.lock().is_empty()
    }

    /// The front end, that with the focus if there are several, is open.
    pub fn is_front_end_open(&self) -> bool {
        self.front_ends.lock().is_open()
    }

    /// Whether another front end would find room; otherwise why not.
    pub fn room(&self) -> Result<(), ChardevError> {
        match &self.port {
            _ if self.front_ends.lock().has_room() => Ok(()),
            Port::Mux(_) => Err(ChardevError::FullMux(self.id.clone())),
            Port::Device(_) | Port::Hub(_) => Err(ChardevError::InUse(self.id.clone())),
        }
    }

    /// The front end at this place is gone.
    pub fn release(&self, place: &Place) {
        self.front_ends.lock().remove(place);
        match &self.port {
            Port::Device(device) => device.do_send(Detach),
            Port::Mux(mux) => mux.do_send(mux::Leave(place.number())),
            Port::Hub(hub) => hub.do_send(Detach),
        }
    }

    /// The contents, if it is a ring buffer.
    pub fn ring(&self) -> Option<Ring> {
        self.what.lock().ring.clone()
    }

    /// Tell the front end, that with the focus if there are several, of a break.
    pub fn send_break(&self) {
        self.breaks.do_send(SendBreak);
    }

    /// End the connection, if it is a socket that has one.
    pub fn hang_up(&self) {
        if let (true, Port::Device(device)) = (self.is_socket(), &self.port) {
            device.do_send(Hangup);
        }
    }

    /// Whether it is a stream socket.
    pub fn is_socket(&self) -> bool {
        self.what.lock().type_name == "chardev-socket"
    }

    /// The other side's name, if it is a pseudo-terminal.
    pub fn pty(&self) -> Option<String> {
        self.filename.lock().strip_prefix("pty:").map(str::to_owned)
    }

    fn close(&self) {
        match &self.port {
            Port::Device(device) => device.do_send(Close),
            Port::Mux(mux) => mux.do_send(Close),
            Port::Hub(hub) => hub.do_send(Close),
        }
        self.bases.iter().for_each(|(base, place)| base.release(place));
    }
}

impl What {
    fn of_type(type_name: &'static str) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { type_name, ring: None, address: None }))
    }
}

/// What back ends need of the process.
#[derive(Debug, Clone)]
pub struct OpenContext {
    /// Told when Ctrl-a x asks for the end.
    pub shutdown: Outlet<RequestShutdown>,
    /// What is opened as `/dev/fdset/N`.
    pub descriptors: Descriptors,
    /// Where sockets are named by what a monitor's client has passed; otherwise by number.
    pub named: Option<Names>,
    /// Who has the credentials of TLS.
    pub objects: Objects,
}

impl Default for OpenContext {
    fn default() -> Self {
        Self {
            shutdown: Outlet::Unconnected,
            descriptors: Descriptors::default(),
            named: None,
            objects: Objects::default(),
        }
    }
}

/// What a device is opened with, and what it is called.
struct Opened {
    parts: Parts,
    filename: String,
    what: What,
}

/// Open anything but a multiplexer. With `wait=on` this takes until a client has connected.
async fn open_parts(spec: &ChardevSpec, context: &OpenContext) -> Result<Opened, ChardevError> {
    let (mut ring, mut address) = (None, None);
    let log = match &spec.log {
        None => None,
        Some(log) => Some(host::log(&log.path, log.append, &context.descriptors).await?),
    };
    let (source, filename) = match &spec.kind {
        ChardevKind::Null | ChardevKind::Mux { .. } | ChardevKind::Hub { .. } => {
            (Source::Fixed(Ends::default()), "null")
        }
        ChardevKind::Vc => (Source::Fixed(Ends::default()), "vc"),
        ChardevKind::Ringbuf { size } => {
            let buffer = ring.insert(Ring::new(*size)).clone();
            let ends = Ends { writer: Some(Box::new(buffer)), ..Ends::default() };
            (Source::Fixed(ends), "ringbuf")
        }
        ChardevKind::Stdio { signal } => (host::stdio(*signal)?, "stdio"),
        ChardevKind::File { out, append, input } => {
            let input = input.as_deref();
            (host::file(out, *append, input, &context.descriptors).await?, "file")
        }
        ChardevKind::Pipe { path } => (host::pipe(path)?, "pipe"),
        ChardevKind::Serial { path } => (host::serial(path)?, "serial"),
        ChardevKind::Udp(udp) => (udp::open(udp).await?, "udp"),
        ChardevKind::Pty { link } => (host::pty(link.as_deref())?, "pty"),
        ChardevKind::Socket(socket) => {
            let (source, at) = socket::open(socket, spec, context).await?;
            address = Some(at);
            (source, "socket")
        }
    };
    let filename = match &source {
        Source::Connections { first: Some(connection), .. } => connection.filename.clone(),
        Source::Connections { first: None, more: Some(connector) } => connector.disconnected(),
        _ => filename.to_owned(),
    };
    let what = What { type_name: spec.kind.type_name(), ring, address };
    Ok(Opened { parts: Parts { source, log }, filename, what })
}

/// Open a device; its actor runs on the current arbiter.
async fn open(spec: &ChardevSpec, context: &OpenContext) -> Result<Chardev, ChardevError> {
    let Opened { parts, filename, what } = open_parts(spec, context).await?;
    let filename = Arc::new(Mutex::new(filename));
    let device = Device::new(parts, Arc::clone(&filename)).start();
    Ok(Chardev {
        id: spec.id.clone(),
        filename,
        what: Arc::new(Mutex::new(what)),
        breaks: device.clone().recipient(),
        port: Port::Device(device),
        bases: Vec::new(),
        front_ends: Arc::new(Mutex::new(FrontEnds::up_to(1))),
    })
}

/// A multiplexer over a device that has no front end; it opens when `front_ends` have attached.
fn multiplex(
    id: &str,
    base: &Chardev,
    front_ends: usize,
    context: &OpenContext,
) -> Result<Chardev, ChardevError> {
    if matches!(base.port, Port::Mux(_)) {
        return Err(ChardevError::InUse(base.id.clone()));
    }
    base.room()?;
    let places = Arc::new(Mutex::new(FrontEnds::up_to(MAX_MUX)));
    let backend = base.front_end();
    // Open from the moment on when somebody is on the multiplexer.
    backend.place.set_open(false);
    let bases = vec![(base.clone(), backend.place.clone())];
    let mux = mux::Mux::start_on(backend, Arc::clone(&places), front_ends, context);
    Ok(Chardev {
        id: id.to_owned(),
        filename: Arc::new(Mutex::new("mux".into())),
        what: What::of_type("chardev-mux"),
        breaks: mux.clone().recipient(),
        port: Port::Mux(mux),
        bases,
        front_ends: places,
    })
}

/// A hub over devices that have no front ends.
fn join(id: &str, bases: &[Chardev]) -> Result<Chardev, ChardevError> {
    if bases.is_empty() {
        return Err(ChardevError::EmptyHub);
    }
    let mut taken: Vec<(Chardev, CharBackend)> = Vec::new();
    for base in bases {
        let room = match base.port {
            Port::Mux(_) | Port::Hub(_) => Err(ChardevError::StackedHub(base.id.clone())),
            Port::Device(_) if taken.len() >= MAX_HUB => Err(ChardevError::FullHub(id.to_owned())),
            Port::Device(_) => base.room(),
        };
        if let Err(error) = room {
            taken.iter().for_each(|(base, backend)| base.release(&backend.place));
            return Err(error);
        }
        let backend = base.front_end();
        backend.place.set_open(false);
        taken.push((base.clone(), backend));
    }
    let places = taken.iter().map(|(base, backend)| (base.clone(), backend.place.clone()));
    let bases = places.collect();
    let hub = hub::Hub::start_on(taken.into_iter().map(|(_, backend)| backend).collect());
    Ok(Chardev {
        id: id.to_owned(),
        filename: Arc::new(Mutex::new("hub".into())),
        what: What::of_type("chardev-hub"),
        breaks: hub.clone().recipient(),
        port: Port::Hub(hub),
        bases,
        front_ends: Arc::new(Mutex::new(FrontEnds::up_to(1))),
    })
}

#[cfg(test)]
mod tests;
