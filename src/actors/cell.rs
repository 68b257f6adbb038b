//! `DeviceCell<A>`: an actor, its context and its mailbox under one mutex.
//!
//! A vCPU's access is [`DeviceCell::call`]: the typed handler, run at once on the caller's thread.
//! Posts from elsewhere go through the actor's real mailbox, which a pump on an arbiter drains
//! under the same lock, one envelope a lock hold, so that a vCPU never waits for a backlog.
//!
//! Handlers only send to outlets, and only the bus calls cells, so cell locks never nest.
//!
//! A handler that panics kills its actor: the mailbox closes, the failure outlet is told, every
//! later call is refused with `MmioFault::Dead`.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll, Waker};

use actix::dev::channel::{AddressReceiver, channel};
use actix::dev::{EnvelopeProxy as _, ToEnvelope};
use actix::{Actor, Addr, Arbiter, ArbiterHandle, Handler, Message, Recipient};
use futures_core::Stream as _;
use parking_lot::Mutex;

use super::context::{InlineContext, panic_reason};
use super::message::{ActorFailed, MmioFault, MmioRead, MmioWrite};
use super::outlet::Outlet;
use crate::devices::bus::MmioTarget;

/// Slots that all senders share beyond the one that each has; `do_send` ignores the limit,
/// `send().await` waits for room.
const MAILBOX_CAPACITY: usize = 64;

/// Envelopes that the pump handles before it lets other tasks of its arbiter run.
const PUMP_BATCH: usize = 64;

/// The actor behind the cell has died or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device has failed")]
pub struct Dead;

impl From<Dead> for MmioFault {
    fn from(Dead: Dead) -> Self {
        Self::Dead
    }
}

/// What the mutex guards.
struct Contents<A: Actor> {
    actor: A,
    ctx: InlineContext<A>,
    /// `None` once the actor is dead: senders see a closed mailbox.
    mailbox: Option<AddressReceiver<A>>,
    /// Wakes the pump.
    waker: Waker,
}

struct Inner<A: Actor> {
    contents: Mutex<Contents<A>>,
    name: Arc<str>,
    failure: Outlet<ActorFailed>,
}

/// A device's actor as the bus holds it. Clones share the actor.
pub struct DeviceCell<A: Actor>(Arc<Inner<A>>);

impl<A> DeviceCell<A>
where
    A: Actor<Context = InlineContext<A>> + Send,
{
    /// A cell with no pump: posts wait until `drain`. For tests without an arbiter, and for
    /// devices to which nobody posts but life-cycle messages that the owner drains.
    pub fn new(mut actor: A, name: impl Into<Arc<str>>, failure: Outlet<ActorFailed>) -> Self {
        let (sender, mailbox) = channel(MAILBOX_CAPACITY);
        let mut ctx = InlineContext::new(sender);
        actor.started(&mut ctx);
        Self(Arc::new(Inner {
            contents: Mutex::new(Contents {
                actor,
                ctx,
                mailbox: Some(mailbox),
                waker: Waker::noop().clone(),
            }),
            name: name.into(),
            failure,
        }))
    }

    /// A cell whose mailbox is drained on the current thread's arbiter.
    pub fn spawn(actor: A, name: impl Into<Arc<str>>, failure: Outlet<ActorFailed>) -> Self {
        Self::spawn_on(&Arbiter::current(), actor, name, failure)
    }

    /// A cell whose mailbox is drained on `arbiter`.
    pub fn spawn_on(
        arbiter: &ArbiterHandle,
        actor: A,
        name: impl Into<Arc<str>>,
        failure: Outlet<ActorFailed>,
    ) -> Self {
        let cell = Self::new(actor, name, failure);
        // The pump ends with the cell: the context's own address is a sender, and the drop of the
        // last sender wakes the receiver's task.
        let weak = Arc::downgrade(&cell.0);
        let pump = std::future::poll_fn(move |task| pump(&weak, task));
        if !arbiter.spawn(pump) {
            cell.0.kill(&mut cell.0.contents.lock());
            cell.0.report("the arbiter of its mailbox has stopped".to_owned());
        }
        cell
    }

    /// Run the handler of `message` now, on this thread.
    pub fn call<M>(&self, message: M) -> Result<M::Result, Dead>
    where
        M: Message,
        A: Handler<M, Result = M::Result>,
        M::Result: actix::dev::MessageResponse<A, M>,
    {
        let mut contents = self.0.contents.lock();
        let Contents { actor, ctx, mailbox, .. } = &mut *contents;
        if mailbox.is_none() {
            return Err(Dead);
        }
        match catch_unwind(AssertUnwindSafe(|| actor.handle(message, ctx))) {
            Ok(answer) => {
                if ctx.stopped() {
                    self.0.kill(&mut contents);
                }
                Ok(answer)
            }
            Err(payload) => {
                self.0.kill(&mut contents);
                drop(contents);
                self.0.report(panic_reason(&*payload));
                Err(Dead)
            }
        }
    }

    /// Handle on this thread everything that is in the mailbox now.
    pub fn drain(&self) {
        while let Poll::Ready(true) = self.0.handle_next(None) {}
    }

    /// The actor's address.
    pub fn addr(&self) -> Addr<A> {
        self.0.contents.lock().ctx.address()
    }

    /// The actor's address for one kind of message.
    pub fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        self.addr().recipient()
    }

    /// The name under which a failure is reported.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

