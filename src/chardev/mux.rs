//! The multiplexer: several front ends on one back end, of which one has the focus and gets the
//! input. Ctrl-a starts a command, as on QEMU's console.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message};
use parking_lot::Mutex;

use super::OpenContext;
use super::device::Close;
use super::front_ends::{FrontEnds, Place};
use super::message::{
    Attach, CharBackend, CharCredit, CharEvent, CharInput, CharOutput, CharWritten, SendBreak,
};
use crate::actors::outlet::Outlet;
use crate::machine::message::{RequestShutdown, ShutdownCause};

/// Ctrl-a.
const ESCAPE: u8 = 1;

/// Input held for a front end that has no room, so that Ctrl-a stays within reach.
const BUFFER: usize = 4096;

/// Texts of our own that may wait behind a back end that takes nothing.
const QUEUE_MAX: usize = 16;

/// How long the last word may take before the machine goes down without it.
const LAST_WORD: Duration = Duration::from_secs(1);

const HELP: &str = "\n\r\
    C-a h    print this help\n\r\
    C-a x    exit emulator\n\r\
    C-a s    save disk data back to file (if -snapshot)\n\r\
    C-a t    toggle console timestamps\n\r\
    C-a b    send break (magic sysrq)\n\r\
    C-a c    switch between console and monitor\n\r\
    C-a C-a  sends C-a\n\r";

const TERMINATED: &str = "QEMU: Terminated\n\r";

/// What a front end says, with who says it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct FromPort {
    /// The number of its place.
    port: usize,
    what: PortMessage,
}

#[derive(Debug)]
enum PortMessage {
    Attach(Attach),
    Output(Vec<u8>),
    Credit(usize),
}

/// What one front end holds: gives its messages a name and passes them on.
#[derive(Debug)]
struct MuxPort {
    id: usize,
    mux: Addr<Mux>,
}

impl Actor for MuxPort {
    type Context = Context<Self>;
}

impl Handler<Attach> for MuxPort {
    type Result = ();
    fn handle(&mut self, attach: Attach, _: &mut Self::Context) {
        self.mux.do_send(FromPort { port: self.id, what: PortMessage::Attach(attach) });
    }
}

impl Handler<CharOutput> for MuxPort {
    type Result = ();
    fn handle(&mut self, CharOutput(bytes): CharOutput, _: &mut Self::Context) {
        self.mux.do_send(FromPort { port: self.id, what: PortMessage::Output(bytes) });
    }
}

impl Handler<CharCredit> for MuxPort {
    type Result = ();
    fn handle(&mut self, CharCredit(room): CharCredit, _: &mut Self::Context) {
        self.mux.do_send(FromPort { port: self.id, what: PortMessage::Credit(room) });
    }
}

/// A back end for one more front end.
pub fn front_end(mux: &Addr<Mux>, place: Place) -> CharBackend {
    let port = MuxPort { id: place.number(), mux: mux.clone() }.start();
    CharBackend {
        attach: port.clone().recipient(),
        output: port.clone().recipient(),
        credit: port.recipient(),
        place,
    }
}

/// The front end at this place is gone.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Leave(pub usize);

/// A front end.
#[derive(Debug)]
struct Front {
    id: usize,
    attach: Attach,
    credit: usize,
    input: VecDeque<u8>,
}

impl Front {
    fn event(&self, event: CharEvent) {
        self.attach.event.do_send(event);
    }

    fn deliver(&mut self) {
        let count = self.credit.min(self.input.len());
        if count > 0 {
            self.credit -= count;
            self.attach.input.do_send(CharInput(self.input.drain(..count).collect()));
        }
    }
}

/// A batch of output.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    then: Then,
}

/// What follows once a batch is written.
#[derive(Debug)]
enum Then {
    Nothing,
    /// Tell the front end that its so many bytes are out.
    Acknowledge(usize, usize),
    Shutdown,
}

/// The actor.
#[derive(Debug)]
pub struct Mux {
    base: CharBackend,
    fronts: Vec<Front>,
    /// That which gets the input; `None` before there is one, and when it is gone.
    focus: Option<usize>,
    /// Where others see who has the focus.
    places: Arc<Mutex<FrontEnds>>,
    /// Front ends after which the multiplexer is complete and opens.
    expected: usize,
    complete: bool,
    base_open: bool,
    /// Ctrl-a was the last byte.
    escaped: bool,
    /// Credit the back end has and has not used.
    granted: usize,
    queue: VecDeque<Batch>,
    in_flight: Option<Then>,
    timestamps: Option<Timestamps>,
    shutdown: Outlet<RequestShutdown>,
    shutting_down: bool,
}

