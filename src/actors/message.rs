//! Messages that every device understands: register access, interrupt lines, life cycle.

use std::marker::PhantomData;
use std::sync::Arc;

use actix::Message;

use crate::migration::vmstate::{Section, StateError};

/// Why a register access was refused; the hart turns it into an access fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MmioFault {
    /// Nothing answers at this address.
    #[error("no device at this address")]
    Unmapped,
    /// The device does not decode an access of this width or alignment.
    #[error("access width or alignment not decoded by the device")]
    Width,
    /// The device's actor has died; the machine is in error.
    #[error("the device has failed")]
    Dead,
}

/// Read a register: `offset` in bytes from the device's base, `width` in bytes (1, 2, 4, 8).
/// The value comes back zero-extended.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<u64, MmioFault>")]
pub struct MmioRead {
    pub offset: u64,
    pub width: u8,
}

/// Write a register: only the low `width` bytes of `value` count.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), MmioFault>")]
pub struct MmioWrite {
    pub offset: u64,
    pub width: u8,
    pub value: u64,
}

/// The level of an interrupt line, told by its source to whatever it is wired to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct IrqLevel {
    pub line: u32,
    pub level: bool,
}

/// Return to the state after power-on.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Reset;

/// Stop taking work from back ends; answered when nothing is in flight.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Pause;

/// Take work again.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Resume;

/// Save the state that the description `name` is of; the machine is paused.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Section, StateError>")]
pub struct SaveState {
    pub name: &'static str,
}

/// Take over the state that `bytes` begins with, in `version` of the description `name`; the
/// number of bytes that it was. The machine is paused.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<usize, StateError>")]
pub struct LoadState {
    pub name: &'static str,
    pub version: u32,
    pub bytes: Vec<u8>,
}

/// Guest RAM that was missing has come, during a postcopy: go on with what needed it.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct PagesArrived;

/// End the actor for good (of actors that own a thread: the thread too).
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Terminate;

/// An actor died: the machine is in error. `reason` is what its panic said.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct ActorFailed {
    pub name: Arc<str>,
    pub reason: String,
}

/// Ask for a copy of an actor's state `S`, a plain data struct.
pub struct Snapshot<S>(PhantomData<fn() -> S>);

impl<S> Snapshot<S> {
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S> Default for Snapshot<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: 'static> Message for Snapshot<S> {
    type Result = S;
}

impl<S> std::fmt::Debug for Snapshot<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot<{}>", std::any::type_name::<S>())
    }
}
