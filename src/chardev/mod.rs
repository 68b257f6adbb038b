//! Character devices: back ends (stdio, pty, socket, file, pipe, ring buffer, null, mux) as
//! mailbox actors, and the messages between them and their front ends (UART, virtio console,
//! monitors).
//!
//! `spec` says what to open, [`open`] opens it. Every back end but the multiplexer is one actor,
//! `device`, over the two ends of a byte stream that `host` or `socket` provide.
#![forbid(unsafe_code)]

mod device;
pub mod fd;
mod host;
pub mod message;
mod mux;
pub mod ring;
mod socket;
pub mod spec;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::{Actor, Addr, Recipient};
use parking_lot::Mutex;

use crate::actors::outlet::Outlet;
use crate::machine::message::RequestShutdown;
use crate::net::descriptors::Descriptors;
use crate::qom::Node;
use device::{Device, Source};
use message::{CharBackend, SendBreak};
use ring::Ring;
use spec::{ChardevKind, ChardevSpec};

/// Why a character device cannot be opened. The option in front of it is the caller's to add.
#[derive(Debug, thiserror::Error)]
pub enum ChardevError {
    #[error("Could not open '{path}': {reason}")]
    Open { path: String, reason: String },
    #[error("Failed to connect to '{address}': {reason}")]
    Connect { address: String, reason: String },
    #[error("Failed to bind socket to {address}: {reason}")]
    Bind { address: String, reason: String },
    #[error("Failed to find an available port: {reason}")]
    NoPort { reason: String },
    /// Of a set of descriptors in place of a file.
    #[error(transparent)]
    Given(#[from] crate::net::descriptors::DescriptorError),
    #[error(transparent)]
    Resolve(#[from] crate::net::resolve::ResolveError),
    #[error("Cannot disable IPv4 and IPv6 at same time")]
    NoFamily,
    #[error("File descriptor '{fd}' is not a socket")]
    NotASocket { fd: i32 },
    #[error("File descriptor '{fd}': {reason}")]
    Descriptor { fd: i32, reason: String },
    #[error("UNIX socket path '{path}' is too long (at most {limit} bytes fit)")]
    PathTooLong { path: String, limit: usize },
    #[error("mux: base chardev {0} not found")]
    NoBase(String),
    #[error("failed to prepare {what}: {reason}")]
    Host { what: &'static str, reason: String },
}

/// The words of an operating system's error, without Rust's number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A character device that is open.
#[derive(Debug, Clone)]
pub struct Chardev {
    pub id: String,
    /// What `query-chardev` shows, kept up to date (`disconnected:unix:/path,server=on`).
    pub filename: Arc<Mutex<String>>,
    /// The contents, if it is a ring buffer.
    pub ring: Option<Ring>,
    port: Port,
    /// In the object model.
    type_name: &'static str,
    /// The multiplexer came with the device (`mux=on`).
    multiplexed: bool,
    fronts: Arc<AtomicUsize>,
    breaks: Recipient<SendBreak>,
}

#[derive(Debug, Clone)]
enum Port {
    One(CharBackend),
    Mux(Addr<mux::Mux>),
}

impl Chardev {
    /// The back end for one more front end. Only a multiplexer serves several at a time.
    pub fn front_end(&self) -> CharBackend {
        self.fronts.fetch_add(1, Ordering::Relaxed);
        match &self.port {
            Port::One(backend) => backend.clone(),
            Port::Mux(mux) => mux::front_end(mux),
        }
    }
}

impl Chardev {
    /// A front end has taken it.
    pub fn has_front_end(&self) -> bool {
        self.fronts.load(Ordering::Relaxed) > 0
    }

    /// The object that it is, with its name; the device under a multiplexer that came with it is one
    /// of its own.
    pub fn nodes(&self) -> Vec<(String, Node)> {
        let mut device = Node::new(self.type_name);
        if self.type_name == "chardev-socket" {
            device.set("connected", !self.filename.lock().starts_with("disconnected:"));
        }
        match self.multiplexed {
            true => vec![
                (format!("{}-base", self.id), device),
                (self.id.clone(), Node::new("chardev-mux")),
            ],
            false => vec![(self.id.clone(), device)],
        }
    }

    /// A device and the multiplexer over it, in one.
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// Tell the front end, that with the focus if there are several, of a break.
    pub fn send_break(&self) {
        self.breaks.do_send(SendBreak);
    }
}

/// What back ends need of the machine.
#[derive(Debug, Clone)]
pub struct OpenContext {
    /// Told when Ctrl-a x asks for the end.
    pub shutdown: Outlet<RequestShutdown>,
    /// How many front ends a multiplexer will get; it opens when all have attached.
    pub front_ends: usize,
    /// What is opened as `/dev/fdset/N`.
    pub descriptors: Descriptors,
}

/// Open a character device; its actors run on the current arbiter. `others` are those opened
/// before, among which a multiplexer finds its base. With `wait=on` this takes until a client
/// has connected.
pub async fn open(
    spec: &ChardevSpec,
    context: &OpenContext,
    others: &[Chardev],
) -> Result<Chardev, ChardevError> {
    let mut ring = None;
    let filename = Arc::new(Mutex::new(String::new()));
    let source = match &spec.kind {
        ChardevKind::Mux { chardev } => {
            let base = others
                .iter()
                .find(|other| other.id == *chardev)
                .ok_or_else(|| ChardevError::NoBase(chardev.clone()))?;
            let mux = mux::Mux::start_on(base.front_end(), context);
            return Ok(Chardev {
                id: spec.id.clone(),
                filename: Arc::new(Mutex::new("mux".into())),
                ring: None,
                breaks: mux.clone().recipient(),
                port: Port::Mux(mux),
                type_name: spec.kind.type_name(),
                multiplexed: false,
                fronts: Arc::default(),
            });
        }
        ChardevKind::Null => {
            *filename.lock() = "null".into();
            Source::Fixed(device::Ends::default())
        }
        ChardevKind::Ringbuf { size } => {
            *filename.lock() = "ringbuf".into();
            let buffer = Ring::new(*size);
            ring = Some(buffer.clone());
            Source::Fixed(device::Ends {
                writer: Some(Box::new(buffer)),
                ..device::Ends::default()
            })
        }
        ChardevKind::Stdio { signal } => {
            *filename.lock() = "stdio".into();
            host::stdio(*signal)?
        }
        ChardevKind::File { out, append, input } => {
            *filename.lock() = "file".into();
            host::file(out, *append, input.as_deref(), &context.descriptors).await?
        }
        ChardevKind::Pipe { path } => {
            *filename.lock() = "pipe".into();
            host::pipe(path)?
        }
        ChardevKind::Pty { link } => {
            let (source, name) = host::pty(link.as_deref())?;
            host::announce(&format!("char device redirected to {name} (label {})", spec.id));
            source
        }
        ChardevKind::Socket(socket) => socket::open(socket, spec).await?,
    };
    let log = match &spec.log {
        None => None,
        Some(log) => Some(host::create(&log.path, log.append, &context.descriptors).await?),
    };
    if let Source::Connections { first, more } = &source {
        let first = first.as_ref().map(|connection| connection.filename.clone());
        let name = first.or_else(|| more.as_ref().map(|connector| connector.disconnected()));
        *filename.lock() = name.unwrap_or_default();
    }
    let device = Device::new(source, log, Arc::clone(&filename)).start();
    let backend = CharBackend {
        attach: device.clone().recipient(),
        output: device.clone().recipient(),
        credit: device.clone().recipient(),
    };
    let (port, breaks) = if spec.mux {
        let mux = mux::Mux::start_on(backend, context);
        (Port::Mux(mux.clone()), mux.recipient())
    } else {
        (Port::One(backend), device.recipient())
    };
    let (id, multiplexed) = (spec.id.clone(), spec.mux);
    let type_name = spec.kind.type_name();
    let fronts = Arc::default();
    Ok(Chardev { id, filename, ring, port, type_name, multiplexed, fronts, breaks })
}

#[cfg(test)]
mod tests;