impl<A> Inner<A>
where
    A: Actor<Context = InlineContext<A>> + Send,
{
    /// Close the mailbox; askers whose requests were queued get `MailboxError::Closed`.
    fn kill(&self, contents: &mut Contents<A>) {
        contents.mailbox = None;
    }

    fn report(&self, reason: String) {
        self.failure.send(ActorFailed { name: Arc::clone(&self.name), reason });
    }

    /// Handle one envelope under the lock. `Ready(false)`: the mailbox is closed; `Pending`: it is
    /// empty, and the pump's waker is registered.
    fn handle_next(&self, pump: Option<&Waker>) -> Poll<bool> {
        let mut contents = self.contents.lock();
        let Contents { actor, ctx, mailbox, waker } = &mut *contents;
        if let Some(pump) = pump {
            waker.clone_from(pump);
        }
        let Some(mailbox) = mailbox else { return Poll::Ready(false) };
        let mut envelope = match Pin::new(mailbox).poll_next(&mut TaskContext::from_waker(waker)) {
            Poll::Ready(Some(envelope)) => envelope,
            Poll::Ready(None) => return Poll::Ready(false),
            Poll::Pending => return Poll::Pending,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| envelope.handle(actor, ctx)));
        if outcome.is_err() || ctx.stopped() {
            self.kill(&mut contents);
        }
        drop(contents);
        if let Err(payload) = outcome {
            self.report(panic_reason(&*payload));
        }
        Poll::Ready(true)
    }
}

