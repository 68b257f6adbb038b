//! The qtest session: reads lines from a character device, does what they say at once and in
//! order, and answers each with one line. It runs on an arbiter of its own, where it may wait for
//! a device's lock as a vCPU does.

use std::fmt::Display;

use actix::{
    Actor, ActorFutureExt, Addr, Arbiter, ArbiterHandle, AsyncContext, Context, Handler, Message,
    Recipient, ResponseFuture, WrapFuture,
};
use tokio::sync::oneshot;

use super::command::{self, Command, Encoding, Malformed};
use super::gpio::{Gpios, LinesChanged};
use super::log::Log;
use super::stepped::SteppedClock;
use crate::chardev::message::{
    Attach, CharBackend, CharCredit, CharEvent, CharInput, CharOutput, CharWritten,
};
use crate::cpu::vcpu::AccessCsr;
use crate::machine::address_space::AddressSpace;

/// Bytes of input that may be under way.
const INPUT_WINDOW: usize = 64 << 10;
/// No command is begun while this many bytes of output wait.
const OUTPUT_LIMIT: usize = 64 << 10;
/// Interrupt lines are not told while this many bytes of output wait.
const LINES_LIMIT: usize = 1 << 20;
/// The longest line: a `write` of all that a command may move.
const LONGEST_LINE: usize = 2 * command::MOST_BYTES as usize + 256;

/// What a session is made of.
#[derive(Debug)]
pub struct SessionParts {
    pub backend: CharBackend,
    pub memory: AddressSpace,
    pub gpios: Gpios,
    /// Present under `-accel qtest`.
    pub clock: Option<SteppedClock>,
    /// Harts by number.
    pub harts: Vec<Recipient<AccessCsr>>,
    pub log: Log,
}

/// Answered when all output has been handed to the host.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Delivered;

/// The actor.
#[derive(Debug)]
pub struct Session {
    parts: SessionParts,
    connected: bool,
    /// Credit given and not used.
    granted: usize,
    /// Received, up to the last end of a line that was executed.
    input: Vec<u8>,
    /// How much of `input` has no end of line in it.
    searched: usize,
    /// The rest of the line is dropped: it was too long.
    skipping: bool,
    /// A command waits for others.
    busy: bool,
    output: Vec<u8>,
    /// A `CharOutput` is with the back end.
    writing: bool,
    flushed: Vec<oneshot::Sender<()>>,
}

/// Start a session on a thread of its own.
pub fn attach(parts: SessionParts) -> (Addr<Session>, ArbiterHandle) {
    let arbiter = Arbiter::new().handle();
    let addr = Session::start_in_arbiter(&arbiter, |_| Session::new(parts));
    (addr, arbiter)
}

impl Session {
    /// A session that nobody is connected to.
    pub fn new(parts: SessionParts) -> Self {
        Self {
            parts,
            connected: false,
            granted: 0,
            input: Vec::new(),
            searched: 0,
            skipping: false,
            busy: false,
            output: Vec::new(),
            writing: false,
            flushed: Vec::new(),
        }
    }

    /// Execute lines and grant credit as far as the limits allow.
    fn advance(&mut self, ctx: &mut Context<Self>) {
        while !self.busy && self.output.len() <= OUTPUT_LIMIT {
            let Some(line) = self.next_line() else { break };
            match line {
                Ok(line) => self.execute(&String::from_utf8_lossy(&line), ctx),
                Err(malformed) => self.reply(&malformed),
            }
        }
        self.write_out();
        if self.connected && !self.busy && self.granted == 0 && self.output.len() <= OUTPUT_LIMIT {
            self.granted = INPUT_WINDOW;
            self.parts.backend.credit.do_send(CharCredit(INPUT_WINDOW));
        }
    }

