//! What a guest was about to read, as it travels. The items are each machine's own.

use super::{ARCH_LOCAL, FILE_SLOTS, FwCfg, FwCfgState, WRITE_CHANNEL, key};
use crate::devices::shell::Migrate;
use crate::migration::vmstate::{Fields, StateError, VmState, Vmsd};

/// `cur_entry` when no item is selected.
const INVALID: u16 = 0xffff;

impl VmState for FwCfgState {
    const VMSD: Vmsd = Vmsd::new("fw_cfg", 2).since(1);

    fn before_load(&mut self) {
        self.dma_address = 0;
    }

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let mut entry = self.selected.unwrap_or(INVALID);
        f.u16("cur_entry", &mut entry)?;
        self.selected = Some(entry).filter(|&entry| entry != INVALID);
        let plain = entry & !(WRITE_CHANNEL | ARCH_LOCAL);
        if self.selected.is_some() && plain >= key::FILE_FIRST + FILE_SLOTS as u16 {
            return Err(f.refuse("cur_entry", format!("there is no item {entry:#x}")));
        }
        let mut offset = self.offset as u32;
        if f.version() == 1 {
            let mut short = 0;
            f.u16("cur_offset", &mut short)?;
            offset = short.into();
        } else {
            f.u32("cur_offset[1]", &mut offset)?;
        }
        self.offset = offset as usize;
        f.subsection(Vmsd::new("fw_cfg/dma", 0), true, &mut |f| {
            f.u64("dma_addr", &mut self.dma_address)
        })
    }
}

impl Migrate for FwCfg {
    type State = FwCfgState;

    fn save(&self) -> Result<FwCfgState, StateError> {
        Ok(self.state.clone())
    }

    fn load(&mut self, state: FwCfgState) -> Result<(), StateError> {
        self.state = state;
        Ok(())
    }
}
