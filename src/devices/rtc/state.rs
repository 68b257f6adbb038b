//! The clock's state as it travels. Its offset is from the host's time, so the guest's time goes
//! on through a migration as long as the two hosts' clocks agree.

use super::{Rtc, RtcState};
use crate::devices::shell::Migrate;
use crate::migration::vmstate::{Fields, StateError, VmState, Vmsd};

/// `goldfish_rtc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtcMigration {
    /// Guest time less virtual time: what versions before 3 had.
    since_power_on: u64,
    /// Guest time less the host's.
    offset: u64,
    /// Host time less virtual time.
    delta: u64,
    registers: RtcState,
}

impl VmState for RtcMigration {
    const VMSD: Vmsd = Vmsd::new("goldfish_rtc", 3).since(0);

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        f.u64("tick_offset_vmstate", &mut self.since_power_on)?;
        f.u64("alarm_next", &mut self.registers.alarm_next)?;
        f.bool32("alarm_running", &mut self.registers.alarm_running)?;
        f.bool32("irq_pending", &mut self.registers.irq_pending)?;
        f.bool32("irq_enabled", &mut self.registers.irq_enabled)?;
        f.u32("time_high", &mut self.registers.time_high)?;
        if f.version() < 3 {
            self.offset = self.since_power_on.wrapping_sub(self.delta);
            return Ok(());
        }
        f.u64("tick_offset", &mut self.offset)
    }
}

impl Migrate for Rtc {
    type State = RtcMigration;

    fn save(&self) -> Result<RtcMigration, StateError> {
        let offset = self.state.tick_offset.wrapping_add_signed(self.wall.base);
        let delta = (self.wall.source)().wrapping_sub(self.clock.now_ns());
        Ok(RtcMigration {
            since_power_on: offset.wrapping_add(delta),
            offset,
            delta,
            registers: self.state.clone(),
        })
    }

    fn load(&mut self, state: RtcMigration) -> Result<(), StateError> {
        self.state = state.registers;
        self.state.tick_offset = state.offset.wrapping_sub(self.wall.base as u64);
        self.look_at_alarm();
        self.drive();
        Ok(())
    }
}
