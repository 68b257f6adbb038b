//! An HMP session: one actor per character device, alone on it or behind a mux.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient,
    ResponseFuture, WrapFuture,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::readline::{Readline, Request};
use super::state::HmpState;
use crate::chardev::message::{
    Attach, CharBackend, CharCredit, CharDescriptor, CharEvent, CharInput, CharOutput, CharWritten,
};
use crate::qmp::command::Command as _;
use crate::qmp::commands::introspect::VERSION;
use crate::qmp::commands::migration::MigrateCancel;
use crate::qmp::link::{ANSWER_BOUND, MonitorDescriptors};
use crate::qmp::migration::Outlook;
use crate::qmp::monitor::{
    AreYouThere, AwaitMigration, CompleteHuman, Execute, ExecuteHuman, FlushOutput, Monitor,
    Register,
};

/// Bytes of input that may be under way.
const INPUT_WINDOW: usize = 1024;
/// Keys that are kept while a migration is waited for; what is typed beyond that is lost.
const TYPED_AHEAD: usize = 16 << 10;
/// Ctrl-C.
const INTERRUPT: u8 = 0x03;
/// No more keys are looked at while this many bytes of output wait.
const OUTPUT_LIMIT: usize = 64 << 10;

/// What a session asks its monitor.
#[derive(Debug, Clone)]
pub struct MonitorLink {
    pub register: Recipient<Register>,
    pub execute: Recipient<ExecuteHuman>,
    pub complete: Recipient<CompleteHuman>,
    pub command: Recipient<Execute>,
    pub migration: Recipient<AwaitMigration>,
    pub alive: Recipient<AreYouThere>,
    /// How long it may be silent.
    pub bound: Duration,
}

/// Why a request has come to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum MonitorError {
    #[error("The monitor has failed")]
    Failed,
    #[error("The monitor does not answer")]
    Silent,
}

impl MonitorLink {
    /// The link to a monitor.
    pub fn to(monitor: &Addr<Monitor>) -> Self {
        Self {
            register: monitor.clone().recipient(),
            execute: monitor.clone().recipient(),
            complete: monitor.clone().recipient(),
            command: monitor.clone().recipient(),
            migration: monitor.clone().recipient(),
            alive: monitor.clone().recipient(),
            bound: ANSWER_BOUND,
        }
    }

    /// Ask. A command may take its time, as long as the monitor is alive meanwhile.
    fn ask<M>(
        &self,
        peer: &Recipient<M>,
        message: M,
    ) -> impl Future<Output = Result<M::Result, MonitorError>> + use<M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let (answer, alive, bound) = (peer.send(message), self.alive.clone(), self.bound);
        async move {
            let mut answer = Box::pin(answer);
            loop {
                match timeout(bound, &mut answer).await {
                    Ok(answer) => return answer.map_err(|_| MonitorError::Failed),
                    Err(_) => match timeout(bound, alive.send(AreYouThere)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Err(MonitorError::Failed),
                        Err(_) => return Err(MonitorError::Silent),
                    },
                }
            }
        }
    }
}

/// Start a session on the current arbiter.
pub fn attach(backend: CharBackend, monitor: MonitorLink) -> Addr<HmpSession> {
    HmpSession {
        backend,
        monitor,
        readline: Readline::default(),
        state: HmpState::default(),
        opened: false,
        ended: false,
        connection: 0,
        focus: Focus::Here,
        granted: 0,
        input: VecDeque::new(),
        passed: MonitorDescriptors::default(),
        executing: false,
        waiting: None,
        output: Vec::new(),
        writing: false,
        flushed: Vec::new(),
    }
    .start()
}

/// Whether keys and output are ours. A session that is alone on its device always has the focus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Focus {
    Here,
    /// The mux has moved on; what was typed before is still answered.
    Leaving,
    /// That is answered and its line ended, which is on its way out.
    Left,
    /// Output waits.
    Gone,
}

/// The session actor.
#[derive(Debug)]
pub struct HmpSession {
    backend: CharBackend,
    monitor: MonitorLink,
    readline: Readline,
    state: HmpState,
    opened: bool,
    /// The client has gone; something that it has sent may not be answered yet.
    ended: bool,
    /// Counts connections, so that a reply to an earlier client is not sent to the next.
    connection: u64,
    focus: Focus,
    /// Credit given and not used.
    granted: usize,
    /// Received, not yet looked at.
    input: VecDeque<u8>,
    /// With the last descriptor that came, for the line that is typed.
    passed: MonitorDescriptors,
    /// A line is being executed, or completed; keys wait.
    executing: bool,
    /// What is executed is a migration that is waited for.
    waiting: Option<Waiting>,
    output: Vec<u8>,
    /// A `CharOutput` is with the back end.
    writing: bool,
    flushed: Vec<oneshot::Sender<()>>,
}

