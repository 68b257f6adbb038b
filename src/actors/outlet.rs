//! `Outlet<M>`: an actor's only way out. Its peer is a mailbox, or a fold that absorbs the
//! message into an atomic; the sender cannot tell which.

use std::fmt;
use std::sync::Arc;

use actix::{Message, Recipient};

/// Where an actor sends messages of one type. Sending never blocks and never runs the peer's
/// handler, so a handler may send while its own cell is locked.
pub enum Outlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// A real mailbox.
    Mailbox(Recipient<M>),
    /// A function that folds the message into shared atomics (it must not block).
    Fold(Arc<dyn Fn(M) + Send + Sync>),
    /// Not wired: messages are dropped, as with an unconnected pin.
    Unconnected,
}

impl<M> Outlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// An outlet that hands each message to `f`.
    pub fn fold(f: impl Fn(M) + Send + Sync + 'static) -> Self {
        Self::Fold(Arc::new(f))
    }

    /// Send; false when the peer's mailbox is closed.
    pub fn send(&self, message: M) -> bool {
        match self {
            Self::Mailbox(recipient) => {
                let open = recipient.connected();
                recipient.do_send(message);
                open
            }
            Self::Fold(f) => {
                f(message);
                true
            }
            Self::Unconnected => true,
        }
    }
}

impl<M> Clone for Outlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn clone(&self) -> Self {
        match self {
            Self::Mailbox(r) => Self::Mailbox(r.clone()),
            Self::Fold(f) => Self::Fold(Arc::clone(f)),
            Self::Unconnected => Self::Unconnected,
        }
    }
}

impl<M> From<Recipient<M>> for Outlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn from(recipient: Recipient<M>) -> Self {
        Self::Mailbox(recipient)
    }
}

impl<M> fmt::Debug for Outlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mailbox(_) => "Outlet::Mailbox",
            Self::Fold(_) => "Outlet::Fold",
            Self::Unconnected => "Outlet::Unconnected",
        })
    }
}
