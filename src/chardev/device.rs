//! The actor behind every back end but the multiplexer: moves bytes between a front end and the
//! two ends of a byte stream, one read and one write at a time.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle,
    WrapFuture,
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::message::{
    Attach, CharCredit, CharDescriptor, CharEvent, CharInput, CharOutput, CharWritten, Detach,
    SendBreak,
};
use super::telnet::Telnet;
use crate::terminal::RawMode;

pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Bytes held for a front end that has granted no credit, so that a closed connection is noticed.
const READ_AHEAD: usize = 4096;

/// Descriptors that may wait to be delivered; nothing is read while that many do.
const PASSED_MAX: usize = 8;

/// Largest single read.
const READ_MAX: usize = 64 * 1024;

/// A peer that has finished sending still gets the answers to what it sent, for this long.
const LINGER: Duration = Duration::from_millis(100);

/// Where a reader leaves the descriptor that came with the bytes of its last read.
pub type Passed = Arc<Mutex<Option<OwnedFd>>>;

/// The two directions of a byte stream; one that is absent reads nothing, or swallows everything.
#[derive(Default)]
pub struct Ends {
    pub reader: Option<Reader>,
    pub writer: Option<Writer>,
    /// Of a stream that can pass descriptors.
    pub passed: Option<Passed>,
    /// The peer may speak telnet.
    pub telnet: Option<Telnet>,
}

/// A connection, and what `query-chardev` calls it.
pub struct Connection {
    pub ends: Ends,
    pub filename: String,
}

/// Makes connections one after another: accepts, connects again, waits for a terminal.
pub trait Connector: Send {
    /// The next connection. Fails only when there will never be one.
    fn connect(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>>;
    /// The device's name between connections.
    fn disconnected(&self) -> String;
}

/// Where a back end's byte stream comes from.
pub enum Source {
    /// There from the start; when the input ends, output goes on.
    Fixed(Ends),
    /// The process's terminal, raw while the guard lives.
    Terminal(Ends, Option<RawMode>),
    /// Connections that come and go; perhaps the first is there already.
    Connections { first: Option<Connection>, more: Option<Box<dyn Connector>> },
}

/// What a device is opened with.
pub struct Parts {
    pub source: Source,
    pub log: Option<tokio::fs::File>,
}

/// Be another device from now on, with the same front end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Change(pub Parts);

/// Close everything; nobody uses the device any more.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Close;

/// End the connection, if there is one.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Hangup;

/// The actor.
pub struct Device {
    front: Option<Attach>,
    /// Bytes the front end has room for.
    credit: usize,
    /// Read, but not yet delivered.
    input: VecDeque<u8>,
    /// Bytes read so far.
    received: u64,
    /// Where the reader leaves descriptors.
    passing: Option<Passed>,
    telnet: Option<Telnet>,
    /// Those that came, each with the number of bytes before it.
    passed: VecDeque<(u64, OwnedFd)>,
    /// To be written, in order, with what is in flight left out.
    output: VecDeque<Vec<u8>>,
    reader: Option<Reader>,
    writer: Option<Writer>,
    read: Option<SpawnHandle>,
    /// The wait for a connection.
    connecting: Option<SpawnHandle>,
    /// The write in flight and its length.
    write: Option<(SpawnHandle, usize)>,
    connected: bool,
    /// The input has ended: closed once everything read has been delivered.
    ended: bool,
    /// A fixed stream outlives its input.
    fixed: bool,
    connector: Option<Box<dyn Connector>>,
    first: Option<Connection>,
    log: Option<Arc<tokio::sync::Mutex<tokio::fs::File>>>,
    filename: Arc<Mutex<String>>,
    terminal: Option<RawMode>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("filename", &self.filename).finish_non_exhaustive()
    }
}

impl Device {
    pub fn new(parts: Parts, filename: Arc<Mutex<String>>) -> Self {
        let mut device = Self {
            front: None,
            credit: 0,
            input: VecDeque::new(),
            received: 0,
            passing: None,
            telnet: None,
            passed: VecDeque::new(),
            output: VecDeque::new(),
            reader: None,
            writer: None,
            read: None,
            connecting: None,
            write: None,
            connected: false,
            ended: false,
            fixed: true,
            connector: None,
            first: None,
            log: None,
            filename,
            terminal: None,
        };
        device.assume(parts);
        device
    }

    /// Take over what it is opened with.
    fn assume(&mut self, parts: Parts) {
        self.log = parts.log.map(|file| Arc::new(tokio::sync::Mutex::new(file)));
        self.fixed = true;
        match parts.source {
            Source::Fixed(ends) | Source::Terminal(ends, None) => self.open(ends),
            Source::Terminal(ends, Some(mode)) => {
                self.open(ends);
                self.terminal = Some(mode);
            }
            Source::Connections { first, more } => {
                self.fixed = false;
                self.first = first;
                self.connector = more;
            }
        }
    }