/// A migration that a session waits for.
#[derive(Debug, Default)]
struct Waiting {
    /// A line with its progress is on the screen.
    shown: bool,
}

impl Actor for HmpSession {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let me = ctx.address();
        self.monitor.register.do_send(Register(me.clone().recipient()));
        self.backend.attach.do_send(Attach {
            input: me.clone().recipient(),
            written: me.clone().recipient(),
            event: me.clone().recipient(),
            descriptor: Some(me.recipient()),
        });
    }
}

impl Handler<CharEvent> for HmpSession {
    type Result = ();

    fn handle(&mut self, event: CharEvent, ctx: &mut Self::Context) {
        match event {
            CharEvent::Opened => {
                self.disconnect();
                self.opened = true;
                let version = VERSION.qemu;
                self.print(&format!("QEMU {version} monitor - type 'help' for more information\n"));
                // Behind a mux the prompt comes with the focus.
                if self.focus == Focus::Here {
                    self.restart();
                }
            }
            // What came before the end is still carried out.
            CharEvent::Closed => self.ended = self.opened,
            CharEvent::MuxIn => {
                let before = std::mem::replace(&mut self.focus, Focus::Here);
                if self.opened && before != Focus::Leaving {
                    self.restart();
                }
            }
            CharEvent::MuxOut if self.focus == Focus::Here => self.focus = Focus::Leaving,
            CharEvent::MuxOut => {}
            CharEvent::Break => {}
        }
        self.advance(ctx);
    }
}

impl Handler<CharDescriptor> for HmpSession {
    type Result = ();

    fn handle(&mut self, CharDescriptor(fd): CharDescriptor, _: &mut Self::Context) {
        self.passed.put(fd);
    }
}

impl Handler<CharInput> for HmpSession {
    type Result = ();

    fn handle(&mut self, input: CharInput, ctx: &mut Self::Context) {
        self.granted = self.granted.saturating_sub(input.0.len());
        if self.opened {
            self.input.extend(input.0);
        }
        if self.waiting.is_some() {
            self.look_for_interrupt(ctx);
        }
        self.advance(ctx);
    }
}

impl Handler<CharWritten> for HmpSession {
    type Result = ();

    fn handle(&mut self, _: CharWritten, ctx: &mut Self::Context) {
        self.writing = false;
        self.advance(ctx);
    }
}

impl Handler<FlushOutput> for HmpSession {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FlushOutput, _: &mut Self::Context) -> Self::Result {
        let (done, flushed) = oneshot::channel();
        self.flushed.push(done);
        self.flush();
        Box::pin(async move {
            // A sender that was dropped means that the session is gone.
            let _ = flushed.await;
        })
    }
}

impl HmpSession {
    fn disconnect(&mut self) {
        self.opened = false;
        self.ended = false;
        self.connection += 1;
        self.executing = false;
        self.waiting = None;
        self.input.clear();
        self.passed = self.passed.of_next_client();
        self.output.clear();
    }

    /// An empty line behind a fresh prompt.
    fn restart(&mut self) {
        self.readline.restart();
        if !self.executing {
            self.readline.prompt(&mut self.output);
        }
    }

    fn print(&mut self, text: &str) {
        self.output.extend(text.replace('\n', "\r\n").into_bytes());
    }

    /// Handle keys, write and grant credit as far as the limits allow.
    fn advance(&mut self, ctx: &mut Context<Self>) {
        while !self.executing && self.output.len() <= OUTPUT_LIMIT {
            let Some(byte) = self.input.pop_front() else { break };
            match self.readline.key(byte, &mut self.output) {
                Some(Request::Execute(line)) => self.execute(line, ctx),
                Some(Request::Complete(line)) => self.complete(line, ctx),
                None => {}
            }
        }
        self.leave();
        self.flush();
        let wanted = self.input.is_empty() || self.waiting.is_some();
        if self.ended {
            // Nobody waits for a migration any more.
            let answered = self.input.is_empty() && !self.executing || self.waiting.is_some();
            if answered && self.output.is_empty() {
                self.disconnect();
            }
        } else if self.opened && wanted && self.granted == 0 {
            self.granted = INPUT_WINDOW;
            self.backend.credit.do_send(CharCredit(INPUT_WINDOW));
        }
    }

    /// Let go of the focus once everything that came before is answered and on its way. A wait for
    /// a migration goes on without it.
    fn leave(&mut self) {
        let answered = self.input.is_empty() && !self.executing || self.waiting.is_some();
        if self.focus == Focus::Leaving && answered {
            if self.opened {
                self.print("\n");
            }
            self.focus = Focus::Left;
        }
        if self.focus == Focus::Left {
            self.flush();
            if self.output.is_empty() {
                self.focus = Focus::Gone;
            }
        }
    }

