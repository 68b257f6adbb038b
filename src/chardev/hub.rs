//! The hub: one front end on several back ends. What it says goes to all of them that are connected,
//! and counts as written when the slowest has it; what any of them brings in is input.

use std::collections::VecDeque;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message};

use super::device::Close;
use super::message::{
    Attach, CharBackend, CharCredit, CharEvent, CharInput, CharOutput, CharWritten, Detach,
    SendBreak,
};

/// Input of one back end that is held, or may come, at most.
const BUFFER: usize = 4096;

/// What a back end says, with which of them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct FromLeg {
    leg: usize,
    what: Said,
}

#[derive(Debug)]
enum Said {
    Input(Vec<u8>),
    Written,
    Event(CharEvent),
}

/// What one back end takes for its front end: gives its messages a name and passes them on.
#[derive(Debug)]
struct Listener {
    leg: usize,
    hub: Addr<Hub>,
}

impl Listener {
    fn pass(&self, what: Said) {
        self.hub.do_send(FromLeg { leg: self.leg, what });
    }
}

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<CharInput> for Listener {
    type Result = ();
    fn handle(&mut self, CharInput(bytes): CharInput, _: &mut Self::Context) {
        self.pass(Said::Input(bytes));
    }
}

impl Handler<CharWritten> for Listener {
    type Result = ();
    fn handle(&mut self, _: CharWritten, _: &mut Self::Context) {
        self.pass(Said::Written);
    }
}

impl Handler<CharEvent> for Listener {
    type Result = ();
    fn handle(&mut self, event: CharEvent, _: &mut Self::Context) {
        self.pass(Said::Event(event));
    }
}

/// A back end.
#[derive(Debug)]
struct Leg {
    backend: CharBackend,
    connected: bool,
    /// Credit it has and has not used.
    granted: usize,
}

/// The actor.
#[derive(Debug)]
pub struct Hub {
    legs: Vec<Leg>,
    front: Option<Attach>,
    /// Bytes the front end has room for.
    credit: usize,
    input: VecDeque<u8>,
    output: VecDeque<Vec<u8>>,
    /// Length of what is being written, and how many back ends have yet to acknowledge it.
    in_flight: Option<(usize, usize)>,
}

impl Hub {
    pub fn start_on(backends: Vec<CharBackend>) -> Addr<Self> {
        let leg = |backend| Leg { backend, connected: false, granted: 0 };
        Self {
            legs: backends.into_iter().map(leg).collect(),
            front: None,
            credit: 0,
            input: VecDeque::new(),
            output: VecDeque::new(),
            in_flight: None,
        }
        .start()
    }

    fn event(&self, event: CharEvent) {
        if let Some(front) = &self.front {
            front.event.do_send(event);
        }
    }

    fn connected(&self) -> usize {
        self.legs.iter().filter(|leg| leg.connected).count()
    }

    /// One of the back ends opens or closes: the first and the last of them count.
    fn set_connected(&mut self, leg: usize, connected: bool) {
        let before = self.connected();
        if let Some(leg) = self.legs.get_mut(leg) {
            leg.connected = connected;
        }
        match (before, self.connected()) {
            (0, 1) => self.event(CharEvent::Opened),
            (1, 0) => self.event(CharEvent::Closed),
            _ => {}
        }
    }

    /// Hand over what there is room for, and let back ends read as much again.
    fn deliver(&mut self) {
        let Some(front) = &self.front else { return };
        let count = self.credit.min(self.input.len());
        if count > 0 {
            self.credit -= count;
            front.input.do_send(CharInput(self.input.drain(..count).collect()));
        }
        let held = self.input.len();
        for leg in &mut self.legs {
            let room = BUFFER.saturating_sub(held + leg.granted);
            if room > 0 {
                leg.granted += room;
                leg.backend.credit.do_send(CharCredit(room));
            }
        }
    }

    fn start_write(&mut self) {
        while self.in_flight.is_none()
            && let Some(bytes) = self.output.pop_front()
        {
            let legs = self.legs.iter().filter(|leg| leg.connected);
            legs.for_each(|leg| leg.backend.output.do_send(CharOutput(bytes.clone())));
            match self.connected() {
                0 => self.written(bytes.len()),
                legs => self.in_flight = Some((bytes.len(), legs)),
            }
        }
    }

    fn written(&self, length: usize) {
        if let Some(front) = &self.front {
            front.written.do_send(CharWritten(length));
        }
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for (index, leg) in self.legs.iter().enumerate() {
            let listener = Listener { leg: index, hub: ctx.address() }.start();
            leg.backend.attach.do_send(Attach {
                input: listener.clone().recipient(),
                written: listener.clone().recipient(),
                event: listener.recipient(),
                descriptor: None,
            });
        }
    }
}

impl Handler<FromLeg> for Hub {
    type Result = ();

    fn handle(&mut self, FromLeg { leg, what }: FromLeg, _: &mut Self::Context) {
        match what {
            Said::Input(bytes) => {
                if let Some(leg) = self.legs.get_mut(leg) {
                    leg.granted = leg.granted.saturating_sub(bytes.len());
                }
                self.input.extend(bytes);
                self.deliver();
            }
            Said::Written => {
                self.in_flight = match self.in_flight {
                    Some((length, 0 | 1)) => {
                        self.written(length);
                        None
                    }
                    Some((length, legs)) => Some((length, legs - 1)),
                    None => None,
                };
                self.start_write();
            }
            Said::Event(CharEvent::Opened) => self.set_connected(leg, true),
            Said::Event(CharEvent::Closed) => self.set_connected(leg, false),
            Said::Event(event) => self.event(event),
        }
    }
}

impl Handler<Attach> for Hub {
    type Result = ();

    fn handle(&mut self, attach: Attach, _: &mut Self::Context) {
        self.legs.iter().for_each(|leg| leg.backend.place.set_open(true));
        self.credit = 0;
        self.front = Some(attach);
        if self.connected() > 0 {
            self.event(CharEvent::Opened);
        }
        self.deliver();
    }
}

impl Handler<CharCredit> for Hub {
    type Result = ();

    fn handle(&mut self, CharCredit(room): CharCredit, _: &mut Self::Context) {
        self.credit = self.credit.saturating_add(room);
        self.deliver();
    }
}

impl Handler<CharOutput> for Hub {
    type Result = ();

    fn handle(&mut self, CharOutput(bytes): CharOutput, _: &mut Self::Context) {
        self.output.push_back(bytes);
        self.start_write();
    }
}

impl Handler<SendBreak> for Hub {
    type Result = ();

    fn handle(&mut self, _: SendBreak, _: &mut Self::Context) {
        self.event(CharEvent::Break);
    }
}

impl Handler<Detach> for Hub {
    type Result = ();

    fn handle(&mut self, _: Detach, _: &mut Self::Context) {
        self.front = None;
        self.credit = 0;
    }
}

impl Handler<Close> for Hub {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
