//! A QMP session: one actor per character device. Requests are answered in order, one at a time;
//! a client that does not read stops being served (and misses events), and nobody else notices.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient,
    ResponseFuture, WrapFuture,
};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::command::Command;
use super::commands::introspect::{QmpCapabilities, QmpCapability, VERSION};
use super::error::QmpError;
use super::event::Event;
use super::json;
use super::link::MonitorDescriptors;
use super::monitor::{Execute, FlushOutput, Monitor, Register, Subscribe};
use super::parser::{Document, JsonStream};
use super::visit;
use crate::chardev::message::{
    Attach, CharBackend, CharCredit, CharDescriptor, CharEvent, CharInput, CharOutput, CharWritten,
};

/// Descriptors that wait for their command. More than fit into the window with commands are lost.
const PASSED_MAX: usize = 128;
/// Bytes of input that may be under way.
const INPUT_WINDOW: usize = 4096;
/// Requests parsed but not begun, with out-of-band execution; more wait as bytes, and beyond the
/// window with the client.
const QUEUE_LIMIT: usize = 8;
/// No new request begins while this many bytes of output wait.
const OUTPUT_LIMIT: usize = 64 << 10;
/// Events are dropped while this many bytes of output wait.
const EVENT_LIMIT: usize = 1 << 20;

/// What a session asks of its monitor.
#[derive(Debug, Clone)]
pub struct MonitorLink {
    pub execute: Recipient<Execute>,
    pub subscribe: Recipient<Subscribe>,
    pub register: Recipient<Register>,
}

impl From<Addr<Monitor>> for MonitorLink {
    fn from(monitor: Addr<Monitor>) -> Self {
        Self {
            execute: monitor.clone().recipient(),
            subscribe: monitor.clone().recipient(),
            register: monitor.recipient(),
        }
    }
}

/// Start a session on the current arbiter.
pub fn attach(
    backend: CharBackend,
    monitor: impl Into<MonitorLink>,
    pretty: bool,
) -> Addr<QmpSession> {
    QmpSession {
        backend,
        monitor: monitor.into(),
        pretty,
        mode: Mode::Disconnected,
        connection: 0,
        granted: 0,
        stream: JsonStream::default(),
        input: VecDeque::new(),
        received: 0,
        passed: VecDeque::new(),
        descriptors: MonitorDescriptors::default(),
        requests: VecDeque::new(),
        executing: false,
        ended: false,
        out_of_band: false,
        output: Vec::new(),
        writing: false,
        dropped_events: 0,
        flushed: Vec::new(),
    }
    .start()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disconnected,
    Negotiating,
    Commands { oob: bool },
}

/// The session actor.
#[derive(Debug)]
pub struct QmpSession {
    backend: CharBackend,
    monitor: MonitorLink,
    pretty: bool,
    mode: Mode,
    /// Counts connections, so that a reply to an earlier client is not sent to the next.
    connection: u64,
    /// Credit given and not used.
    granted: usize,
    stream: JsonStream,
    /// Received, not yet parsed.
    input: VecDeque<u8>,
    /// Bytes received so far.
    received: u64,
    /// Descriptors that came, each with the number of bytes before it.
    passed: VecDeque<(u64, OwnedFd)>,
    /// With the last whose command has begun.
    descriptors: MonitorDescriptors,
    requests: VecDeque<(Document, Option<OwnedFd>)>,
    executing: bool,
    /// The client has gone; something that it has sent may not be answered yet.
    ended: bool,
    /// An out-of-band command is being executed.
    out_of_band: bool,
    output: Vec<u8>,
    /// A `CharOutput` is with the back end.
    writing: bool,
    dropped_events: u64,
    flushed: Vec<oneshot::Sender<()>>,
}

/// To itself: a command has been executed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Executed {
    connection: u64,
    id: Option<Value>,
    result: Result<Value, QmpError>,
    out_of_band: bool,
}

/// A request whose outline is right.
struct Request {
    command: String,
    arguments: Map<String, Value>,
    out_of_band: bool,
}

impl Actor for QmpSession {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let me = ctx.address();
        self.monitor.subscribe.do_send(Subscribe(me.clone().recipient()));
        self.monitor.register.do_send(Register(me.clone().recipient()));
        self.backend.attach.do_send(Attach {
            input: me.clone().recipient(),
            written: me.clone().recipient(),
            event: me.clone().recipient(),
            descriptor: Some(me.recipient()),
        });
    }
}

impl Handler<CharEvent> for QmpSession {
    type Result = ();

    fn handle(&mut self, event: CharEvent, ctx: &mut Self::Context) {
        match event {
            CharEvent::Opened => {
                self.reset();
                self.mode = Mode::Negotiating;
                self.send(
                    &json!({"QMP": {"version": VERSION, "capabilities": [QmpCapability::Oob]}}),
                );
                self.advance(ctx);
            }
            // What came before the end is still carried out, as `... | understudy -qmp stdio` wants.
            CharEvent::Closed => {
                self.ended = true;
                self.advance(ctx);
            }
            // A break means nothing here, and QMP does not share a mux.
            CharEvent::Break | CharEvent::MuxIn | CharEvent::MuxOut => {}
        }
    }
}

