//! `iothread`: a thread of its own for what drives have finished. A `virtio-blk-device` with
//! `iothread=` gives requests back to the guest there, beside those of other devices, which share
//! one. It sleeps when there is nothing to do; it never polls.

use std::sync::Arc;

use actix::{Arbiter, ArbiterHandle};
use serde::Serialize;
use tokio::sync::oneshot;

use super::ObjectError;
use crate::threads;

/// The thread, for as long as somebody refers to it.
#[derive(Debug)]
pub struct IoThread {
    arbiter: ArbiterHandle,
    thread_id: u32,
}

impl IoThread {
    /// Start it; on a thread of the actix system.
    pub(super) async fn start(id: &str) -> Result<Arc<Self>, ObjectError> {
        let refused = || ObjectError::Refused(format!("iothread '{id}': cannot start a thread"));
        // It panics when the host has no thread to give.
        let arbiter = std::panic::catch_unwind(Arbiter::new).map_err(|_| refused())?.handle();
        let name = format!("IO {id}");
        let (sender, answer) = oneshot::channel();
        arbiter.spawn_fn(move || {
            threads::rename(&name);
            // Nobody waits only if the request was given up.
            let _ = sender.send(rustix::thread::gettid().as_raw_nonzero().get());
        });
        let thread_id = answer.await.map_err(|_| refused())?;
        Ok(Arc::new(Self { arbiter, thread_id: thread_id.unsigned_abs() }))
    }

    /// Where its work is spawned.
    pub fn arbiter(&self) -> &ArbiterHandle {
        &self.arbiter
    }

    /// The host's number of the thread.
    pub fn thread_id(&self) -> u32 {
        self.thread_id
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.arbiter.stop();
    }
}

/// QAPI `IOThreadInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IoThreadInfo {
    pub id: String,
    pub thread_id: i64,
    /// No polling.
    pub poll_max_ns: i64,
    pub poll_grow: i64,
    pub poll_shrink: i64,
    /// No bound of its own.
    pub aio_max_batch: i64,
}

impl IoThreadInfo {
    pub(super) fn of(id: &str, thread: &IoThread) -> Self {
        Self {
            id: id.to_owned(),
            thread_id: thread.thread_id.into(),
            poll_max_ns: 0,
            poll_grow: 0,
            poll_shrink: 0,
            aio_max_batch: 0,
        }
    }
}