    fn open(&mut self, ends: Ends) {
        self.reader = ends.reader;
        self.writer = ends.writer;
        self.passing = ends.passed;
        self.telnet = ends.telnet;
        self.connected = true;
        self.ended = false;
    }

    fn event(&self, event: CharEvent) {
        if let Some(front) = &self.front {
            front.event.do_send(event);
        }
    }

    fn connect(&mut self, connection: Connection, ctx: &mut Context<Self>) {
        *self.filename.lock() = connection.filename;
        self.open(connection.ends);
        self.event(CharEvent::Opened);
        self.start_read(ctx);
    }

    /// Wait for the next connection, if there can be one.
    fn await_connection(&mut self, ctx: &mut Context<Self>) {
        let Some(mut connector) = self.connector.take() else { return };
        *self.filename.lock() = connector.disconnected();
        let next = async move {
            let connection = connector.connect().await;
            (connector, connection)
        };
        let handle =
            ctx.spawn(next.into_actor(self).map(|(connector, connection), device, ctx| {
                device.connecting = None;
                match connection {
                    Ok(connection) => {
                        device.connector = Some(connector);
                        device.connect(connection, ctx);
                    }
                    Err(error) => {
                        let name = device.filename.lock().clone();
                        tracing::error!("{name}: no further connection: {error}");
                    }
                }
            }));
        self.connecting = Some(handle);
    }

    /// Wait for connections, if they are what there will be, and read.
    fn begin(&mut self, ctx: &mut Context<Self>) {
        if !self.fixed {
            match self.first.take() {
                Some(connection) => self.connect(connection, ctx),
                None => self.await_connection(ctx),
            }
        }
        self.start_read(ctx);
        self.await_continue(ctx);
    }

    /// The connection is over: what was on its way out is dropped, and acknowledged.
    fn disconnect(&mut self, ctx: &mut Context<Self>) {
        if self.connected {
            self.close(ctx);
            self.event(CharEvent::Closed);
            self.start_write(ctx);
            self.await_connection(ctx);
        }
    }

    /// Let go of the two ends.
    fn close(&mut self, ctx: &mut Context<Self>) {
        self.connected = false;
        self.reader = None;
        self.writer = None;
        self.passing = None;
        self.telnet = None;
        self.passed.clear();
        if let Some(read) = self.read.take() {
            ctx.cancel_future(read);
        }
        if let Some((write, length)) = self.write.take() {
            ctx.cancel_future(write);
            self.written(length);
        }
    }

    /// Read as long as there is credit, and a little ahead.
    fn start_read(&mut self, ctx: &mut Context<Self>) {
        let room = self.credit.max(READ_AHEAD).saturating_sub(self.input.len()).min(READ_MAX);
        let full = self.passed.len() >= PASSED_MAX;
        if room == 0 || full || self.read.is_some() || self.ended {
            return;
        }
        let Some(mut reader) = self.reader.take() else { return };
        let read = async move {
            let mut bytes = vec![0; room];
            let result = reader.read(&mut bytes).await;
            (reader, bytes, result)
        };
        let handle =
            ctx.spawn(read.into_actor(self).map(|(reader, mut bytes, result), device, ctx| {
                device.read = None;
                match result {
                    Ok(count) if count > 0 => {
                        device.reader = Some(reader);
                        let passed =
                            device.passing.as_ref().and_then(|passing| passing.lock().take());
                        device.passed.extend(passed.map(|fd| (device.received, fd)));
                        bytes.truncate(count);
                        if let Some(telnet) = &mut device.telnet
                            && telnet.take_out(&mut bytes)
                        {
                            device.event(CharEvent::Break);
                        }
                        device.received += bytes.len() as u64;
                        device.input.extend(&bytes);
                        device.deliver(ctx);
                        device.start_read(ctx);
                    }
                    // The end, or a connection that is gone: the same to a front end.
                    Ok(_) | Err(_) => {
                        device.ended = true;
                        device.deliver(ctx);
                    }
                }
            }));
        self.read = Some(handle);
    }

    /// Hand over what the front end has room for.
    fn deliver(&mut self, ctx: &mut Context<Self>) {
        if let Some(front) = &self.front {
            while self.credit > 0 && !self.input.is_empty() {
                let delivered = self.received - self.input.len() as u64;
                let due = self.passed.front().is_some_and(|(before, _)| *before <= delivered);
                if due && let Some((_, fd)) = self.passed.pop_front() {
                    if let Some(to) = &front.descriptor {
                        to.do_send(CharDescriptor(fd));
                    }
                    continue;
                }
                let next = self.passed.front().map_or(u64::MAX, |(before, _)| before - delivered);
                let count = self.credit.min(self.input.len());
                let count = usize::try_from(next).map_or(count, |next| count.min(next));
                self.credit -= count;
                front.input.do_send(CharInput(self.input.drain(..count).collect()));
            }
        }
        if self.ended && self.input.is_empty() && self.connected {
            if self.fixed {
                // Once: `reader` is gone, so that nothing ends a second time.
                self.ended = false;
                self.event(CharEvent::Closed);
            } else {
                self.read = Some(ctx.run_later(LINGER, |device, ctx| {
                    device.read = None;
                    device.disconnect(ctx);
                }));
                // Not again, should more credit come meanwhile.
                self.ended = false;
            }
        }
    }