impl Handler<CharInput> for QmpSession {
    type Result = ();

    fn handle(&mut self, input: CharInput, ctx: &mut Self::Context) {
        self.granted = self.granted.saturating_sub(input.0.len());
        if self.mode != Mode::Disconnected {
            self.received += input.0.len() as u64;
            self.input.extend(input.0);
        }
        self.advance(ctx);
    }
}

impl Handler<CharDescriptor> for QmpSession {
    type Result = ();

    fn handle(&mut self, CharDescriptor(fd): CharDescriptor, _: &mut Self::Context) {
        if self.mode == Mode::Disconnected {
            return;
        }
        self.passed.push_back((self.received, fd));
        if self.passed.len() > PASSED_MAX {
            tracing::warn!("a QMP client passes descriptors without commands: one is closed");
            self.passed.pop_front();
        }
    }
}

impl Handler<CharWritten> for QmpSession {
    type Result = ();

    fn handle(&mut self, _: CharWritten, ctx: &mut Self::Context) {
        self.writing = false;
        self.flush();
        self.advance(ctx);
    }
}

impl Handler<Event> for QmpSession {
    type Result = ();

    fn handle(&mut self, event: Event, _: &mut Self::Context) {
        if !matches!(self.mode, Mode::Commands { .. }) {
            return;
        }
        if self.output.len() > EVENT_LIMIT {
            self.dropped_events += 1;
            if self.dropped_events == 1 {
                tracing::warn!("a QMP client does not read: events are dropped");
            }
            return;
        }
        self.send(&event.0);
    }
}

impl Handler<Executed> for QmpSession {
    type Result = ();

    fn handle(&mut self, done: Executed, ctx: &mut Self::Context) {
        // What an earlier client asked for concerns nobody any more.
        if done.connection != self.connection {
            return;
        }
        match done.out_of_band {
            true => self.out_of_band = false,
            false => self.executing = false,
        }
        self.reply(done.id, done.result);
        self.advance(ctx);
    }
}

impl Handler<FlushOutput> for QmpSession {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FlushOutput, _: &mut Self::Context) -> Self::Result {
        let (done, flushed) = oneshot::channel();
        self.flushed.push(done);
        self.release_flushers();
        Box::pin(async move {
            // A sender that was dropped means that the connection is gone.
            let _ = flushed.await;
        })
    }
}

impl QmpSession {
    fn reset(&mut self) {
        self.mode = Mode::Disconnected;
        self.ended = false;
        self.connection += 1;
        self.stream = JsonStream::default();
        self.input.clear();
        self.passed.clear();
        self.descriptors = self.descriptors.of_next_client();
        self.requests.clear();
        self.executing = false;
        self.out_of_band = false;
        self.output.clear();
        self.dropped_events = 0;
    }

    /// Parse, execute and grant credit as far as the limits allow.
    fn advance(&mut self, ctx: &mut Context<Self>) {
        let mut documents = Vec::new();
        self.begin_next(ctx);
        while self.takes_requests() && self.output.len() <= OUTPUT_LIMIT {
            let Some(byte) = self.input.pop_front() else { break };
            self.stream.feed(byte, |document| documents.push(document));
            for document in documents.drain(..) {
                let passed = self.passed_so_far();
                if self.is_out_of_band(&document) {
                    self.begin(document, passed, ctx);
                } else {
                    self.requests.push_back((document, passed));
                    self.begin_next(ctx);
                }
            }
        }
        if self.ended {
            self.end();
        } else if self.mode != Mode::Disconnected && self.input.is_empty() && self.granted == 0 {
            self.granted = INPUT_WINDOW;
            self.backend.credit.do_send(CharCredit(INPUT_WINDOW));
        }
    }

    /// Forget a client that has gone, when all that it has sent is answered.
    fn end(&mut self) {
        let answered = !self.executing && !self.out_of_band && self.requests.is_empty();
        if answered && self.input.is_empty() && self.output.is_empty() {
            self.reset();
            self.release_flushers();
        }
    }

    /// Begin the requests that are first in the queue, up to and with one that takes a while.
    fn begin_next(&mut self, ctx: &mut Context<Self>) {
        while !self.executing && self.output.len() <= OUTPUT_LIMIT {
            let Some((document, passed)) = self.requests.pop_front() else { return };
            self.begin(document, passed, ctx);
        }
    }

    /// Whether another request may be parsed. Without out-of-band execution there is one at a time,
    /// so that what follows a negotiation is parsed with its outcome in force. An out-of-band
    /// request is answered before anything after it is looked at.
    fn takes_requests(&self) -> bool {
        match self.mode {
            Mode::Commands { oob: true } => self.requests.len() < QUEUE_LIMIT && !self.out_of_band,
            _ => self.requests.is_empty() && !self.executing,
        }
    }