/// Timestamps at the start of each line, from the first on.
#[derive(Debug, Default)]
struct Timestamps {
    start: Option<Instant>,
    line_start: bool,
}

impl Timestamps {
    fn stamp(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut stamped = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.line_start {
                let now = Instant::now();
                let elapsed = now.duration_since(*self.start.get_or_insert(now));
                let seconds = elapsed.as_secs();
                let stamp = format!(
                    "[{:02}:{:02}:{:02}.{:03}] ",
                    seconds / 3600,
                    seconds / 60 % 60,
                    seconds % 60,
                    elapsed.subsec_millis()
                );
                stamped.extend(stamp.bytes());
                self.line_start = false;
            }
            stamped.push(*byte);
            self.line_start = *byte == b'\n';
        }
        stamped
    }
}

impl Mux {
    /// Start a multiplexer over a back end.
    pub(super) fn start_on(
        base: CharBackend,
        places: Arc<Mutex<FrontEnds>>,
        front_ends: usize,
        context: &OpenContext,
    ) -> Addr<Self> {
        Self {
            base,
            fronts: Vec::new(),
            focus: None,
            places,
            expected: front_ends,
            complete: false,
            base_open: false,
            escaped: false,
            granted: 0,
            queue: VecDeque::new(),
            in_flight: None,
            timestamps: None,
            shutdown: context.shutdown.clone(),
            shutting_down: false,
        }
        .start()
    }

    fn attach(&mut self, port: usize, attach: Attach) {
        self.base.place.set_open(true);
        let index = match self.fronts.iter().position(|front| front.id == port) {
            Some(index) => {
                self.fronts[index].attach = attach;
                self.fronts[index].credit = 0;
                index
            }
            None => {
                let input = VecDeque::new();
                self.fronts.push(Front { id: port, attach, credit: 0, input });
                self.fronts.len() - 1
            }
        };
        // At start the front end that was asked for last has the focus, whoever attaches first.
        let newest = (0..self.fronts.len()).max_by_key(|&i| self.fronts[i].id);
        self.set_focus(if self.complete { index } else { newest.unwrap_or(index) });
        if self.focus != Some(index) {
            self.fronts[index].event(CharEvent::MuxOut);
        }
        if self.complete {
            if self.base_open {
                self.fronts[index].event(CharEvent::Opened);
            }
        } else if self.fronts.len() >= self.expected {
            // Not before all are there, so that each knows whether it has the focus when it hears.
            self.complete = true;
            if self.base_open {
                self.all(CharEvent::Opened);
            }
        }
    }

    fn all(&self, event: CharEvent) {
        for front in &self.fronts {
            front.event(event);
        }
    }

    fn set_focus(&mut self, index: usize) {
        let old = self.focus.replace(index).filter(|old| *old != index);
        if let Some(old) = old.and_then(|old| self.fronts.get(old)) {
            old.event(CharEvent::MuxOut);
        }
        self.fronts[index].event(CharEvent::MuxIn);
        self.places.lock().focus = Some(self.fronts[index].id);
        self.grant();
    }

    fn focused(&mut self) -> Option<&mut Front> {
        self.focus.and_then(|focus| self.fronts.get_mut(focus))
    }

    fn leave(&mut self, port: usize) {
        let Some(at) = self.fronts.iter().position(|front| front.id == port) else { return };
        self.fronts.remove(at);
        // What is typed is for nobody until Ctrl-a c gives another the focus.
        self.focus = match self.focus {
            Some(focus) if focus == at => None,
            Some(focus) if focus > at => Some(focus - 1),
            focus => focus,
        };
        self.grant();
    }

    /// Let the back end read as much as there is room for.
    fn grant(&mut self) {
        if self.fronts.is_empty() {
            return;
        }
        let held = self.focused().map_or(0, |front| front.input.len());
        let room = BUFFER.saturating_sub(held + self.granted);
        if room > 0 {
            self.granted += room;
            self.base.credit.do_send(CharCredit(room));
        }
    }

    fn input(&mut self, bytes: &[u8], ctx: &mut Context<Self>) {
        for byte in bytes {
            if !std::mem::take(&mut self.escaped) {
                if *byte == ESCAPE {
                    self.escaped = true;
                    continue;
                }
            } else if *byte != ESCAPE {
                self.command(*byte, ctx);
                continue;
            }
            if let Some(front) = self.focused() {
                front.input.push_back(*byte);
            }
        }
        for front in &mut self.fronts {
            front.deliver();
        }
        self.grant();
    }