/// One poll of the pump's task.
fn pump<A>(cell: &Weak<Inner<A>>, task: &mut TaskContext<'_>) -> Poll<()>
where
    A: Actor<Context = InlineContext<A>> + Send,
{
    let Some(cell) = cell.upgrade() else { return Poll::Ready(()) };
    for _ in 0..PUMP_BATCH {
        match cell.handle_next(Some(task.waker())) {
            Poll::Ready(true) => {}
            Poll::Ready(false) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
    task.waker().wake_by_ref();
    Poll::Pending
}

impl<A> MmioTarget for DeviceCell<A>
where
    A: Actor<Context = InlineContext<A>>
        + Send
        + Handler<MmioRead, Result = Result<u64, MmioFault>>
        + Handler<MmioWrite, Result = Result<(), MmioFault>>,
{
    fn read(&self, offset: u64, width: u8) -> Result<u64, MmioFault> {
        self.call(MmioRead { offset, width })?
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<(), MmioFault> {
        self.call(MmioWrite { offset, width, value })?
    }
}

impl<A: Actor> Clone for DeviceCell<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Actor> fmt::Debug for DeviceCell<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceCell({})", self.0.name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix::{MailboxError, System};

    use super::*;
    use crate::actors::message::{IrqLevel, Reset};
    use crate::actors::probe::Probe;

    /// Counts resets; a read at offset 1 panics; a write raises its interrupt.
    struct Counter {
        resets: u64,
        irq: Outlet<IrqLevel>,
    }

    impl Actor for Counter {
        type Context = InlineContext<Self>;
    }

    impl Handler<Reset> for Counter {
        type Result = ();

        fn handle(&mut self, _: Reset, _: &mut Self::Context) {
            self.resets += 1;
        }
    }

    impl Handler<MmioRead> for Counter {
        type Result = Result<u64, MmioFault>;

        fn handle(&mut self, read: MmioRead, _: &mut Self::Context) -> Self::Result {
            assert_ne!(read.offset, 1, "offset one");
            Ok(self.resets)
        }
    }

    impl Handler<MmioWrite> for Counter {
        type Result = Result<(), MmioFault>;

        fn handle(&mut self, write: MmioWrite, ctx: &mut Self::Context) -> Self::Result {
            self.irq.send(IrqLevel { line: 7, level: write.value != 0 });
            ctx.address().do_send(Reset);
            Ok(())
        }
    }

    fn counter(irq: &Probe<IrqLevel>, failure: &Probe<ActorFailed>) -> DeviceCell<Counter> {
        DeviceCell::new(Counter { resets: 0, irq: irq.outlet() }, "counter", failure.outlet())
    }

    #[test]
    fn call_runs_the_handler_and_posts_wait_in_the_mailbox() {
        let (irq, failure) = (Probe::new(), Probe::new());
        let cell = counter(&irq, &failure);
        assert_eq!(cell.write(0, 4, 1), Ok(()));
        assert_eq!(irq.take(), [IrqLevel { line: 7, level: true }]);
        assert_eq!(cell.read(0, 4), Ok(0));
        cell.drain();
        assert_eq!(cell.read(0, 4), Ok(1));
    }

    #[test]
    fn a_panic_in_a_call_kills_the_cell_and_is_reported() {
        let (irq, failure) = (Probe::new(), Probe::new());
        let cell = counter(&irq, &failure);
        let addr = cell.addr();
        assert_eq!(cell.read(1, 4), Err(MmioFault::Dead));
        let reports = failure.take();
        assert_eq!(reports.len(), 1);
        assert_eq!(&*reports[0].name, "counter");
        assert!(reports[0].reason.contains("offset one"), "{}", reports[0].reason);
        assert_eq!(cell.read(0, 4), Err(MmioFault::Dead));
        assert!(!addr.connected());
        assert!(!Outlet::from(cell.recipient::<Reset>()).send(Reset));
        assert!(failure.take().is_empty());
    }

    #[test]
    fn the_pump_answers_requests_and_survives_nothing_it_should_not() {
        System::new().block_on(async {
            let (irq, failure) = (Probe::new(), Probe::new());
            let cell = DeviceCell::spawn(
                Counter { resets: 0, irq: irq.outlet() },
                "counter",
                failure.outlet(),
            );
            for _ in 0..3 * PUMP_BATCH {
                cell.recipient::<Reset>().do_send(Reset);
            }
            let read = cell.recipient::<MmioRead>();
            assert_eq!(
                read.send(MmioRead { offset: 0, width: 4 }).await.unwrap(),
                Ok(3 * PUMP_BATCH as u64)
            );
            let answer = read.send(MmioRead { offset: 1, width: 4 }).await;
            assert_eq!(answer.unwrap_err(), MailboxError::Closed);
            failure.expect_within(Duration::from_secs(5));
            assert_eq!(cell.read(0, 4), Err(MmioFault::Dead));
        });
    }
}
