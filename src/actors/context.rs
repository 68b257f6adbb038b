//! `InlineContext`: the execution context of actors that no arbiter runs. It has an address and a
//! life, and nothing asynchronous: a handler's answer must be ready when it returns (`M::Result`
//! itself, or `MessageResult<M>`), because the thread that runs it may be a vCPU's.

use std::any::Any;
use std::fmt;

use actix::dev::channel::AddressSender;
use actix::dev::{Envelope, EnvelopeProxy, MessageResponse as _, OneshotSender, ToEnvelope};
use actix::{Actor, ActorContext, ActorState, Addr, Handler, Message};

/// Context of an actor run by a `DeviceCell` or a `ThreadMailbox`.
pub struct InlineContext<A: Actor> {
    address: Addr<A>,
    state: ActorState,
}

impl<A: Actor> InlineContext<A> {
    /// A running context whose mailbox is fed by `sender`.
    pub fn new(sender: AddressSender<A>) -> Self {
        Self { address: Addr::new(sender), state: ActorState::Running }
    }

    /// The actor's own address.
    pub fn address(&self) -> Addr<A> {
        self.address.clone()
    }

    /// True once `stop` or `terminate` was called.
    pub fn stopped(&self) -> bool {
        !self.state.alive()
    }
}

impl<A: Actor> ActorContext for InlineContext<A> {
    fn stop(&mut self) {
        self.state = ActorState::Stopped;
    }

    fn terminate(&mut self) {
        self.state = ActorState::Stopped;
    }

    fn state(&self) -> ActorState {
        self.state
    }
}

impl<A: Actor> fmt::Debug for InlineContext<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InlineContext({:?})", self.state)
    }
}

/// A message in a mailbox, with the way back for its answer.
struct InlineEnvelope<M: Message> {
    message: Option<M>,
    answer: Option<OneshotSender<M::Result>>,
}

impl<A, M> ToEnvelope<A, M> for InlineContext<A>
where
    A: Actor<Context = Self> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, answer: Option<OneshotSender<M::Result>>) -> Envelope<A> {
        Envelope::with_proxy(Box::new(InlineEnvelope { message: Some(message), answer }))
    }
}

impl<A, M> EnvelopeProxy<A> for InlineEnvelope<M>
where
    A: Actor + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn handle(&mut self, actor: &mut A, ctx: &mut A::Context) {
        let answer = self.answer.take();
        // As in actix: a request whose asker has gone away is cancelled.
        if answer.as_ref().is_some_and(OneshotSender::is_closed) {
            return;
        }
        if let Some(message) = self.message.take() {
            actor.handle(message, ctx).handle(ctx, answer);
        }
    }
}

/// The words of a panic, for the report that the actor died.
pub fn panic_reason(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "panicked".to_owned()
    }
}
