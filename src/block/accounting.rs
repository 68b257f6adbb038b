//! What a drive has done and what became of it: the counters behind `query-blockstats`.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::Message;

use super::message::BlockOp;

/// The kinds of request that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Flush,
    Unmap,
}

const KINDS: usize = 4;

/// Device → drive: something happened that the drive's threads did not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum BlockAccount {
    /// The guest has asked for what cannot be done.
    Invalid(Kind),
    /// A failed request has stopped the machine.
    Stopped { no_space: bool },
}

/// QAPI `BlockDeviceIoStatus`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IoStatus {
    #[default]
    Ok,
    Failed,
    Nospace,
}

/// The counters of one kind of request.
#[derive(Debug, Default)]
struct Counter {
    operations: AtomicU64,
    failed: AtomicU64,
    invalid: AtomicU64,
    bytes: AtomicU64,
    /// From the device's request to the answer.
    nanoseconds: AtomicU64,
}

/// The counters of one kind of request, as they were when they were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub operations: u64,
    pub failed: u64,
    pub invalid: u64,
    pub bytes: u64,
    pub nanoseconds: u64,
}

/// What a drive has done, as it was when it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    pub reads: Count,
    pub writes: Count,
    pub flushes: Count,
    pub unmaps: Count,
    /// The end of the highest write, in bytes.
    pub highest_write: u64,
    /// Discards as the image's file has taken them.
    pub discards: Count,
    /// Since the last request; `None` before the first.
    pub idle: Option<Duration>,
    pub io_status: IoStatus,
}

/// The counters; whoever works on the drive adds to them, and nobody waits for anybody.
#[derive(Debug)]
pub struct Accounting {
    kinds: [Counter; KINDS],
    discards: Counter,
    highest_write: AtomicU64,
    origin: Instant,
    /// Nanoseconds after `origin`; zero before the first request.
    last: AtomicU64,
    io_status: AtomicU8,
}

impl Default for Accounting {
    fn default() -> Self {
        Self {
            kinds: Default::default(),
            discards: Counter::default(),
            highest_write: AtomicU64::new(0),
            origin: Instant::now(),
            last: AtomicU64::new(0),
            io_status: AtomicU8::new(IoStatus::Ok as u8),
        }
    }
}

/// A request, as it is counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// `None` where no guest asked.
    kind: Option<Kind>,
    bytes: u64,
    /// Where a write ends.
    end: Option<u64>,
    is_discard: bool,
}

impl Begun {
    /// What carrying out `op` will count as. Writing zeroes is writing, and what the flash writes
    /// back is nobody's request.
    pub(super) fn of(op: &BlockOp) -> Self {
        let (kind, offset, bytes) = match op {
            BlockOp::Read { offset, into } => (Some(Kind::Read), *offset, into.len()),
            BlockOp::Write { offset, from, .. } => (Some(Kind::Write), *offset, from.len()),
            BlockOp::Store { offset, bytes } => (None, *offset, bytes.len() as u64),
            BlockOp::Flush => (Some(Kind::Flush), 0, 0),
            BlockOp::Discard { offset, len } => (Some(Kind::Unmap), *offset, *len),
            BlockOp::WriteZeroes { offset, len, .. } => (Some(Kind::Write), *offset, *len),
        };
        let writes = matches!(kind, None | Some(Kind::Write));
        let end = writes.then(|| offset.saturating_add(bytes));
        Self { kind, bytes, end, is_discard: kind == Some(Kind::Unmap) }
    }
}

impl Counter {
    fn add(&self, bytes: u64, took: u64, succeeded: bool) {
        match succeeded {
            true => {
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                self.operations.fetch_add(1, Ordering::Relaxed);
            }
            false => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.nanoseconds.fetch_add(took, Ordering::Relaxed);
    }

    fn read(&self) -> Count {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Count {
            operations: read(&self.operations),
            failed: read(&self.failed),
            invalid: read(&self.invalid),
            bytes: read(&self.bytes),
            nanoseconds: read(&self.nanoseconds),
        }
    }
}

impl Accounting {
    /// A request has been carried out, or not.
    pub(super) fn done(&self, what: Begun, since: Instant, succeeded: bool) {
        let took = since.elapsed().as_nanos() as u64;
        if let Some(kind) = what.kind {
            self.kinds[kind as usize].add(what.bytes, took, succeeded);
            self.touch();
        }
        if what.is_discard {
            self.discards.add(what.bytes, took, succeeded);
        }
        if let Some(end) = what.end.filter(|_| succeeded) {
            self.highest_write.fetch_max(end, Ordering::Relaxed);
        }
    }