    fn command(&mut self, key: u8, ctx: &mut Context<Self>) {
        match key {
            b'h' | b'?' => self.say(HELP, Then::Nothing),
            b'x' => {
                self.say(TERMINATED, Then::Shutdown);
                ctx.run_later(LAST_WORD, |mux, _| mux.shut_down());
            }
            b'b' => {
                if let Some(front) = self.focused() {
                    // What was typed before the break comes before it.
                    front.deliver();
                    front.event(CharEvent::Break);
                }
            }
            b'c' if !self.fronts.is_empty() => {
                if let Some(front) = self.focused() {
                    front.deliver();
                }
                let next = self.focus.map_or(0, |focus| focus + 1);
                self.set_focus(next % self.fronts.len());
            }
            b't' => {
                self.timestamps = match self.timestamps {
                    Some(_) => None,
                    None => Some(Timestamps::default()),
                };
            }
            // 's' would write temporary overlays back, of which there are none.
            _ => {}
        }
    }

    fn say(&mut self, text: &str, then: Then) {
        if self.queue.len() < QUEUE_MAX {
            self.queue.push_back(Batch { bytes: text.into(), then });
            self.start_write();
        }
    }

    fn start_write(&mut self) {
        if self.in_flight.is_none()
            && let Some(batch) = self.queue.pop_front()
        {
            self.in_flight = Some(batch.then);
            self.base.output.do_send(CharOutput(batch.bytes));
        }
    }

    fn shut_down(&mut self) {
        if !std::mem::replace(&mut self.shutting_down, true) {
            self.shutdown.send(RequestShutdown { cause: ShutdownCause::HostQmpQuit, exit_code: 0 });
        }
    }
}

impl Actor for Mux {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.base.attach.do_send(Attach {
            input: ctx.address().recipient(),
            written: ctx.address().recipient(),
            event: ctx.address().recipient(),
            descriptor: None,
        });
    }
}

impl Handler<FromPort> for Mux {
    type Result = ();

    fn handle(&mut self, message: FromPort, _: &mut Self::Context) {
        let FromPort { port, what } = message;
        match what {
            PortMessage::Attach(attach) => self.attach(port, attach),
            PortMessage::Output(bytes) => {
                let then = Then::Acknowledge(port, bytes.len());
                let bytes = match &mut self.timestamps {
                    Some(timestamps) => timestamps.stamp(&bytes),
                    None => bytes,
                };
                self.queue.push_back(Batch { bytes, then });
                self.start_write();
            }
            PortMessage::Credit(room) => {
                if let Some(front) = self.fronts.iter_mut().find(|front| front.id == port) {
                    front.credit = front.credit.saturating_add(room);
                    front.deliver();
                    self.grant();
                }
            }
        }
    }
}

impl Handler<CharInput> for Mux {
    type Result = ();

    fn handle(&mut self, CharInput(bytes): CharInput, ctx: &mut Self::Context) {
        self.granted = self.granted.saturating_sub(bytes.len());
        self.input(&bytes, ctx);
    }
}

impl Handler<CharWritten> for Mux {
    type Result = ();

    fn handle(&mut self, _: CharWritten, _: &mut Self::Context) {
        match self.in_flight.take() {
            None | Some(Then::Nothing) => {}
            Some(Then::Shutdown) => self.shut_down(),
            Some(Then::Acknowledge(port, length)) => {
                if let Some(front) = self.fronts.iter().find(|front| front.id == port) {
                    front.attach.written.do_send(CharWritten(length));
                }
            }
        }
        self.start_write();
    }
}

impl Handler<CharEvent> for Mux {
    type Result = ();

    fn handle(&mut self, event: CharEvent, _: &mut Self::Context) {
        match event {
            CharEvent::Opened => self.base_open = true,
            CharEvent::Closed => self.base_open = false,
            CharEvent::Break => {}
            // A multiplexer over a multiplexer: its focus is our back end's affair.
            CharEvent::MuxIn | CharEvent::MuxOut => return,
        }
        if self.complete {
            self.all(event);
        }
    }
}

impl Handler<SendBreak> for Mux {
    type Result = ();

    fn handle(&mut self, _: SendBreak, _: &mut Self::Context) {
        if let Some(front) = self.focused() {
            front.event(CharEvent::Break);
        }
    }
}

impl Handler<Leave> for Mux {
    type Result = ();

    fn handle(&mut self, Leave(port): Leave, _: &mut Self::Context) {
        self.leave(port);
    }
}

impl Handler<Close> for Mux {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
