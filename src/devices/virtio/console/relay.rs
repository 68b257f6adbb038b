//! Back ends do not say whose they are in what they tell. Of one port of a bus they tell the device
//! itself; those of every other have a relay between, which knows its port.

use actix::{Actor, Context, Handler, Message, Recipient};

use crate::chardev::message::{CharEvent, CharInput, CharWritten};

/// What a port's back end tells.
#[derive(Debug)]
pub(super) enum Said {
    Input(Vec<u8>),
    Written(usize),
    Event(CharEvent),
}

/// Relay → device.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct OfPort {
    /// That of the port, which no other has had before.
    pub(super) key: u64,
    pub(super) said: Said,
}

/// Between a back end and the device.
pub(super) struct Relay {
    pub(super) key: u64,
    pub(super) device: Recipient<OfPort>,
}

impl Relay {
    fn tell(&self, said: Said) {
        self.device.do_send(OfPort { key: self.key, said });
    }
}

impl Actor for Relay {
    type Context = Context<Self>;
}

impl Handler<CharInput> for Relay {
    type Result = ();

    fn handle(&mut self, CharInput(bytes): CharInput, _: &mut Self::Context) {
        self.tell(Said::Input(bytes));
    }
}

impl Handler<CharWritten> for Relay {
    type Result = ();

    fn handle(&mut self, CharWritten(count): CharWritten, _: &mut Self::Context) {
        self.tell(Said::Written(count));
    }
}

impl Handler<CharEvent> for Relay {
    type Result = ();

    fn handle(&mut self, event: CharEvent, _: &mut Self::Context) {
        self.tell(Said::Event(event));
    }
}
