//! `Probe<M>`: a peer for tests. It records the messages of one type that an actor sends, whether
//! the actor was given a fold or a real mailbox. Neither needs an arbiter: a message is recorded
//! (and a request answered) on the sender's thread before `send` returns.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use actix::dev::EnvelopeProxy as _;
use actix::dev::channel::{AddressReceiver, channel};
use actix::{Actor, Handler, Message, MessageResult, Recipient};
use futures_core::Stream as _;
use parking_lot::{Condvar, Mutex};

use super::context::InlineContext;
use super::outlet::Outlet;

type Reply<M> = Arc<dyn Fn(&M) -> <M as Message>::Result + Send + Sync>;

struct Log<M> {
    messages: Mutex<Vec<M>>,
    arrived: Condvar,
}

impl<M> Log<M> {
    fn record(&self, message: M) {
        self.messages.lock().push(message);
        self.arrived.notify_all();
    }
}

/// Records messages of one type.
pub struct Probe<M: Message + Send + 'static>
where
    M::Result: Send,
{
    log: Arc<Log<M>>,
    reply: Reply<M>,
}

impl<M> Default for Probe<M>
where
    M: Message + Send + 'static,
    M::Result: Send + Default,
{
    fn default() -> Self {
        Self::answering(|_| M::Result::default())
    }
}

impl<M> Probe<M>
where
    M: Message + Send + 'static,
    M::Result: Send + Default,
{
    /// A probe that answers requests with the default value.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<M> Probe<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// A probe that answers requests as `reply` says.
    pub fn answering(reply: impl Fn(&M) -> M::Result + Send + Sync + 'static) -> Self {
        Self {
            log: Arc::new(Log { messages: Mutex::new(Vec::new()), arrived: Condvar::new() }),
            reply: Arc::new(reply),
        }
    }

    /// An outlet whose messages are recorded by a fold.
    pub fn outlet(&self) -> Outlet<M> {
        let log = Arc::clone(&self.log);
        Outlet::fold(move |message| log.record(message))
    }

    /// A real mailbox whose messages are recorded.
    pub fn recipient(&self) -> Recipient<M> {
        let (sender, receiver) = channel(0);
        let ctx = InlineContext::new(sender);
        let address = ctx.address();
        let recorder = Recorder { log: Arc::clone(&self.log), reply: Arc::clone(&self.reply) };
        // The receiver's waker slot holds the waker, and the waker the receiver: that cycle keeps
        // the mailbox open for the rest of the test.
        Arc::new(Inline(Mutex::new((recorder, ctx, receiver)))).drain();
        address.recipient()
    }

    /// Everything recorded since the last `take`, in order of arrival.
    pub fn take(&self) -> Vec<M> {
        std::mem::take(&mut *self.log.messages.lock())
    }

    /// The oldest recorded message, waiting for one to arrive.
    ///
    /// # Panics
    /// When none arrives in time.
    pub fn expect_within(&self, timeout: Duration) -> M {
        let deadline = Instant::now() + timeout;
        let mut messages = self.log.messages.lock();
        while messages.is_empty() {
            let late = self.log.arrived.wait_until(&mut messages, deadline).timed_out();
            assert!(
                !(late && messages.is_empty()),
                "no {} within {timeout:?}",
                std::any::type_name::<M>()
            );
        }
        messages.remove(0)
    }
}

impl<M> fmt::Debug for Probe<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Probe<{}>", std::any::type_name::<M>())
    }
}

/// The actor behind a probe's mailbox.
struct Recorder<M: Message> {
    log: Arc<Log<M>>,
    reply: Reply<M>,
}

impl<M: Message + Send + 'static> Actor for Recorder<M>
where
    M::Result: Send,
{
    type Context = InlineContext<Self>;
}

impl<M: Message + Send + 'static> Handler<M> for Recorder<M>
where
    M::Result: Send,
{
    type Result = MessageResult<M>;

    fn handle(&mut self, message: M, _: &mut Self::Context) -> Self::Result {
        let answer = (self.reply)(&message);
        self.log.record(message);
        MessageResult(answer)
    }
}

type Station<A> = (A, InlineContext<A>, AddressReceiver<A>);

/// A waker that handles what woke it.
struct Inline<A: Actor<Context = InlineContext<A>>>(Mutex<Station<A>>);

impl<A> Inline<A>
where
    A: Actor<Context = InlineContext<A>> + Send,
{
    fn drain(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let mut task = TaskContext::from_waker(&waker);
        let mut station = self.0.lock();
        let (actor, ctx, receiver) = &mut *station;
        while let Poll::Ready(Some(mut envelope)) = Pin::new(&mut *receiver).poll_next(&mut task) {
            envelope.handle(actor, ctx);
        }
    }
}

impl<A> Wake for Inline<A>
where
    A: Actor<Context = InlineContext<A>> + Send,
{
    fn wake(self: Arc<Self>) {
        self.drain();
    }
}

#[cfg(test)]
mod tests {
    use actix::System;

    use super::*;

    #[derive(Debug, PartialEq, Message)]
    #[rtype(result = "u64")]
    struct Question(u64);

    #[test]
    fn a_mailbox_probe_answers_and_records_without_an_arbiter_of_its_own() {
        let probe = Probe::answering(|q: &Question| q.0 + 1);
        let recipient = probe.recipient();
        let posts = recipient.clone();
        recipient.do_send(Question(1));
        std::thread::spawn(move || posts.do_send(Question(2))).join().unwrap();
        assert_eq!(probe.take(), [Question(1), Question(2)]);
        let answer = System::new().block_on(async move { recipient.send(Question(3)).await });
        assert_eq!(answer.unwrap(), 4);
        assert_eq!(probe.expect_within(Duration::ZERO), Question(3));
    }

    #[test]
    #[should_panic(expected = "no ")]
    fn silence_is_noticed() {
        Probe::<Question>::new().expect_within(Duration::from_millis(1));
    }
}
