//! The controller's state as it travels. The lines' levels are not in it: their devices drive them
//! anew as they load.

use super::{MAX_PRIORITY, Plic, PlicState, SOURCES, WORDS};
use crate::devices::shell::Migrate;
use crate::migration::vmstate::{Fields, StateError, VmState, Vmsd};

impl VmState for PlicState {
    const VMSD: Vmsd = Vmsd::new("riscv_sifive_plic", 1);

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        f.u32s("source_priority", &mut self.priority)?;
        let mut thresholds: Vec<u32> = self.contexts.iter().map(|c| c.threshold).collect();
        f.u32s("target_priority", &mut thresholds)?;
        let highest = self.priority.iter().chain(&thresholds).max().copied().unwrap_or(0);
        if highest > MAX_PRIORITY {
            return Err(f.refuse("source_priority", format!("{highest} is more than 7")));
        }
        f.u32s("pending", &mut self.pending)?;
        f.u32s("claimed", &mut self.claimed)?;
        let enable = self.contexts.iter().flat_map(|c| c.enable);
        let mut enable: Vec<u32> = enable.collect();
        f.u32s("enable", &mut enable)?;
        let loaded = thresholds.into_iter().zip(enable.chunks_exact(WORDS));
        for (context, (threshold, enable)) in self.contexts.iter_mut().zip(loaded) {
            context.threshold = threshold;
            context.enable.copy_from_slice(enable);
        }
        Ok(())
    }
}

impl Migrate for Plic {
    type State = PlicState;

    fn save(&self) -> Result<PlicState, StateError> {
        Ok(self.lines.0.lock().state.clone())
    }

    fn load(&mut self, mut state: PlicState) -> Result<(), StateError> {
        let mut wired = self.lines.0.lock();
        state.level = [0; SOURCES / 32];
        // Source 0 does not exist.
        state.pending[0] &= !1;
        state.claimed[0] &= !1;
        wired.state = state;
        wired.restoring = true;
        wired.drive();
        Ok(())
    }
}
