//! `iothread`: a thread of its own for what drives have finished. A `virtio-blk-device` with
//! `iothread=` gives requests back to the guest there, beside those of other devices, which share
//! one. It sleeps when there is nothing to do: all that can be said of polling are upper bounds, and
//! none is ever reached. Requests go to the threads of a drive one by one, whatever batch is allowed.

use std::sync::Arc;

use actix::{Arbiter, ArbiterHandle};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use super::ObjectError;
use super::properties::Property;
use crate::threads;

/// QAPI `IothreadProperties`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IoThreadOptions {
    pub id: String,
    pub aio_max_batch: Option<i64>,
    pub thread_pool_min: Option<i64>,
    pub thread_pool_max: Option<i64>,
    pub poll_max_ns: Option<i64>,
    pub poll_grow: Option<i64>,
    pub poll_shrink: Option<i64>,
}

/// How much a thread may do at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoThreadLimits {
    /// Nanoseconds of polling before it sleeps, and what changes them.
    pub poll_max_ns: i64,
    pub poll_grow: i64,
    pub poll_shrink: i64,
    /// Requests handed on at once; 0 leaves it to us.
    pub aio_max_batch: i64,
    /// Threads that carry out the requests of a drive.
    pub thread_pool_min: i64,
    pub thread_pool_max: i64,
}

impl Default for IoThreadLimits {
    fn default() -> Self {
        Self {
            poll_max_ns: 32_768,
            poll_grow: 0,
            poll_shrink: 0,
            aio_max_batch: 0,
            thread_pool_min: 0,
            thread_pool_max: 64,
        }
    }
}

impl TryFrom<&IoThreadOptions> for IoThreadLimits {
    type Error = ObjectError;

    fn try_from(options: &IoThreadOptions) -> Result<Self, ObjectError> {
        let mut limits = Self::default();
        for (name, value) in [
            ("aio-max-batch", options.aio_max_batch),
            ("thread-pool-min", options.thread_pool_min),
            ("thread-pool-max", options.thread_pool_max),
            ("poll-max-ns", options.poll_max_ns),
            ("poll-grow", options.poll_grow),
            ("poll-shrink", options.poll_shrink),
        ] {
            if let Some(value) = value {
                limits.set(name, value)?;
            }
        }
        limits.check_pool()?;
        Ok(limits)
    }
}

impl IoThreadLimits {
    fn fields(&mut self) -> [(&'static str, &mut i64); 6] {
        [
            ("thread-pool-min", &mut self.thread_pool_min),
            ("aio-max-batch", &mut self.aio_max_batch),
            ("thread-pool-max", &mut self.thread_pool_max),
            ("poll-max-ns", &mut self.poll_max_ns),
            ("poll-grow", &mut self.poll_grow),
            ("poll-shrink", &mut self.poll_shrink),
        ]
    }

    fn set(&mut self, name: &str, value: i64) -> Result<(), ObjectError> {
        if value < 0 {
            let sentence = format!("{name} value must be in range [0, {}]", i64::MAX);
            return Err(ObjectError::Refused(sentence));
        }
        if let Some((_, field)) = self.fields().into_iter().find(|(known, _)| *known == name) {
            *field = value;
        }
        Ok(())
    }

    fn check_pool(&self) -> Result<(), ObjectError> {
        let most = i64::from(i32::MAX);
        let (min, max) = (self.thread_pool_min, self.thread_pool_max);
        if min > max || max == 0 || max > most {
            let sentence = "bad thread-pool-min/thread-pool-max values";
            return Err(ObjectError::Refused(sentence.to_owned()));
        }
        Ok(())
    }

    /// The most threads that a drive may have.
    pub fn threads(&self) -> usize {
        usize::try_from(self.thread_pool_max).unwrap_or(usize::MAX)
    }
}

/// The thread, for as long as somebody refers to it.
#[derive(Debug)]
pub struct IoThread {
    arbiter: ArbiterHandle,
    thread_id: u32,
    limits: Mutex<IoThreadLimits>,
}

impl IoThread {
    /// Start it; on a thread of the actix system.
    pub(super) async fn start(id: &str, limits: IoThreadLimits) -> Result<Arc<Self>, ObjectError> {
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
        let (thread_id, limits) = (thread_id.unsigned_abs(), Mutex::new(limits));
        Ok(Arc::new(Self { arbiter, thread_id, limits }))
    }

    /// How much it may do. Drives have as many threads as it says when they begin.
    pub fn limits(&self) -> IoThreadLimits {
        *self.limits.lock()
    }

    /// Give a limit another value. As with QEMU, numbers of threads that are at odds are told, and
    /// stay.
    pub(super) fn set(&self, name: &str, value: &Value) -> Result<(), ObjectError> {
        let wrong = || {
            let sentence = format!("Invalid parameter type for '{name}', expected: integer");
            ObjectError::Refused(sentence)
        };
        let value = value.as_i64().ok_or_else(wrong)?;
        let mut limits = self.limits.lock();
        limits.set(name, value)?;
        match name.starts_with("poll-") {
            true => Ok(()),
            false => limits.check_pool(),
        }
    }

    pub(super) fn properties(&self) -> Vec<Property> {
        let mut limits = self.limits();
        let int = |(name, value): (_, &mut i64)| Property {
            name,
            type_name: "int",
            value: Value::from(*value),
        };
        limits.fields().map(int).into()
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
    pub poll_max_ns: i64,
    pub poll_grow: i64,
    pub poll_shrink: i64,
    pub aio_max_batch: i64,
}

impl IoThreadInfo {
    pub(super) fn of(id: &str, thread: &IoThread) -> Self {
        let IoThreadLimits { poll_max_ns, poll_grow, poll_shrink, aio_max_batch, .. } =
            thread.limits();
        let (id, thread_id) = (id.to_owned(), thread.thread_id.into());
        Self { id, thread_id, poll_max_ns, poll_grow, poll_shrink, aio_max_batch }
    }
}
