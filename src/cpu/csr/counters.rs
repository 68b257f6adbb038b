//! `mcycle`, `minstret`, `mhpmcounterN`, their user-mode views, and `time` (Privileged spec
//! 3.1.10–3.1.12). As in QEMU without `-icount`, cycles and retired instructions are host time: one
//! a nanosecond of virtual time.

use super::bits::MENVCFG_STCE;
use crate::cpu::hart::Hart;
use crate::cpu::irq::STIP;
use crate::cpu::state::HPM_COUNTERS;

/// `mcountinhibit`/`mcounteren` bits of the three fixed counters.
pub(super) const CY: u64 = 1 << 0;
pub(super) const TM: u64 = 1 << 1;
pub(super) const IR: u64 = 1 << 2;

/// Events of `mhpmevent` that count: QEMU's numbers for cycles and instructions.
const EVENT_CYCLES: u64 = 1;
const EVENT_INSTRUCTIONS: u64 = 2;
const EVENT_MASK: u64 = (1 << 56) - 1;

/// `mhpmevent` without the filter bits for virtualised modes, which need H.
pub(super) const HPM_EVENT_WRITABLE: u64 = !(3 << 58);

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
    let counted =
        match i {
            0 | 2 => true,
            _ => hart.state.mhpmevent.get(i.wrapping_sub(3)).is_some_and(|event| {
                matches!(event & EVENT_MASK, EVENT_CYCLES | EVENT_INSTRUCTIONS)
            }),
        };
    counted && hart.state.mcountinhibit >> i & 1 == 0
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
}

/// Do `change` to what makes counters run, and let each go on from the value it has.
fn keep_values(hart: &mut Hart, change: impl FnOnce(&mut Hart)) {
    let indices = || [0, 2].into_iter().chain(3..3 + HPM_COUNTERS);
    let was_running: Vec<bool> = indices().map(|i| runs(hart, i)).collect();
    let now = now(hart);
    change(hart);
    for (i, was) in indices().zip(was_running) {
        let is = runs(hart, i);
        if let Some(stored) = stored(hart, i).filter(|_| was != is) {
            *stored = if is { stored.wrapping_sub(now) } else { stored.wrapping_add(now) };
        }
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

/// Make `STIP` what `stimecmp` and `time` say, and have the timer set for when that changes.
/// Called when either may have changed: a write of `stimecmp` or `menvcfg`, the timer's expiry.
pub fn update_stimer(hart: &mut Hart) {
    let on = hart.env.isa.sstc && hart.state.menvcfg & MENVCFG_STCE != 0;
    let due = on && hart.env.clock.ticks() >= hart.state.stimecmp;
    hart.env.irq.set_lines(STIP, due);
    let deadline = if on && !due { hart.state.stimecmp } else { u64::MAX };
    hart.arm_stimer(deadline);
}
