//! The life-cycle convention: every device answers `Reset`, `Pause` and `Resume`.
//!
//! - `Pause` is answered when nothing of the device is in flight: after it the device starts no
//!   work towards a back end, and keeps what back ends still deliver for later. Register access
//!   cannot happen (vCPUs pause first).
//! - `Resume` starts what `Pause` held back.
//! - `Reset` returns to power-on state, lowers the device's interrupt lines, and comes only while
//!   the vCPUs are paused. Input that a back end already delivered survives it, as on a real board.

use std::sync::Arc;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Recipient};

use super::message::{Pause, Reset, Resume};

/// An actor as the `Vm` holds it.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    /// The name used in error reports.
    pub name: Arc<str>,
    pub reset: Recipient<Reset>,
    pub pause: Recipient<Pause>,
    pub resume: Recipient<Resume>,
}

impl Lifecycle {
    /// The life-cycle side of `actor`.
    pub fn of<A>(name: impl Into<Arc<str>>, actor: &Addr<A>) -> Self
    where
        A: Actor + Handler<Reset> + Handler<Pause> + Handler<Resume>,
        A::Context: ToEnvelope<A, Reset> + ToEnvelope<A, Pause> + ToEnvelope<A, Resume>,
    {
        Self {
            name: name.into(),
            reset: actor.clone().recipient(),
            pause: actor.clone().recipient(),
            resume: actor.clone().recipient(),
        }
    }
}