    /// After a job-control stop the shell has put its own terminal modes back.
    fn await_continue(&mut self, ctx: &mut Context<Self>) {
        if self.terminal.is_none() {
            return;
        }
        let kind = tokio::signal::unix::SignalKind::from_raw(libc::SIGCONT);
        let Ok(mut continued) = tokio::signal::unix::signal(kind) else { return };
        let signal = async move { continued.recv().await };
        ctx.spawn(signal.into_actor(self).map(|_, device, ctx| {
            if let Some(Err(error)) = device.terminal.as_ref().map(RawMode::apply) {
                tracing::error!("terminal: {error}");
            }
            device.await_continue(ctx);
        }));
    }

    fn written(&self, length: usize) {
        if let Some(front) = &self.front {
            front.written.do_send(CharWritten(length));
        }
    }

    /// Write the next batch, unless one is in flight.
    fn start_write(&mut self, ctx: &mut Context<Self>) {
        if self.write.is_some() {
            return;
        }
        let Some(bytes) = self.output.pop_front() else { return };
        let length = bytes.len();
        let writer = self.writer.take();
        let log = self.log.clone();
        let write = async move {
            if let Some(log) = log {
                let mut log = log.lock().await;
                if let Err(error) = write_flushed(&mut *log, &bytes).await {
                    tracing::error!("character device's log file: {error}");
                }
            }
            match writer {
                None => (None, Ok(())),
                Some(mut writer) => {
                    let result = write_flushed(&mut writer, &bytes).await;
                    (Some(writer), result)
                }
            }
        };
        let handle = ctx.spawn(write.into_actor(self).map(move |(writer, result), device, ctx| {
            device.write = None;
            device.written(length);
            match result {
                Ok(()) => {
                    // A connection may have come while this was logged for none.
                    if writer.is_some() {
                        device.writer = writer;
                    }
                }
                // Nobody reads any more: from now on output is swallowed.
                Err(_) if device.fixed => {}
                Err(_) => return device.disconnect(ctx),
            }
            device.start_write(ctx);
        }));
        self.write = Some((handle, length));
    }
}

async fn write_flushed<W: AsyncWrite + Unpin + ?Sized>(
    writer: &mut W,
    bytes: &[u8],
) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

impl Actor for Device {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.begin(ctx);
    }
}

impl Handler<Attach> for Device {
    type Result = ();

    fn handle(&mut self, attach: Attach, ctx: &mut Self::Context) {
        self.credit = 0;
        self.front = Some(attach);
        if self.connected {
            self.event(CharEvent::Opened);
        }
        self.start_read(ctx);
    }
}

impl Handler<CharCredit> for Device {
    type Result = ();

    fn handle(&mut self, CharCredit(room): CharCredit, ctx: &mut Self::Context) {
        self.credit = self.credit.saturating_add(room);
        self.deliver(ctx);
        self.start_read(ctx);
    }
}

impl Handler<CharOutput> for Device {
    type Result = ();

    fn handle(&mut self, CharOutput(bytes): CharOutput, ctx: &mut Self::Context) {
        self.output.push_back(bytes);
        self.start_write(ctx);
    }
}

impl Handler<SendBreak> for Device {
    type Result = ();

    fn handle(&mut self, _: SendBreak, _: &mut Self::Context) {
        self.event(CharEvent::Break);
    }
}

impl Handler<Detach> for Device {
    type Result = ();

    fn handle(&mut self, _: Detach, _: &mut Self::Context) {
        self.front = None;
        self.credit = 0;
    }
}

impl Handler<Change> for Device {
    type Result = ();

    fn handle(&mut self, Change(parts): Change, ctx: &mut Self::Context) {
        let was_connected = self.connected;
        self.close(ctx);
        if let Some(connecting) = self.connecting.take() {
            ctx.cancel_future(connecting);
        }
        self.connector = None;
        self.terminal = None;
        self.input.clear();
        self.assume(parts);
        // To a front end one that is open in another's place is the same connection.
        match (was_connected, self.connected || self.first.is_some()) {
            (true, false) => self.event(CharEvent::Closed),
            (false, true) if self.connected => self.event(CharEvent::Opened),
            _ => {}
        }
        self.begin(ctx);
        self.start_write(ctx);
    }
}

impl Handler<Close> for Device {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        self.close(ctx);
        ctx.stop();
    }
}

impl Handler<Hangup> for Device {
    type Result = ();

    fn handle(&mut self, _: Hangup, ctx: &mut Self::Context) {
        if !self.fixed {
            self.disconnect(ctx);
        }
    }
}
