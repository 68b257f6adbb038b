//! SSWI (RISC-V ACLINT spec 1.0, chapter 4): a write of one to a hart's word makes its supervisor
//! software interrupt pending. Reads are zero; the hart itself clears what is pending.

use crate::actors::message::IrqLevel;
use crate::actors::outlet::Outlet;
use crate::devices::shell::{Access, Device};
use crate::machine::memory_map::ACLINT_SWI_SIZE;

/// The device; it has no state.
#[derive(Debug)]
pub struct Sswi {
    harts: Vec<Outlet<IrqLevel>>,
}

impl Sswi {
    /// The device for harts 0, 1, …, each told `IrqLevel { line: hart, level: true }`.
    pub fn new(harts: Vec<Outlet<IrqLevel>>) -> Self {
        Self { harts }
    }
}

impl Device for Sswi {
    const SIZE: u64 = ACLINT_SWI_SIZE;

    fn decodes(&self, _: Access, offset: u64, width: u8) -> bool {
        width == 4 && offset.is_multiple_of(4)
    }

    fn read(&mut self, _: u64, _: u8) -> u64 {
        0
    }

    fn write(&mut self, offset: u64, _: u8, value: u64) {
        let hart = offset / 4;
        if let Some(outlet) = self.harts.get(hart as usize).filter(|_| value & 1 != 0) {
            outlet.send(IrqLevel { line: hart as u32, level: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::cell::DeviceCell;
    use crate::actors::message::MmioFault;
    use crate::actors::probe::Probe;
    use crate::devices::bus::MmioTarget;
    use crate::devices::shell::Shell;

    #[test]
    fn a_one_is_a_pulse_to_its_hart() {
        let told: Probe<IrqLevel> = Probe::new();
        let sswi = Shell(Sswi::new(vec![told.outlet(), told.outlet()]));
        let sswi = DeviceCell::new(sswi, "sswi", Outlet::Unconnected);
        for (offset, value) in [(4, 1), (0, 0), (4, 2), (8, 1), (0, 3), (0, 1)] {
            sswi.write(offset, 4, value).unwrap();
        }
        let lines: Vec<_> = told.take().iter().map(|irq| (irq.line, irq.level)).collect();
        assert_eq!(lines, [(1, true), (0, true), (0, true)]);
        assert_eq!(sswi.read(4, 4), Ok(0));
        assert_eq!(sswi.write(0, 8, 1), Err(MmioFault::Width));
    }
}
