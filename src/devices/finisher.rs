//! SiFive's test finisher: a word that ends or resets the machine.

use super::shell::{Access, Device};
use crate::actors::outlet::Outlet;
use crate::machine::message::{RequestReset, RequestShutdown, ShutdownCause};

const FAIL: u64 = 0x3333;
const PASS: u64 = 0x5555;
const RESET: u64 = 0x7777;

/// The device; it has no state.
#[derive(Debug)]
pub struct Finisher {
    pub shutdown: Outlet<RequestShutdown>,
    pub reset: Outlet<RequestReset>,
}

impl Device for Finisher {
    const SIZE: u64 = 0x1000;

    fn decodes(&self, _: Access, offset: u64, width: u8) -> bool {
        matches!(width, 2 | 4) && offset.is_multiple_of(width.into())
    }

    fn read(&mut self, _: u64, _: u8) -> u64 {
        0
    }

    /// The low half says what happens, the high half with what exit code.
    fn write(&mut self, offset: u64, width: u8, value: u64) {
        if offset != 0 {
            return;
        }
        let code = if width == 4 { (value >> 16) as u16 } else { 0 };
        let exit_code = i32::from(code);
        match value & 0xffff {
            FAIL => {
                self.shutdown.send(RequestShutdown { cause: ShutdownCause::GuestPanic, exit_code });
            }
            PASS => {
                let cause = ShutdownCause::GuestShutdown;
                self.shutdown.send(RequestShutdown { cause, exit_code });
            }
            RESET => {
                self.reset.send(RequestReset { cause: ShutdownCause::GuestReset });
            }
            _ => {}
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
    fn verdicts() {
        let shutdown = Probe::answering(|_: &RequestShutdown| Ok(()));
        let reset = Probe::answering(|_: &RequestReset| Ok(()));
        let finisher = DeviceCell::new(
            Shell(Finisher { shutdown: shutdown.outlet(), reset: reset.outlet() }),
            "finisher",
            Outlet::Unconnected,
        );
        let (panic, off) = (ShutdownCause::GuestPanic, ShutdownCause::GuestShutdown);
        for (offset, width, value, expected) in [
            (0, 4, 0x5555, Some((off, 0))),
            (0, 4, 0x7_5555, Some((off, 7))),
            (0, 2, 0x5555, Some((off, 0))),
            (0, 4, 0x2a_3333, Some((panic, 42))),
            (0, 4, 0xffff_3333, Some((panic, 0xffff))),
            (0, 2, 0x2a_3333, Some((panic, 0))),
            (4, 4, 0x5555, None),
            (0, 4, 0x1234, None),
        ] {
            assert_eq!(finisher.write(offset, width, value), Ok(()));
            let asked: Vec<_> = shutdown.take().iter().map(|s| (s.cause, s.exit_code)).collect();
            assert_eq!(asked, Vec::from_iter(expected), "{value:#x}");
        }
        assert!(reset.take().is_empty());
        finisher.write(0, 4, 0x7777).unwrap();
        assert_eq!(reset.take()[0].cause, ShutdownCause::GuestReset);
        for width in [1, 8] {
            assert_eq!(finisher.write(0, width, 0x5555), Err(MmioFault::Width));
            assert_eq!(finisher.read(0, width), Err(MmioFault::Width));
        }
        assert_eq!(finisher.read(0, 4), Ok(0));
        assert!(shutdown.take().is_empty());
    }
}
