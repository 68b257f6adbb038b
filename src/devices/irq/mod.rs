//! Interrupt controllers, and the pin at which a device drives one of their lines.

pub mod aclint;
pub mod plic;
pub mod sswi;

use crate::actors::message::IrqLevel;
use crate::actors::outlet::Outlet;

/// A device's interrupt output. Only changes of level are sent: what happens at a constant level
/// is the business of the controller's gateway.
#[derive(Debug)]
pub struct IrqPin {
    outlet: Outlet<IrqLevel>,
    line: u32,
    level: bool,
}

impl IrqPin {
    /// A pin, low, wired to input `line` of whatever `outlet` leads to.
    pub fn new(outlet: Outlet<IrqLevel>, line: u32) -> Self {
        Self { outlet, line, level: false }
    }

    /// Drive the pin.
    pub fn set(&mut self, level: bool) {
        if level != self.level {
            self.level = level;
            self.outlet.send(IrqLevel { line: self.line, level });
        }
    }
}
