//! The timers' state as it travels. Deadlines follow from the compare values and the time, and are
//! armed anew at the other end.

use super::Aclint;
use crate::devices::shell::Migrate;
use crate::migration::vmstate::{Fields, StateError, VmState, Vmsd};

/// `riscv_mtimer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtimerState {
    /// Of each hart.
    mtimecmp: Vec<u64>,
    /// MTIME less the clock's ticks: what a guest that wrote MTIME set it forward by.
    offset: u64,
}

impl VmState for MtimerState {
    const VMSD: Vmsd = Vmsd::new("riscv_mtimer", 1);

    fn before_load(&mut self) {
        self.offset = 0;
    }

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        f.u64s("timecmp", &mut self.mtimecmp)?;
        // Not QEMU's, which loses it.
        f.subsection(Vmsd::new("riscv_mtimer/time_delta", 1), self.offset != 0, &mut |f| {
            f.u64("time_delta", &mut self.offset)
        })
    }
}

impl Migrate for Aclint {
    type State = MtimerState;

    fn save(&self) -> Result<MtimerState, StateError> {
        Ok(MtimerState {
            mtimecmp: self.harts.iter().map(|(hart, _)| hart.compare.lock().mtimecmp).collect(),
            offset: self.clock.moved(),
        })
    }

    fn load(&mut self, state: MtimerState) -> Result<(), StateError> {
        self.clock.set_moved(state.offset);
        for ((hart, _), mtimecmp) in self.harts.iter().zip(state.mtimecmp) {
            hart.compare.lock().mtimecmp = mtimecmp;
        }
        for ((driven, _), level) in self.msip.iter_mut().zip(&self.msip_levels) {
            *driven = (level.0)();
        }
        self.time_changed();
        Ok(())
    }
}
