//! Pending interrupts of a hart and the kick that makes it look: the fold behind every interrupt
//! outlet that ends at a hart.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::Thread;

/// Bits of `mip`/`mie` (Privileged spec 3.1.9).
pub const SSIP: u64 = 1 << 1;
pub const MSIP: u64 = 1 << 3;
pub const STIP: u64 = 1 << 5;
pub const MTIP: u64 = 1 << 7;
pub const SEIP: u64 = 1 << 9;
pub const MEIP: u64 = 1 << 11;
pub const LCOFIP: u64 = 1 << 13;

/// Shared between a hart's thread and everything that interrupts it. Translated code finds the
/// pending bits beside the exit flag.
#[repr(C)]
#[derive(Debug, Default)]
pub struct HartIrq {
    /// Polled by translated code at back edges and indirect jumps: non-zero asks for a return to
    /// the run loop.
    exit: AtomicU32,
    /// `mip` bits driven by wires: MSIP, MTIP, MEIP, SEIP, and STIP under Sstc.
    lines: AtomicU64,
    /// `mip` bits that software set: SSIP, STIP, SEIP, LCOFIP.
    soft: AtomicU64,
    /// `stimecmp`, or what it is compared with, is to be looked at.
    time_moved: AtomicBool,
    thread: OnceLock<Thread>,
}

impl HartIrq {
    /// Offsets from `exit_flag` of the two halves of `pending`.
    pub const LINES_OFFSET: usize = std::mem::offset_of!(Self, lines);
    pub const SOFT_OFFSET: usize = std::mem::offset_of!(Self, soft);

    /// The value `mip` reads as.
    pub fn pending(&self) -> u64 {
        self.lines.load(Ordering::Acquire) | self.soft.load(Ordering::Acquire)
    }

    /// The software-written part alone (a CSR read-modify-write of `mip` must not turn a wire's
    /// SEIP into a software one, Privileged spec 3.1.9).
    pub fn soft(&self) -> u64 {
        self.soft.load(Ordering::Acquire)
    }

    /// Drive wire bits; kicks the hart on 0 → 1.
    pub fn set_lines(&self, mask: u64, level: bool) {
        if level {
            let old = self.lines.fetch_or(mask, Ordering::AcqRel);
            if old & mask != mask {
                self.kick();
            }
        } else {
            self.lines.fetch_and(!mask, Ordering::AcqRel);
        }
    }

    /// Set or clear software-written bits; kicks the hart on 0 → 1.
    pub fn set_soft(&self, mask: u64, level: bool) {
        if level {
            let old = self.soft.fetch_or(mask, Ordering::AcqRel);
            if old & mask != mask {
                self.kick();
            }
        } else {
            self.soft.fetch_and(!mask, Ordering::AcqRel);
        }
    }

    /// Make the hart leave translated code, or `wfi`, and look at its mailbox and interrupts.
    pub fn kick(&self) {
        self.exit.store(1, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The deadline that this hart armed has come, or `time` was set: make it look.
    pub fn time_moved(&self) {
        self.time_moved.store(true, Ordering::Release);
        self.kick();
    }

    /// True once after `time_moved`.
    pub fn take_time_moved(&self) -> bool {
        self.time_moved.load(Ordering::Relaxed) && self.time_moved.swap(false, Ordering::AcqRel)
    }

    /// Make a running hart look at its inbox soon; a sleeping one is left asleep.
    pub fn request_exit(&self) {
        self.exit.store(1, Ordering::SeqCst);
    }

    /// The flag that translated code polls.
    pub fn exit_flag(&self) -> &AtomicU32 {
        &self.exit
    }

    /// True when the hart is asked to look.
    pub fn is_kicked(&self) -> bool {
        self.exit.load(Ordering::Relaxed) != 0
    }

    /// Take the kick; the hart then looks at everything that may have caused it.
    pub fn take_kick(&self) -> bool {
        self.exit.load(Ordering::Relaxed) != 0 && self.exit.swap(0, Ordering::SeqCst) != 0
    }

    /// Name the thread that runs this hart (once, by that thread).
    pub fn attach_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// Power-on state.
    pub fn reset(&self) {
        self.soft.store(0, Ordering::Release);
    }
}
