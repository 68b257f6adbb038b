//! An HMP session: one actor per character device, alone on it or behind a mux.

use std::collections::VecDeque;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture,
};
use tokio::sync::oneshot;

use super::complete;
use super::readline::Readline;
use super::state::HmpState;
use crate::chardev::message::{
    Attach, CharBackend, CharCredit, CharEvent, CharInput, CharOutput, CharWritten,
};
use crate::qmp::commands::introspect::VERSION;
use crate::qmp::monitor::{ExecuteHuman, FlushOutput, Monitor, Register};

/// Bytes of input that may be under way.
const INPUT_WINDOW: usize = 1024;
/// No more keys are looked at while this many bytes of output wait.
const OUTPUT_LIMIT: usize = 64 << 10;

/// Start a session on the current arbiter.
pub fn attach(backend: CharBackend, monitor: Addr<Monitor>) -> Addr<HmpSession> {
    HmpSession {
        backend,
        monitor,
        readline: Readline::default(),
        state: HmpState::default(),
        opened: false,
        connection: 0,
        focused: true,
        granted: 0,
        input: VecDeque::new(),
        executing: false,
        output: Vec::new(),
        writing: false,
        flushed: Vec::new(),
    }
    .start()
}

/// The session actor.
#[derive(Debug)]
pub struct HmpSession {
    backend: CharBackend,
    monitor: Addr<Monitor>,
    readline: Readline,
    state: HmpState,
    opened: bool,
    /// Counts connections, so that a reply to an earlier client is not sent to the next.
    connection: u64,
    /// Not behind a mux, or in its focus. Output waits while this is false.
    focused: bool,
    /// Credit given and not used.
    granted: usize,
    /// Received, not yet looked at.
    input: VecDeque<u8>,
    /// A line is being executed; keys wait.
    executing: bool,
    output: Vec<u8>,
    /// A `CharOutput` is with the back end.
    writing: bool,
    flushed: Vec<oneshot::Sender<()>>,
}

impl Actor for HmpSession {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let me = ctx.address();
        self.monitor.do_send(Register(me.clone().recipient()));
        self.backend.attach.do_send(Attach {
            input: me.clone().recipient(),
            written: me.clone().recipient(),
            event: me.recipient(),
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
                if self.focused {
                    self.restart();
                }
            }
            CharEvent::Closed => self.disconnect(),
            CharEvent::MuxIn => {
                self.focused = true;
                if self.opened {
                    self.restart();
                }
            }
            CharEvent::MuxOut => {
                if self.opened && self.focused {
                    self.print("\n");
                    self.flush();
                }
                self.focused = false;
            }
            CharEvent::Break => {}
        }
        self.advance(ctx);
    }
}

impl Handler<CharInput> for HmpSession {
    type Result = ();

    fn handle(&mut self, input: CharInput, ctx: &mut Self::Context) {
        self.granted = self.granted.saturating_sub(input.0.len());
        if self.opened {
            self.input.extend(input.0);
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
        self.connection += 1;
        self.executing = false;
        self.input.clear();
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
            let line = self.readline.key(byte, &mut self.output, complete::complete);
            if let Some(line) = line {
                self.execute(line, ctx);
            }
        }
        self.flush();
        if self.opened && self.input.is_empty() && self.granted == 0 {
            self.granted = INPUT_WINDOW;
            self.backend.credit.do_send(CharCredit(INPUT_WINDOW));
        }
    }

    fn execute(&mut self, line: String, ctx: &mut Context<Self>) {
        self.executing = true;
        let execution = self.monitor.send(ExecuteHuman { line, state: self.state });
        let connection = self.connection;
        let done = execution.into_actor(self).map(move |answer, session, ctx| {
            if session.connection != connection {
                return;
            }
            session.executing = false;
            let mut ends = false;
            match answer {
                Ok(reply) => {
                    session.state = reply.state;
                    ends = reply.ends;
                    session.print(&reply.text);
                }
                Err(_) => session.print("Error: The monitor has failed\n"),
            }
            if session.focused && !ends {
                session.readline.prompt(&mut session.output);
            }
            session.advance(ctx);
        });
        ctx.spawn(done);
    }

    fn flush(&mut self) {
        if self.focused && !self.writing && !self.output.is_empty() {
            self.writing = true;
            self.backend.output.do_send(CharOutput(std::mem::take(&mut self.output)));
        }
        // Without the focus nothing more gets out, and nobody waits for it.
        if !self.writing && !self.executing && (self.output.is_empty() || !self.focused) {
            for flushed in self.flushed.drain(..) {
                // Nobody waits any more if this fails.
                let _ = flushed.send(());
            }
        }
    }
}