    /// The last descriptor that came with what has been parsed.
    fn passed_so_far(&mut self) -> Option<OwnedFd> {
        let parsed = self.received - self.input.len() as u64;
        let mut last = None;
        while self.passed.front().is_some_and(|(before, _)| *before < parsed) {
            last = self.passed.pop_front().map(|(_, fd)| fd);
        }
        last
    }

    /// Out-of-band requests do not wait in the queue.
    fn is_out_of_band(&self, document: &Document) -> bool {
        self.mode == Mode::Commands { oob: true }
            && matches!(document, Ok(Value::Object(request))
                if request.contains_key("exec-oob") && !request.contains_key("execute"))
    }

    fn begin(&mut self, document: Document, passed: Option<OwnedFd>, ctx: &mut Context<Self>) {
        if let Some(fd) = passed {
            self.descriptors.put(fd);
        }
        let mut object = match document {
            Ok(Value::Object(object)) => object,
            Ok(_) => {
                return self.reply(None, Err(QmpError::generic("QMP input must be a JSON object")));
            }
            Err(sentence) => return self.reply(None, Err(QmpError::generic(sentence))),
        };
        let id = object.shift_remove("id");
        let oob_enabled = self.mode == Mode::Commands { oob: true };
        let request = match outline(object, oob_enabled) {
            Ok(request) => request,
            Err(error) => return self.reply(id, Err(error)),
        };
        if self.mode == Mode::Negotiating {
            let result = self.negotiate(request);
            return self.reply(id, result);
        }
        self.execute(id, request, ctx);
    }

    fn negotiate(&mut self, request: Request) -> Result<Value, QmpError> {
        if request.command != QmpCapabilities::NAME {
            let sentence = "Expecting capabilities negotiation with 'qmp_capabilities'";
            return Err(QmpError::not_found(sentence));
        }
        let wanted: QmpCapabilities = visit::arguments(request.arguments)?;
        let oob = wanted.enable.unwrap_or_default().contains(&QmpCapability::Oob);
        self.mode = Mode::Commands { oob };
        Ok(json!({}))
    }

    fn execute(&mut self, id: Option<Value>, request: Request, ctx: &mut Context<Self>) {
        let Request { command, arguments, out_of_band } = request;
        let connection = self.connection;
        match out_of_band {
            true => self.out_of_band = true,
            false => self.executing = true,
        }
        let execution = self.monitor.execute.send(Execute {
            command,
            arguments,
            out_of_band,
            passed: self.descriptors.clone(),
        });
        let me = ctx.address();
        // Through the mailbox once more, behind the events that were told before this reply.
        let done = execution.into_actor(self).map(move |answer, _, _| {
            let dead = |_| Err(QmpError::generic("The monitor has failed"));
            let result = answer.unwrap_or_else(dead);
            me.do_send(Executed { connection, id, result, out_of_band });
        });
        ctx.spawn(done);
    }

    fn reply(&mut self, id: Option<Value>, result: Result<Value, QmpError>) {
        let mut reply = match result {
            Ok(value) => json!({"return": value}),
            Err(error) => json!({"error": error}),
        };
        if let Some(id) = id {
            reply["id"] = id;
        }
        self.send(&reply);
    }

    fn send(&mut self, message: &Value) {
        self.output.extend(json::line(message, self.pretty));
        self.flush();
    }

    fn flush(&mut self) {
        if !self.writing && !self.output.is_empty() {
            self.writing = true;
            self.backend.output.do_send(CharOutput(std::mem::take(&mut self.output)));
        }
        self.release_flushers();
    }

    fn release_flushers(&mut self) {
        let idle = !self.writing && !self.executing && self.output.is_empty();
        if idle || self.mode == Mode::Disconnected {
            for flushed in self.flushed.drain(..) {
                // Nobody waits any more if this fails.
                let _ = flushed.send(());
            }
        }
    }
}

/// Check a request's own members, in the order in which QEMU meets them.
fn outline(object: Map<String, Value>, oob_enabled: bool) -> Result<Request, QmpError> {
    let mut command: Option<(&str, String)> = None;
    let mut arguments = Map::new();
    for (key, value) in json::members(&object) {
        match (key.as_str(), value) {
            ("execute", value) | ("exec-oob", value) if key == "execute" || oob_enabled => {
                let Value::String(name) = value else {
                    let sentence = format!("QMP input member '{key}' must be a string");
                    return Err(QmpError::generic(sentence));
                };
                if let Some((earlier, _)) = command {
                    return Err(QmpError::generic(format!(
                        "QMP input member '{key}' clashes with '{earlier}'"
                    )));
                }
                command = Some((key, name.clone()));
            }
            ("arguments", Value::Object(map)) => arguments = map.clone(),
            ("arguments", _) => {
                let sentence = "QMP input member 'arguments' must be an object";
                return Err(QmpError::generic(sentence));
            }
            _ => {
                return Err(QmpError::generic(format!("QMP input member '{key}' is unexpected")));
            }
        }
    }
    match command {
        Some((key, command)) => Ok(Request { command, arguments, out_of_band: key == "exec-oob" }),
        None => Err(QmpError::generic("QMP input lacks member 'execute'")),
    }
}