    fn next_line(&mut self) -> Option<Result<Vec<u8>, Malformed>> {
        loop {
            let rest = self.input.get(self.searched..).unwrap_or_default();
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.input.len();
                if self.input.len() > LONGEST_LINE {
                    self.input.clear();
                    self.searched = 0;
                    if !std::mem::replace(&mut self.skipping, true) {
                        return Some(Err(Malformed::Size));
                    }
                }
                return None;
            };
            let end = self.searched + length;
            let mut line: Vec<u8> = self.input.drain(..=end).collect();
            line.pop();
            self.searched = 0;
            if !std::mem::take(&mut self.skipping) {
                return Some(Ok(line));
            }
        }
    }

    fn execute(&mut self, line: &str, ctx: &mut Context<Self>) {
        self.parts.log.received(line);
        let words: Vec<_> = line.split(' ').collect();
        let command = match Command::parse(&words, self.parts.clock.is_some()) {
            Ok(command) => command,
            Err(malformed) => return self.reply(&malformed),
        };
        let memory = &self.parts.memory;
        let gpios = &self.parts.gpios;
        let ok = |result: Result<(), super::gpio::GpioError>| match result {
            Ok(()) => "OK".to_owned(),
            Err(error) => error.to_string(),
        };
        let answer = match command {
            Command::Load { addr, width } => {
                let bytes = memory.read(addr, width.into());
                let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                format!("OK {value:#018x}")
            }
            Command::Store { addr, width, value } => {
                let bytes = value.to_le_bytes();
                memory.write(addr, bytes.get(..width.into()).unwrap_or_default());
                "OK".into()
            }
            Command::Read { addr, len, encoding } => {
                let bytes = memory.read(addr, len);
                let text = match encoding {
                    Encoding::Hex => command::to_hex(&bytes),
                    Encoding::Base64 => command::to_base64(&bytes),
                };
                format!("OK {text}")
            }
            Command::Write { addr, data } => {
                memory.write(addr, &data);
                "OK".into()
            }
            Command::Fill { addr, len, byte } => {
                memory.fill(addr, len, byte);
                "OK".into()
            }
            // The machine has no ports: nothing drives the lines of such a bus.
            Command::PortRead { width } => {
                format!("OK {:#06x}", u32::MAX >> (32 - 8 * u32::from(width)))
            }
            Command::PortWrite => "OK".into(),
            Command::Endianness => "OK little".into(),
            // There are no modules.
            Command::ModuleLoad => "FAIL".into(),
            Command::InterceptIn { path, named } => ok(gpios.intercept_in(&path, named)),
            Command::InterceptOut { path, name } => ok(gpios.intercept_out(&path, name.as_deref())),
            Command::SetIrqIn { path, name, number, level } => {
                ok(gpios.set_irq_in(&path, name.as_deref(), number, level))
            }
            Command::ClockStep(step) => return self.clock_step(step, ctx),
            Command::ClockSet(to) => return self.clock_set(to, ctx),
            Command::Csr { write, hart, csr, value } => {
                return self.access_csr(hart, csr, write.then_some(value), value, ctx);
            }
        };
        self.reply(&answer);
    }

    fn clock_step(&mut self, step: Option<i64>, ctx: &mut Context<Self>) {
        let Some(clock) = self.parts.clock.clone() else { return };
        let Some(step) = step.or_else(|| clock.to_next_deadline()) else {
            return self.reply(
                &"FAIL cannot advance clock to the next deadline because there is no pending deadline",
            );
        };
        let old = clock.now_ns();
        self.later(ctx, async move {
            let new = clock.advance(old.saturating_add(step)).await;
            if new > old { format!("OK {new}") } else { "FAIL could not advance time".into() }
        });
    }

    fn clock_set(&mut self, to: i64, ctx: &mut Context<Self>) {
        let Some(clock) = self.parts.clock.clone() else { return };
        self.later(ctx, async move {
            let new = clock.advance(to).await;
            format!("{} {new}", if new == to { "OK" } else { "FAIL" })
        });
    }

    fn access_csr(
        &mut self,
        hart: u64,
        csr: i32,
        write: Option<u64>,
        value: u64,
        ctx: &mut Context<Self>,
    ) {
        let hart = usize::try_from(hart).ok().and_then(|hart| self.parts.harts.get(hart));
        let number = u16::try_from(csr).ok().filter(|csr| *csr < 0x1000);
        let (Some(hart), Some(number)) = (hart, number) else {
            return self.reply(&format!("ERR csr: no such hart or register: {csr:#x}"));
        };
        let request = hart.send(AccessCsr { csr: number, write });
        self.later(ctx, async move {
            match request.await {
                Ok(Some(read)) => {
                    format!("OK 0 {:016x}", if write.is_some() { value } else { read })
                }
                Ok(None) => format!("ERR csr: {number:#x} cannot be accessed"),
                Err(_) => "ERR csr: the hart has failed".into(),
            }
        });
    }

    /// Answer when `answer` is there, and begin no other command before.
    fn later(&mut self, ctx: &mut Context<Self>, answer: impl Future<Output = String> + 'static) {
        self.busy = true;
        ctx.spawn(answer.into_actor(self).map(|answer, session, ctx| {
            session.busy = false;
            session.reply(&answer);
            session.advance(ctx);
        }));
    }

    /// Send a reply, after the changes of lines that came before it.
    fn reply(&mut self, reply: &impl Display) {
        self.tell_lines();
        self.send(reply);
    }

    fn tell_lines(&mut self) {
        for change in self.parts.gpios.taps.take() {
            if self.output.len() <= LINES_LIMIT {
                self.send(&change);
            }
        }
    }

    fn send(&mut self, line: &impl Display) {
        let line = line.to_string();
        self.parts.log.sent(&line);
        if self.connected {
            self.output.extend(line.as_bytes());
            self.output.push(b'\n');
        }
    }

    fn write_out(&mut self) {
        if !self.writing && !self.output.is_empty() {
            self.writing = true;
            let bytes = std::mem::take(&mut self.output);
            self.parts.backend.output.do_send(CharOutput(bytes));
        }
        if !self.writing && !self.busy {
            for flushed in self.flushed.drain(..) {
                // Who asked may have given up.
                let _ = flushed.send(());
            }
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let me = ctx.address();
        self.parts.gpios.taps.listen(me.clone().recipient());
        self.parts.backend.attach.do_send(Attach {
            input: me.clone().recipient(),
            written: me.clone().recipient(),
            event: me.recipient(),
            descriptor: None,
        });
    }
}

