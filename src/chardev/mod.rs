//! Character devices: back ends (stdio, pty, socket, file, pipe, ring buffer, null, mux) as
//! mailbox actors, and the messages between them and their front ends (UART, virtio console,
//! monitors).
//!
//! `spec` says what to open, `open` opens it. Every back end but the multiplexer is one actor,
//! `device`, over the two ends of a byte stream that `host` or `socket` provide.
#![forbid(unsafe_code)]

pub mod address;
mod device;
pub mod fd;
mod host;
pub mod message;
mod mux;
pub mod options;
mod registry;
pub mod ring;
mod socket;
pub mod spec;
mod telnet;
mod udp;

use std::io::{self, Write as _};
use std::sync::Arc;

use actix::{Actor, Addr, Recipient};
use parking_lot::Mutex;

use crate::actors::outlet::Outlet;
use crate::machine::message::RequestShutdown;
use crate::net::descriptors::Descriptors;
use crate::objects::{ObjectError, Objects};
use crate::qom::Node;
use device::{Change, Close, Device, Ends, Hangup, Parts, Source};
use message::{CharBackend, Detach, SendBreak};
pub use registry::Chardevs;
use ring::Ring;
use spec::{ChardevKind, ChardevSpec};

/// Front ends that a multiplexer takes.
pub const MAX_MUX: usize = 4;

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
    users: Arc<Mutex<Users>>,
    breaks: Recipient<SendBreak>,
}

#[derive(Debug, Clone)]
enum Port {
    Device(Addr<Device>),
    /// With what it is over.
    Mux(Addr<mux::Mux>, Box<Chardev>),
}

/// What a device is until it is changed.
#[derive(Debug)]
struct What {
    /// In the object model.
    type_name: &'static str,
    /// The contents, if it is a ring buffer.
    ring: Option<Ring>,
}

/// Who uses a device.
#[derive(Debug, Default)]
struct Users {
    count: usize,
    /// The one there is goes on with another device in this one's place.
    hotswap: bool,
}

impl Chardev {
    /// The back end for one more front end. Only a multiplexer serves several at a time.
    pub fn front_end(&self) -> CharBackend {
        self.users.lock().count += 1;
        match &self.port {
            Port::Device(device) => CharBackend {
                attach: device.clone().recipient(),
                output: device.clone().recipient(),
                credit: device.clone().recipient(),
            },
            Port::Mux(mux, _) => mux::front_end(mux),
        }
    }

    /// The back end for a front end that does not mind if `chardev-change` makes it another.
    pub fn front_end_of_any(&self) -> CharBackend {
        self.users.lock().hotswap = true;
        self.front_end()
    }

    /// The object that it is, with its name.
    pub fn node(&self) -> (String, Node) {
        let type_name = self.what.lock().type_name;
        let mut device = Node::new(type_name);
        if type_name == "chardev-socket" {
            device.set("connected", !self.filename.lock().starts_with("disconnected:"));
        }
        (self.id.clone(), device)
    }

    /// A front end has taken it.
    pub fn has_front_end(&self) -> bool {
        self.users.lock().count > 0
    }

    /// Whether another front end would find room.
    pub fn has_room(&self) -> bool {
        let most = if matches!(self.port, Port::Mux(..)) { MAX_MUX } else { 1 };
        self.users.lock().count < most
    }

    /// Its only front end is gone.
    pub fn release(&self) {
        *self.users.lock() = Users::default();
        if let Port::Device(device) = &self.port {
            device.do_send(Detach);
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
            Port::Mux(mux, base) => {
                mux.do_send(Close);
                base.release();
            }
        }
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
    pub named: Option<Descriptors>,
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
    let mut ring = None;
    let log = match &spec.log {
        None => None,
        Some(log) => Some(host::log(&log.path, log.append, &context.descriptors).await?),
    };
    let (source, filename) = match &spec.kind {
        ChardevKind::Null | ChardevKind::Mux { .. } => (Source::Fixed(Ends::default()), "null"),
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
        ChardevKind::Udp(udp) => (udp::open(udp).await?, "udp"),
        ChardevKind::Pty { link } => (host::pty(link.as_deref())?, "pty"),
        ChardevKind::Socket(socket) => (socket::open(socket, spec, context).await?, "socket"),
    };
    let filename = match &source {
        Source::Connections { first: Some(connection), .. } => connection.filename.clone(),
        Source::Connections { first: None, more: Some(connector) } => connector.disconnected(),
        _ => filename.to_owned(),
    };
    let what = What { type_name: spec.kind.type_name(), ring };
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
        users: Arc::default(),
    })
}

/// A multiplexer over a device that has no front end; it opens when `front_ends` have attached.
fn multiplex(
    id: &str,
    base: &Chardev,
    front_ends: usize,
    context: &OpenContext,
) -> Result<Chardev, ChardevError> {
    if !base.has_room() || matches!(base.port, Port::Mux(..)) {
        return Err(ChardevError::InUse(base.id.clone()));
    }
    let mux = mux::Mux::start_on(base.front_end(), front_ends, context);
    Ok(Chardev {
        id: id.to_owned(),
        filename: Arc::new(Mutex::new("mux".into())),
        what: Arc::new(Mutex::new(What { type_name: "chardev-mux", ring: None })),
        breaks: mux.clone().recipient(),
        port: Port::Mux(mux, Box::new(base.clone())),
        users: Arc::default(),
    })
}

#[cfg(test)]
mod tests;
