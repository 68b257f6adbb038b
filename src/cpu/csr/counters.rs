//! `mcycle`, `minstret`, `mhpmcounterN`, their user-mode views, and `time` (Privileged spec
//! 3.1.10–3.1.12). As in QEMU without `-icount`, cycles and retired instructions are host time: one
//! a nanosecond of virtual time.

use super::bits::MENVCFG_STCE;
use crate::cpu::hart::Hart;
use crate::cpu::irq::{LCOFIP, STIP};
use crate::cpu::state::{HPM_COUNTERS, Privilege};

/// `mcountinhibit`/`mcounteren` bits of the three fixed counters.
pub(super) const CY: u64 = 1 << 0;
pub(super) const TM: u64 = 1 << 1;
pub(super) const IR: u64 = 1 << 2;

/// Events of `mhpmevent` that count: QEMU's numbers for cycles and instructions.
const EVENT_CYCLES: u64 = 1;
const EVENT_INSTRUCTIONS: u64 = 2;
const EVENT_MASK: u64 = (1 << 56) - 1;

/// `mhpmevent` bits of Sscofpmf: overflow seen, and do not count in M, S, U.
const OF: u64 = 1 << 63;
const MINH: u64 = 1 << 62;
const SINH: u64 = 1 << 61;
const UINH: u64 = 1 << 60;

/// `mhpmevent` without the filter bits for virtualised modes, which need H.
pub(in crate::cpu) const HPM_EVENT_WRITABLE: u64 = !(3 << 58);

fn now(hart: &Hart) -> u64 {
    hart.env.clock.now_ns()
}

/// Counter `i` (0: cycle, 2: instret, 3..31): the stored part of its value. While the counter
/// runs, the free-running host counter is added to it.
fn stored(hart: &mut Hart, i: usize) -> Option<&mut u64> {
    let s = &mut hart.state;
    match i {
        0 => Some(&mut s.mcycle_offset),
        2 => Some(&mut s.minstret_offset),
        _ => s.mhpmcounter.get_mut(i.wrapping_sub(3)),
    }
}

fn runs(hart: &Hart, i: usize) -> bool {
    let state = &hart.state;
    let counted = match i {
        0 | 2 => true,
        _ => state.mhpmevent.get(i.wrapping_sub(3)).is_some_and(|event| {
            let inhibited = match state.privilege {
                Privilege::Machine => MINH,
                Privilege::Supervisor => SINH,
                Privilege::User => UINH,
            };
            (event & inhibited == 0 || !hart.env.isa.sscofpmf)
                && matches!(event & EVENT_MASK, EVENT_CYCLES | EVENT_INSTRUCTIONS)
        }),
    };
    counted && state.mcountinhibit >> i & 1 == 0
}

/// The value of counter `i`.
pub(super) fn get(hart: &mut Hart, i: usize) -> u64 {
    let running = if runs(hart, i) { now(hart) } else { 0 };
    stored(hart, i).map_or(0, |stored| stored.wrapping_add(running))
}

/// Set counter `i`.
pub(super) fn set(hart: &mut Hart, i: usize, value: u64) {
    let running = if runs(hart, i) { now(hart) } else { 0 };
    if let Some(stored) = stored(hart, i) {
        *stored = value.wrapping_sub(running);
    }
    hart.state.hpm_wrapped &= !(1 << i);
    update_stimer(hart);
}

/// Do `change` to what makes counters run, and let each go on from the value it has.
fn keep_values(hart: &mut Hart, change: impl FnOnce(&mut Hart)) {
    note_overflows(hart);
    let indices = || [0, 2].into_iter().chain(3..3 + HPM_COUNTERS);
    let was_running: Vec<bool> = indices().map(|i| runs(hart, i)).collect();
    let now = now(hart);
    change(hart);
    for (i, was) in indices().zip(was_running) {
        let is = runs(hart, i);
        if let Some(stored) = stored(hart, i).filter(|_| was != is) {
            *stored = if is { stored.wrapping_sub(now) } else { stored.wrapping_add(now) };
            hart.state.hpm_wrapped &= !(1 << i);
        }
    }
    update_stimer(hart);
}