    fn touch(&self) {
        let now = self.origin.elapsed().as_nanos() as u64;
        self.last.fetch_max(now.max(1), Ordering::Relaxed);
    }

    /// What the device tells.
    pub(super) fn told(&self, what: BlockAccount) {
        match what {
            BlockAccount::Invalid(kind) => {
                self.kinds[kind as usize].invalid.fetch_add(1, Ordering::Relaxed);
                self.touch();
            }
            BlockAccount::Stopped { no_space } => {
                let status = if no_space { IoStatus::Nospace } else { IoStatus::Failed };
                // The first reason stands until the machine goes on.
                let ok = IoStatus::Ok as u8;
                let _ = self.io_status.compare_exchange(
                    ok,
                    status as u8,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        }
    }

    /// The machine goes on.
    pub(super) fn resumed(&self) {
        self.io_status.store(IoStatus::Ok as u8, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Statistics {
        let last = self.last.load(Ordering::Relaxed);
        let kind = |kind: Kind| self.kinds[kind as usize].read();
        let status = self.io_status.load(Ordering::Relaxed);
        let known = [IoStatus::Failed, IoStatus::Nospace];
        let io_status = known.into_iter().find(|known| *known as u8 == status);
        Statistics {
            reads: kind(Kind::Read),
            writes: kind(Kind::Write),
            flushes: kind(Kind::Flush),
            unmaps: kind(Kind::Unmap),
            highest_write: self.highest_write.load(Ordering::Relaxed),
            discards: self.discards.read(),
            idle: (last > 0)
                .then(|| self.origin.elapsed().saturating_sub(Duration::from_nanos(last))),
            io_status: io_status.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_apart() {
        let accounting = Accounting::default();
        assert_eq!(accounting.read(), Statistics::default());
        let count = |op: &BlockOp, succeeded| {
            accounting.done(Begun::of(op), Instant::now(), succeeded);
        };
        count(&BlockOp::WriteZeroes { offset: 512, len: 1024, may_unmap: false }, true);
        count(&BlockOp::WriteZeroes { offset: 1 << 20, len: 1024, may_unmap: false }, false);
        count(&BlockOp::Store { offset: 4096, bytes: vec![1, 2] }, true);
        count(&BlockOp::Flush, true);
        count(&BlockOp::Discard { offset: 0, len: 8192 }, true);
        accounting.told(BlockAccount::Invalid(Kind::Read));
        let seen = accounting.read();
        let writes = (seen.writes.operations, seen.writes.failed, seen.writes.bytes);
        assert_eq!(writes, (1, 1, 1024));
        assert_eq!((seen.reads.operations, seen.reads.invalid), (0, 1));
        assert_eq!((seen.flushes.operations, seen.flushes.bytes), (1, 0));
        assert_eq!((seen.unmaps.bytes, seen.discards.bytes), (8192, 8192));
        assert_eq!(seen.highest_write, 4098, "of what succeeded");
        assert!(seen.idle.is_some());
    }

    #[test]
    fn the_first_reason_of_a_stop_stands_until_the_machine_goes_on() {
        let accounting = Accounting::default();
        accounting.told(BlockAccount::Stopped { no_space: true });
        accounting.told(BlockAccount::Stopped { no_space: false });
        assert_eq!(accounting.read().io_status, IoStatus::Nospace);
        accounting.resumed();
        assert_eq!(accounting.read().io_status, IoStatus::Ok);
        accounting.told(BlockAccount::Stopped { no_space: false });
        assert_eq!(accounting.read().io_status, IoStatus::Failed);
    }
}
