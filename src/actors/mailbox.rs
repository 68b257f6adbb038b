//! `ThreadMailbox<A>`: the mailbox of an actor that owns a thread and polls it when it suits that
//! thread, such as a vCPU between slices of guest execution. The mailbox's waker is the kick.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use actix::dev::EnvelopeProxy as _;
use actix::dev::channel::{AddressReceiver, channel};
use actix::{Actor, ActorContext as _, Addr};
use futures_core::Stream as _;

use super::context::InlineContext;

const MAILBOX_CAPACITY: usize = 64;

/// What a sender runs after it queued a message in an empty mailbox.
struct Kick {
    wake: Arc<dyn Fn() + Send + Sync>,
    /// Set by the waker, taken by `drain`.
    pending: AtomicBool,
    /// The thread that waits, from its first `wait` on.
    waiter: OnceLock<Thread>,
}

impl Wake for Kick {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.pending.store(true, Ordering::SeqCst);
        (self.wake)();
        if let Some(thread) = self.waiter.get() {
            thread.unpark();
        }
    }
}

/// A mailbox polled by the thread that owns the actor.
pub struct ThreadMailbox<A: Actor> {
    receiver: AddressReceiver<A>,
    kick: Arc<Kick>,
    waker: Waker,
}

impl<A: Actor> ThreadMailbox<A> {
    /// A mailbox and the address that feeds it. `wake` runs on the sender's thread when a message
    /// arrives that the owner does not know of yet; it must not block (e.g. `HartIrq::kick`).
    pub fn new(wake: Arc<dyn Fn() + Send + Sync>) -> (Addr<A>, Self) {
        let (sender, receiver) = channel(MAILBOX_CAPACITY);
        // Pending from the start: the first `drain` registers the waker.
        let kick = Arc::new(Kick { wake, pending: AtomicBool::new(true), waiter: OnceLock::new() });
        let waker = Waker::from(Arc::clone(&kick));
        (Addr::new(sender), Self { receiver, kick, waker })
    }

    /// True when `drain` may have something to do: one atomic load.
    pub fn pending(&self) -> bool {
        self.kick.pending.load(Ordering::Acquire)
    }

    /// Handle every message that is queued; false once the actor has stopped. A panic of a
    /// handler unwinds to the caller, whose thread is the actor.
    pub fn drain(&mut self, actor: &mut A, ctx: &mut A::Context) -> bool {
        self.kick.pending.store(false, Ordering::SeqCst);
        let mut task = TaskContext::from_waker(&self.waker);
        loop {
            if !ctx.state().alive() {
                return false;
            }
            match Pin::new(&mut self.receiver).poll_next(&mut task) {
                Poll::Ready(Some(mut envelope)) => envelope.handle(actor, ctx),
                Poll::Ready(None) => return false,
                Poll::Pending => return true,
            }
        }
    }

    /// Park this thread until a message arrives, somebody unparks the thread, or `timeout` is
    /// over. Returns at once when a message came since the last `drain`; may return early.
    pub fn wait(&mut self, timeout: Option<Duration>) {
        self.kick.waiter.get_or_init(std::thread::current);
        if self.pending() {
            return;
        }
        match timeout {
            Some(timeout) => std::thread::park_timeout(timeout),
            None => std::thread::park(),
        }
    }
}

impl<A: Actor<Context = InlineContext<A>>> ThreadMailbox<A> {
    /// A context for the actor of this mailbox.
    pub fn context(&self) -> InlineContext<A> {
        InlineContext::new(self.receiver.sender())
    }
}

impl<A: Actor> fmt::Debug for ThreadMailbox<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadMailbox(pending: {})", self.pending())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use actix::{Handler, Message, System};

    use super::*;

    struct Adder(u64);

    #[derive(Message)]
    #[rtype(result = "u64")]
    struct Add(u64);

    impl Actor for Adder {
        type Context = InlineContext<Self>;
    }

    impl Handler<Add> for Adder {
        type Result = u64;

        fn handle(&mut self, Add(n): Add, ctx: &mut Self::Context) -> u64 {
            self.0 += n;
            if n == 0 {
                actix::ActorContext::stop(ctx);
            }
            self.0
        }
    }

    #[test]
    fn a_thread_answers_requests_and_stops_when_told() {
        let (addr, mut mailbox) = ThreadMailbox::<Adder>::new(Arc::new(|| ()));
        let thread = std::thread::spawn(move || {
            let mut ctx = mailbox.context();
            let mut actor = Adder(0);
            while mailbox.drain(&mut actor, &mut ctx) {
                mailbox.wait(None);
            }
            actor.0
        });
        System::new().block_on(async {
            for i in 1..=100 {
                assert_eq!(addr.send(Add(1)).await.unwrap(), i);
            }
            assert_eq!(addr.send(Add(0)).await.unwrap(), 100);
        });
        assert_eq!(thread.join().unwrap(), 100);
        assert!(!addr.connected());
    }

    #[test]
    fn one_kick_until_the_mailbox_is_drained() {
        let kicks = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&kicks);
        let (addr, mut mailbox) = ThreadMailbox::<Adder>::new(Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let (mut actor, mut ctx) = (Adder(0), mailbox.context());
        assert!(mailbox.drain(&mut actor, &mut ctx));
        assert!(!mailbox.pending());
        addr.do_send(Add(1));
        addr.do_send(Add(1));
        assert_eq!(kicks.load(Ordering::SeqCst), 1);
        assert!(mailbox.pending());
        assert!(mailbox.drain(&mut actor, &mut ctx));
        assert_eq!(actor.0, 2);
        addr.do_send(Add(1));
        assert_eq!(kicks.load(Ordering::SeqCst), 2);
    }
}
