//! The threads that do a drive's I/O. Requests wait in one queue; a doorbell wakes a thread only
//! when none works, and a thread that leaves work behind wakes the next one itself, so that a
//! guest's doorbell is cheap while the drive is busy.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::accounting::{Accounting, Begun};
use super::image::{Bounce, RawImage};
use super::message::{BlockDone, BlockRequest, IoFailed};
use crate::actors::context::panic_reason;
use crate::actors::message::ActorFailed;
use crate::actors::outlet::Outlet;
use crate::threads;

/// Threads a drive has at most, unless told otherwise.
pub(super) const THREADS_MAX: usize = 4;

#[derive(Default)]
struct State {
    /// With the moment of their arrival.
    waiting: VecDeque<(BlockRequest, Instant)>,
    /// Requests being carried out.
    running: usize,
    /// Threads that wait for work.
    idle: usize,
    threads: usize,
    most_threads: usize,
    /// Requests wait until `resume`.
    held: bool,
    /// Who is told when nothing is waiting and nothing runs.
    drains: Vec<oneshot::Sender<()>>,
    closing: bool,
}

impl State {
    fn settle(&mut self) {
        if !self.drains.is_empty() && self.waiting.is_empty() && self.running == 0 {
            self.held = true;
            for asker in self.drains.drain(..) {
                // An asker that is gone needs no answer.
                let _ = asker.send(());
            }
        }
    }
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    image: RawImage,
    accounting: Arc<Accounting>,
    failure: Outlet<ActorFailed>,
}

/// A drive's threads. They end when it is dropped and the work is done.
pub(super) struct Workers(Arc<Shared>);

/// The way to a drive's threads.
#[derive(Clone)]
pub(super) struct WorkQueue(Arc<Shared>);

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({})", self.0.image.path().display())
    }
}

impl Workers {
    /// Start the first thread.
    pub(super) fn start(
        image: RawImage,
        failure: Outlet<ActorFailed>,
        most_threads: usize,
    ) -> io::Result<Self> {
        let state = Mutex::new(State { threads: 1, most_threads, ..State::default() });
        let shared = Arc::new(Shared {
            state,
            work: Condvar::new(),
            image,
            accounting: Arc::default(),
            failure,
        });
        spawn(&shared)?;
        Ok(Self(shared))
    }

    pub(super) fn queue(&self) -> WorkQueue {
        WorkQueue(Arc::clone(&self.0))
    }

    /// What is counted.
    pub(super) fn accounting(&self) -> &Arc<Accounting> {
        &self.0.accounting
    }

    /// Answered when every request so far is finished; later ones wait for `resume`.
    pub(super) fn drain(&self) -> oneshot::Receiver<()> {
        let (asker, answer) = oneshot::channel();
        let mut state = self.0.state.lock();
        state.drains.push(asker);
        state.settle();
        answer
    }

    /// The image, to be handed to somebody else or taken back; nothing may be in flight.
    pub(super) fn with_image<T: Send + 'static>(
        &self,
        change: impl FnOnce(&RawImage) -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let shared = Arc::clone(&self.0);
        async move { tokio::task::spawn_blocking(move || change(&shared.image)).await.ok() }
    }

    /// Take work again.
    pub(super) fn resume(&self) {
        self.0.accounting.resumed();
        self.0.state.lock().held = false;
        self.0.work.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closing = true;
        state.held = false;
        self.0.work.notify_all();
    }
}

impl WorkQueue {
    pub(super) fn submit(&self, request: BlockRequest) {
        let mut state = self.0.state.lock();
        if state.closing {
            drop(state);
            let gone = Err(IoFailed(Errno::NODEV.raw_os_error()));
            request.done.send(BlockDone { tag: request.tag, result: gone });
            return;
        }
        state.waiting.push_back((request, Instant::now()));
        if state.running == 0 && !state.held {
            self.0.work.notify_one();
        }
    }
}

fn spawn(shared: &Arc<Shared>) -> io::Result<()> {
    let worker = Arc::clone(shared);
    threads::named("block").spawn(move || serve(&worker)).map(drop)
}

fn serve(shared: &Arc<Shared>) {
    let mut bounce = Bounce::new();
    let mut state = shared.state.lock();
    loop {
        let Some((request, since)) = (if state.held { None } else { state.waiting.pop_front() })
        else {
            if state.closing {
                return;
            }
            state.idle += 1;
            shared.work.wait(&mut state);
            state.idle -= 1;
            continue;
        };
        state.running += 1;
        if !state.waiting.is_empty() {
            if state.idle > 0 {
                shared.work.notify_one();
            } else if state.threads < state.most_threads && spawn(shared).is_ok() {
                state.threads += 1;
            }
        }
        drop(state);
        let begun = Begun::of(&request.op);
        let run = AssertUnwindSafe(|| shared.image.run(&request.op, &mut bounce));
        let result = catch_unwind(run).unwrap_or_else(|payload| {
            let name = shared.image.path().display().to_string().into();
            let reason = panic_reason(&*payload);
            shared.failure.send(ActorFailed { name, reason });
            Err(IoFailed(Errno::IO.raw_os_error()))
        });
        shared.accounting.done(begun, since, result.is_ok());
        request.done.send(BlockDone { tag: request.tag, result });
        state = shared.state.lock();
        state.running -= 1;
        state.settle();
    }
}