impl Handler<CharEvent> for Session {
    type Result = ();

    fn handle(&mut self, event: CharEvent, ctx: &mut Self::Context) {
        match event {
            CharEvent::Opened => {
                self.connected = true;
                self.parts.gpios.taps.forget_levels();
                self.parts.log.opened();
                self.advance(ctx);
            }
            CharEvent::Closed => {
                self.connected = false;
                self.granted = 0;
                self.input.clear();
                self.searched = 0;
                self.skipping = false;
                self.output.clear();
                self.parts.log.closed();
                self.write_out();
            }
            // Nothing to a program.
            CharEvent::Break | CharEvent::MuxIn | CharEvent::MuxOut => {}
        }
    }
}

impl Handler<CharInput> for Session {
    type Result = ();

    fn handle(&mut self, CharInput(bytes): CharInput, ctx: &mut Self::Context) {
        self.granted = self.granted.saturating_sub(bytes.len());
        if self.connected {
            self.input.extend(bytes);
        }
        self.advance(ctx);
    }
}

impl Handler<CharWritten> for Session {
    type Result = ();

    fn handle(&mut self, _: CharWritten, ctx: &mut Self::Context) {
        self.writing = false;
        self.advance(ctx);
    }
}

impl Handler<LinesChanged> for Session {
    type Result = ();

    fn handle(&mut self, _: LinesChanged, _: &mut Self::Context) {
        self.tell_lines();
        self.write_out();
    }
}

impl Handler<Delivered> for Session {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Delivered, _: &mut Self::Context) -> Self::Result {
        let (done, flushed) = oneshot::channel();
        self.flushed.push(done);
        self.write_out();
        Box::pin(async move {
            // A sender that was dropped means that the session has ended.
            let _ = flushed.await;
        })
    }
}

#[cfg(test)]
mod tests;
