//! The actor kit: how actors of this machine are run, called and tested.
//!
//! Three runners, one model:
//! - actix's own `Context` on an arbiter, for everything that waits;
//! - [`mailbox::ThreadMailbox`], for actors that own a thread (vCPUs, the timer);
//! - [`cell::DeviceCell`], for devices, whose handlers run on the thread of whoever accesses them.
//!
//! Actors of the last two kinds have `type Context = InlineContext<Self>`; their `Addr` and
//! `Recipient` are actix's, so a peer cannot tell who runs a handler.
#![forbid(unsafe_code)]

pub mod cell;
pub mod context;
pub mod lifecycle;
pub mod mailbox;
pub mod message;
pub mod outlet;
pub mod probe;
pub mod timer;
