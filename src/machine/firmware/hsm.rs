//! Hart states (SBI 2.0 chapter 9): who runs, and where a stopped hart is to start. Shared by all
//! harts; every change is one atomic step.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use super::SbiError;

/// Hart state numbers of table 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HartStatus {
    Started = 0,
    Stopped = 1,
    StartPending = 2,
    StopPending = 3,
    Suspended = 4,
    SuspendPending = 5,
    ResumePending = 6,
}

impl HartStatus {
    fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Started,
            2 => Self::StartPending,
            4 => Self::Suspended,
            _ => Self::Stopped,
        }
    }
}

#[derive(Debug)]
struct HartSlot {
    status: AtomicU8,
    /// Start address and `a1`, while `StartPending`.
    start: Mutex<(u64, u64)>,
}

/// The states of all harts.
#[derive(Debug)]
pub struct Hsm {
    harts: Vec<HartSlot>,
}

impl Hsm {
    /// `harts` harts, all stopped.
    pub fn new(harts: usize) -> Self {
        let slot = || HartSlot {
            status: AtomicU8::new(HartStatus::Stopped as u8),
            start: Mutex::new((0, 0)),
        };
        Self { harts: std::iter::repeat_with(slot).take(harts).collect() }
    }

    fn slot(&self, hart: u64) -> Option<&HartSlot> {
        self.harts.get(usize::try_from(hart).ok()?)
    }

    /// The state of a hart; `None` when there is no such hart.
    pub fn status(&self, hart: u64) -> Option<HartStatus> {
        Some(HartStatus::from_raw(self.slot(hart)?.status.load(Ordering::Acquire)))
    }

    /// Ask for a stopped hart to start at `addr` with `a1 = opaque`. The caller then wakes it.
    pub fn request_start(&self, hart: u64, addr: u64, opaque: u64) -> Result<(), SbiError> {
        let slot = self.slot(hart).ok_or(SbiError::InvalidParam)?;
        // The lock is held over the change of state, so that of two callers only the one that
        // wins leaves its address.
        let mut start = slot.start.lock().unwrap_or_else(|e| e.into_inner());
        slot.status
            .compare_exchange(
                HartStatus::Stopped as u8,
                HartStatus::StartPending as u8,
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .map_err(|_| SbiError::AlreadyAvailable)?;
        *start = (addr, opaque);
        Ok(())
    }

    /// Called by a stopped hart: the address and `a1` to start with, once it is to start.
    pub fn take_start(&self, hart: u64) -> Option<(u64, u64)> {
        let slot = self.slot(hart)?;
        let start = *slot.start.lock().unwrap_or_else(|e| e.into_inner());
        slot.status
            .compare_exchange(
                HartStatus::StartPending as u8,
                HartStatus::Started as u8,
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .ok()
            .map(|_| start)
    }

    fn set(&self, hart: u64, status: HartStatus) {
        if let Some(slot) = self.slot(hart) {
            slot.status.store(status as u8, Ordering::Release);
        }
    }

    /// A hart's state number, and where it is to start, for a migration.
    pub fn saved(&self, hart: u64) -> (u8, (u64, u64)) {
        let Some(slot) = self.slot(hart) else { return (HartStatus::Stopped as u8, (0, 0)) };
        let start = *slot.start.lock().unwrap_or_else(|e| e.into_inner());
        (slot.status.load(Ordering::Acquire), start)
    }

    /// Be as `saved` said; an unknown state number is that of a stopped hart.
    pub fn restore(&self, hart: u64, status: u8, start: (u64, u64)) {
        if let Some(slot) = self.slot(hart) {
            *slot.start.lock().unwrap_or_else(|e| e.into_inner()) = start;
            self.set(hart, HartStatus::from_raw(status));
        }
    }

    /// The calling hart stops.
    pub fn stop(&self, hart: u64) {
        self.set(hart, HartStatus::Stopped);
    }

    /// The calling hart enters a suspended state.
    pub fn suspend(&self, hart: u64) {
        self.set(hart, HartStatus::Suspended);
    }

    /// The calling hart leaves a suspended state.
    pub fn resumed(&self, hart: u64) {
        self.set(hart, HartStatus::Started);
    }

    /// Machine reset: every hart stopped but the boot hart, which is started.
    pub fn reset(&self, boot_hart: u64) {
        for hart in 0..self.harts.len() as u64 {
            self.set(
                hart,
                if hart == boot_hart { HartStatus::Started } else { HartStatus::Stopped },
            );
        }
    }
}