/// Change the privilege; counters that do not count in every mode stop or start.
pub(in crate::cpu) fn set_privilege(hart: &mut Hart, privilege: Privilege) {
    let filters = MINH | SINH | UINH;
    let filtered =
        hart.env.isa.sscofpmf && hart.state.mhpmevent.iter().any(|event| event & filters != 0);
    if filtered && privilege != hart.state.privilege {
        keep_values(hart, |hart| hart.state.privilege = privilege);
    } else {
        hart.state.privilege = privilege;
    }
}

/// Write `mcountinhibit`.
pub(super) fn set_inhibit(hart: &mut Hart, value: u64) {
    let mask = available(hart) & !TM;
    keep_values(hart, |hart| hart.state.mcountinhibit = value & mask);
}

/// Write `mhpmevent3 + i`.
pub(super) fn set_event(hart: &mut Hart, i: usize, value: u64) {
    keep_values(hart, |hart| {
        if let Some(event) = hart.state.mhpmevent.get_mut(i) {
            *event = value & HPM_EVENT_WRITABLE;
        }
    });
}

/// Bits of `mcounteren` and `scounteren` that exist: the fixed counters and those of the PMU.
pub(super) fn available(hart: &Hart) -> u64 {
    CY | TM | IR | u64::from(hart.env.isa.pmu_mask)
}

/// `scountovf`: which counters have overflowed and are visible to S-mode.
pub(super) fn overflows(hart: &mut Hart) -> u64 {
    note_overflows(hart);
    let events = hart.state.mhpmevent.iter().zip(3..);
    let all = events.fold(0, |all, (event, i)| all | (event >> 63) << i);
    all & hart.state.mcounteren
}

/// Virtual time in ns at which counter `i` goes from all ones to zero, if it runs towards that.
fn overflow_at(hart: &Hart, i: usize) -> Option<u64> {
    let state = &hart.state;
    let stored = *state.mhpmcounter.get(i.wrapping_sub(3))?;
    // The counter is `stored` plus the time; only one that was set near its end gets there.
    let ahead = runs(hart, i) && state.hpm_wrapped >> i & 1 == 0 && stored as i64 <= -1;
    ahead.then(|| stored.wrapping_neg())
}

/// Set OF, and raise the overflow interrupt where it was clear, for counters that went past
/// their end (Sscofpmf).
pub(super) fn note_overflows(hart: &mut Hart) {
    if !hart.env.isa.sscofpmf {
        return;
    }
    let now = now(hart);
    for i in 3..3 + HPM_COUNTERS {
        if overflow_at(hart, i).is_some_and(|at| now >= at) {
            hart.state.hpm_wrapped |= 1 << i;
            let event = &mut hart.state.mhpmevent[i - 3];
            if *event & OF == 0 {
                *event |= OF;
                hart.env.irq.set_soft(LCOFIP, true);
            }
        }
    }
}

/// Make `STIP` what `stimecmp` and `time` say, raise counter overflows that are due, and have the
/// hart's timer set for the next of either. Called when any of it may have changed, and by the
/// hart's thread when its timer expires.
pub fn update_stimer(hart: &mut Hart) {
    note_overflows(hart);
    let on = hart.env.isa.sstc && hart.state.menvcfg & MENVCFG_STCE != 0;
    let due = on && hart.env.clock.ticks() >= hart.state.stimecmp;
    hart.env.irq.set_lines(STIP, due);
    let timer = if on && !due { hart.state.stimecmp } else { u64::MAX };
    let overflow = if hart.env.isa.sscofpmf {
        (3..3 + HPM_COUNTERS).filter_map(|i| overflow_at(hart, i)).min()
    } else {
        None
    };
    // The first tick that begins at `ns` or later.
    let overflow = overflow.map_or(u64::MAX, |ns| hart.env.clock.ticks_at(ns).saturating_add(1));
    hart.arm_stimer(timer.min(overflow));
}

/// The bits of `mip`, with STIP as `stimecmp` and `time` have it at this moment.
pub(super) fn pending_now(hart: &mut Hart) -> u64 {
    let on = hart.env.isa.sstc && hart.state.menvcfg & MENVCFG_STCE != 0;
    let due = on && hart.env.clock.ticks() >= hart.state.stimecmp;
    if on && due != (hart.env.irq.pending() & STIP != 0) {
        update_stimer(hart);
    }
    hart.env.irq.pending()
}
