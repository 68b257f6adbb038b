//! A vCPU's state to another process, and from one.

use actix::Handler;

use super::{Vcpu, sbi, update_stimer};
use crate::actors::message::{LoadState, SaveState};
use crate::cpu::vmstate::{CommonState, CpuState, FirmwareState};
use crate::migration::vmstate::{self, Section, StateError, VmState};

impl Vcpu {
    fn common_state(&self) -> CommonState {
        CommonState {
            halted: self.hart.state.waiting || self.stopped,
            interrupted: self.hart.env.irq.pending() != 0,
        }
    }

    fn cpu_state(&self) -> CpuState {
        let firmware = self.firmware.as_ref().map(|firmware| {
            let (status, start) = firmware.hsm.saved(self.hart.env.hartid);
            FirmwareState {
                status,
                start,
                stopped: self.stopped,
                restart: self.restart,
                counters: firmware.counters.saved(),
            }
        });
        CpuState::of(&self.hart, firmware)
    }

    fn restore(&mut self, mut state: CpuState) {
        let from_firmware = state.firmware.take();
        state.restore(&mut self.hart);
        self.stopped = false;
        self.restart = None;
        self.approach = None;
        self.hart.missing = None;
        match (&mut self.firmware, from_firmware) {
            (Some(firmware), Some(from)) => {
                firmware.hsm.restore(self.hart.env.hartid, from.status, from.start);
                firmware.counters.restore(&from.counters);
                self.stopped = from.stopped;
                self.restart = from.restart;
                sbi::timer_changed(&mut self.hart);
            }
            _ => update_stimer(&mut self.hart),
        }
        self.hart.env.irq.kick();
    }
}

impl Handler<SaveState> for Vcpu {
    type Result = Result<Section, StateError>;

    fn handle(&mut self, SaveState { name }: SaveState, _: &mut Self::Context) -> Self::Result {
        match name == CommonState::VMSD.name {
            true => vmstate::save(&mut self.common_state()),
            false => vmstate::save(&mut self.cpu_state()),
        }
    }
}

impl Handler<LoadState> for Vcpu {
    type Result = Result<usize, StateError>;

    fn handle(&mut self, load: LoadState, _: &mut Self::Context) -> Self::Result {
        if load.name == CommonState::VMSD.name {
            let mut state = self.common_state();
            let taken = vmstate::load(&mut state, load.version, &load.bytes)?;
            self.hart.state.waiting = state.halted;
            return Ok(taken);
        }
        let mut state = self.cpu_state();
        let taken = vmstate::load(&mut state, load.version, &load.bytes)?;
        self.restore(state);
        Ok(taken)
    }
}
