//! The protocol between a character back end and its front end. Nothing is lost in either
//! direction: input flows only against credit, output is acknowledged.

use std::os::fd::OwnedFd;

use actix::{Message, Recipient};

pub use super::front_ends::Place;

/// Front end → back end: who the front end is. One front end at a time; a second `Attach`
/// replaces the first. `CharEvent::Opened` follows at once when the back end is connected.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Attach {
    pub input: Recipient<CharInput>,
    pub written: Recipient<CharWritten>,
    pub event: Recipient<CharEvent>,
    /// Who takes descriptors, if the front end has a use for them. Others' are closed.
    pub descriptor: Option<Recipient<CharDescriptor>>,
}

/// Back end → front end: bytes that arrived; never more than the credit granted.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct CharInput(pub Vec<u8>);

/// Back end → front end: the peer has passed a descriptor along with the input that comes next.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CharDescriptor(pub OwnedFd);

/// Front end → back end: room for `0` more input bytes (adds to earlier credit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct CharCredit(pub usize);

/// Front end → back end: bytes to send. A front end keeps at most one in flight and sends the
/// next batch after `CharWritten`.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct CharOutput(pub Vec<u8>);

/// Back end → front end: the last `CharOutput` (of so many bytes) is written, or dropped because
/// nobody is connected, as QEMU drops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct CharWritten(pub usize);

/// Back end → front end: what happened to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum CharEvent {
    Opened,
    Closed,
    Break,
    /// A mux gave this front end the focus, or took it away. A front end that starts without the
    /// focus gets `MuxOut` before `Opened`.
    MuxIn,
    MuxOut,
}

/// Whoever takes a front end away → back end: there is none any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Detach;

/// Front end → whoever announces it: the guest has opened its end of a port, or closed it.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct PortOpened {
    /// The port's identifier.
    pub id: String,
    pub open: bool,
}

/// Monitor → back end: have the front end hear a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SendBreak;

/// A back end as a front end holds it.
#[derive(Debug, Clone)]
pub struct CharBackend {
    pub attach: Recipient<Attach>,
    pub output: Recipient<CharOutput>,
    pub credit: Recipient<CharCredit>,
    /// Where the front end tells whether it is open.
    pub place: Place,
}