    /// While a migration is waited for, Ctrl-C cancels it; other keys wait for the prompt.
    fn look_for_interrupt(&mut self, ctx: &mut Context<Self>) {
        let before = self.input.len();
        self.input.retain(|byte| *byte != INTERRUPT);
        let interrupted = self.input.len() < before;
        self.input.truncate(TYPED_AHEAD);
        if !interrupted {
            return;
        }
        let command = MigrateCancel::NAME.to_owned();
        let cancel = Execute {
            command,
            arguments: Default::default(),
            out_of_band: false,
            passed: MonitorDescriptors::default(),
        };
        let connection = self.connection;
        let cancelled = self.monitor.ask(&self.monitor.command, cancel).into_actor(self);
        let done = cancelled.map(move |answer, session, ctx| {
            let error = match answer {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            if session.connection == connection {
                session.print(&format!("Error: {error}\n"));
                session.advance(ctx);
            }
        });
        ctx.spawn(done);
    }

    /// Wait until the migration is over, and show how far it is.
    fn wait(&mut self, ctx: &mut Context<Self>) {
        let connection = self.connection;
        let asked = self.monitor.ask(&self.monitor.migration, AwaitMigration);
        let outlook = asked.into_actor(self);
        let done = outlook.map(move |outlook, session, ctx| {
            if session.connection != connection {
                return;
            }
            let waiting = session.waiting.get_or_insert_default();
            match outlook {
                Ok(Outlook::Going(percent)) => {
                    waiting.shown |= percent.is_some();
                    if let Some(percent) = percent {
                        session.print(&format!("Completed {percent} %\r"));
                    }
                    session.wait(ctx);
                }
                Ok(Outlook::Settled(reason)) => {
                    if waiting.shown {
                        session.print("\n");
                    }
                    if let Some(reason) = reason {
                        session.print(&format!("{reason}\n"));
                    }
                    session.waiting = None;
                    session.finish();
                }
                Err(error) => {
                    session.print(&format!("Error: {error}\n"));
                    session.waiting = None;
                    session.finish();
                }
            }
            session.advance(ctx);
        });
        ctx.spawn(done);
    }

    /// A line has been executed.
    fn finish(&mut self) {
        self.executing = false;
        if self.focus != Focus::Gone {
            self.readline.prompt(&mut self.output);
        }
    }

    fn execute(&mut self, line: String, ctx: &mut Context<Self>) {
        self.executing = true;
        let typed = self.readline.history().map(|line| String::from_utf8_lossy(line).into_owned());
        let state = HmpState { history: typed.collect(), ..self.state.clone() };
        let passed = self.passed.clone();
        let execution =
            self.monitor.ask(&self.monitor.execute, ExecuteHuman { line, state, passed });
        let connection = self.connection;
        let done = execution.into_actor(self).map(move |answer, session, ctx| {
            if session.connection != connection {
                return;
            }
            match answer {
                Ok(reply) => {
                    session.state = reply.state;
                    session.print(&reply.text);
                    if reply.awaits_migration {
                        session.waiting = Some(Waiting::default());
                        session.look_for_interrupt(ctx);
                        session.wait(ctx);
                    } else if reply.ends {
                        session.executing = false;
                    } else {
                        session.finish();
                    }
                }
                Err(error) => {
                    session.print(&format!("Error: {error}\n"));
                    session.finish();
                }
            }
            session.advance(ctx);
        });
        ctx.spawn(done);
    }

    fn complete(&mut self, line: String, ctx: &mut Context<Self>) {
        self.executing = true;
        let connection = self.connection;
        let asked = self.monitor.ask(&self.monitor.complete, CompleteHuman { line });
        let done = asked.into_actor(self).map(move |answer, session, ctx| {
            if session.connection != connection {
                return;
            }
            session.executing = false;
            // Without an answer there is nothing to complete with.
            session.readline.complete(answer.unwrap_or_default(), &mut session.output);
            session.advance(ctx);
        });
        ctx.spawn(done);
    }

    fn flush(&mut self) {
        if self.focus != Focus::Gone && !self.writing && !self.output.is_empty() {
            self.writing = true;
            self.backend.output.do_send(CharOutput(std::mem::take(&mut self.output)));
        }
        // Without the focus nothing more gets out, and nobody waits for it.
        let idle = !self.executing || self.waiting.is_some();
        if !self.writing && idle && (self.output.is_empty() || self.focus == Focus::Gone) {
            for flushed in self.flushed.drain(..) {
                // Nobody waits any more if this fails.
                let _ = flushed.send(());
            }
        }
    }
}
