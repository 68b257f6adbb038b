//! Devices and their interrupt lines by QOM path, as `irq_intercept_in`, `irq_intercept_out` and
//! `set_irq_in` name them, and the taps in the lines that tell what an interception sees.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};

use actix::{Message, Recipient};
use parking_lot::Mutex;

use crate::actors::message::IrqLevel;
use crate::actors::outlet::Outlet;

/// Line numbers that an interception can tell apart, as in QEMU.
const LINES: usize = 256;
/// Changes kept for a client that does not read; later ones are dropped.
const MOST_CHANGES: usize = 1 << 16;

/// A device with lines, or without any.
#[derive(Debug)]
pub struct Device {
    /// Absolute QOM path.
    pub path: String,
    /// Names of its groups of lines; `None` is the unnamed one.
    pub groups: Vec<Option<&'static str>>,
    /// Its unnamed inputs, if they can be driven, and which numbers exist.
    pub inputs: Option<(Outlet<IrqLevel>, Vec<u32>)>,
}

/// The end of a line at a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Index among the devices.
    pub device: usize,
    pub direction: Direction,
    pub number: u32,
}

/// Whether a device drives a line or is driven by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// A line that is watched has changed its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub number: u32,
    pub level: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.level { "raise" } else { "lower" };
        write!(f, "IRQ {verb} {}", self.number)
    }
}

/// There are changes to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LinesChanged;

#[derive(Debug)]
struct Watched {
    /// The device and the side of it whose lines are watched.
    what: Option<(usize, Direction)>,
    levels: [bool; LINES],
    changes: VecDeque<Change>,
}

/// The taps of a machine. Their mutex is a leaf: under it nothing is sent.
#[derive(Debug, Clone)]
pub struct Taps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    watched: Mutex<Watched>,
    listener: OnceLock<Recipient<LinesChanged>>,
}

impl Default for Taps {
    fn default() -> Self {
        let watched = Watched { what: None, levels: [false; LINES], changes: VecDeque::new() };
        Self(Arc::new(Shared { watched: Mutex::new(watched), listener: OnceLock::new() }))
    }
}

impl Taps {
    /// An outlet that passes levels on to `to` and watches them; `pins` are the ends of the line
    /// with a number.
    pub fn tap(
        &self,
        to: Outlet<IrqLevel>,
        pins: impl Fn(u32) -> Vec<Pin> + Send + Sync + 'static,
    ) -> Outlet<IrqLevel> {
        let shared = Arc::clone(&self.0);
        Outlet::fold(move |message: IrqLevel| {
            to.send(message);
            shared.see(message.level, || pins(message.line));
        })
    }

    /// Who is told of changes (once).
    pub fn listen(&self, listener: Recipient<LinesChanged>) {
        let _ = self.0.listener.set(listener);
    }

    /// The changes since the last call, in order.
    pub fn take(&self) -> VecDeque<Change> {
        std::mem::take(&mut self.0.watched.lock().changes)
    }

    /// A new client: every line counts as low.
    pub fn forget_levels(&self) {
        let mut watched = self.0.watched.lock();
        watched.levels = [false; LINES];
        watched.changes.clear();
    }

    /// Watch one side of a device from now on.
    fn watch(&self, device: usize, direction: Direction) {
        self.0.watched.lock().what = Some((device, direction));
    }

    fn watched(&self) -> Option<usize> {
        self.0.watched.lock().what.map(|(device, _)| device)
    }
}

impl Shared {
    fn see(&self, level: bool, pins: impl FnOnce() -> Vec<Pin>) {
        {
            let mut watched = self.watched.lock();
            let Some((device, direction)) = watched.what else { return };
            let pin = pins().into_iter().find(|p| p.device == device && p.direction == direction);
            let Some(Pin { number, .. }) = pin else { return };
            let Some(last) = watched.levels.get_mut(number as usize) else { return };
            if *last == level {
                return;
            }
            *last = level;
            if watched.changes.len() < MOST_CHANGES {
                watched.changes.push_back(Change { number, level });
            }
        }
        if let Some(listener) = self.listener.get() {
            listener.do_send(LinesChanged);
        }
    }
}

/// Why a line command is refused; the sentences are QEMU's but for the last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpioError {
    #[error("FAIL Unknown device")]
    UnknownDevice,
    #[error("FAIL Interception of named in-GPIOs not yet supported")]
    NamedInput,
    #[error("FAIL IRQ intercept already enabled")]
    Enabled,
    #[error("FAIL No intercepts installed")]
    NoneInstalled,
    #[error("ERR set_irq_in: {path} has no input {number}")]
    NoInput { path: String, number: i32 },
}

/// The devices of a machine and the taps in its lines.
#[derive(Debug, Default)]
pub struct Gpios {
    pub devices: Vec<Device>,
    pub taps: Taps,
}

impl Gpios {
    /// A device by its absolute path, or by the end of one that no other device has.
    fn find(&self, path: &str) -> Result<usize, GpioError> {
        let ends = |device: &Device| {
            device.path == path
                || !path.starts_with('/')
                    && device.path.strip_suffix(path).is_some_and(|head| head.ends_with('/'))
        };
        let mut found = self.devices.iter().enumerate().filter(|(_, device)| ends(device));
        match (found.next(), found.next()) {
            (Some((index, _)), None) => Ok(index),
            _ => Err(GpioError::UnknownDevice),
        }
    }

    /// `irq_intercept_in`.
    pub fn intercept_in(&self, path: &str, named: bool) -> Result<(), GpioError> {
        let index = self.find(path)?;
        if named {
            return Err(GpioError::NamedInput);
        }
        self.intercept(index, Direction::In, |device| !device.groups.is_empty())
    }

    /// `irq_intercept_out`.
    pub fn intercept_out(&self, path: &str, name: Option<&str>) -> Result<(), GpioError> {
        let index = self.find(path)?;
        self.intercept(index, Direction::Out, |device| device.groups.contains(&name))
    }

    fn intercept(
        &self,
        index: usize,
        direction: Direction,
        possible: impl Fn(&Device) -> bool,
    ) -> Result<(), GpioError> {
        match self.taps.watched() {
            Some(watched) if watched == index => Ok(()),
            Some(_) => Err(GpioError::Enabled),
            None if self.devices.get(index).is_some_and(possible) => {
                self.taps.watch(index, direction);
                Ok(())
            }
            None => Err(GpioError::NoneInstalled),
        }
    }

    /// `set_irq_in`.
    pub fn set_irq_in(
        &self,
        path: &str,
        name: Option<&str>,
        number: i32,
        level: bool,
    ) -> Result<(), GpioError> {
        let device = self.devices.get(self.find(path)?).ok_or(GpioError::UnknownDevice)?;
        let missing = || GpioError::NoInput { path: path.to_owned(), number };
        let (outlet, numbers) = device.inputs.as_ref().ok_or_else(missing)?;
        let line = u32::try_from(number).ok().filter(|line| numbers.contains(line));
        match (line, name) {
            (Some(line), None) => {
                outlet.send(IrqLevel { line, level });
                Ok(())
            }
            _ => Err(missing()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::probe::Probe;

    fn gpios(irq: &Probe<IrqLevel>) -> (Gpios, Outlet<IrqLevel>) {
        let taps = Taps::default();
        let lines = taps.tap(irq.outlet(), |line| {
            let mut pins = vec![Pin { device: 0, direction: Direction::In, number: line }];
            if line == 10 {
                pins.push(Pin { device: 1, direction: Direction::Out, number: 0 });
            }
            pins
        });
        let device = |path: &str, groups| Device { path: path.into(), groups, inputs: None };
        let devices = vec![
            Device {
                inputs: Some((lines.clone(), (0..96).collect())),
                ..device("/machine/unattached/device[0]", vec![None])
            },
            device("/machine/unattached/device[1]", vec![Some("sysbus-irq")]),
            device("/machine/fw_cfg", vec![]),
        ];
        (Gpios { devices, taps }, lines)
    }

    #[test]
    fn an_interception_sees_changes_and_passes_levels_on() {
        let (irq, told) = (Probe::new(), Probe::new());
        let (gpios, lines) = gpios(&irq);
        gpios.taps.listen(told.recipient());
        lines.send(IrqLevel { line: 10, level: true });
        assert!(gpios.taps.take().is_empty(), "nothing is watched yet");
        gpios.intercept_in("/machine/unattached/device[0]", false).unwrap();
        for level in [true, true, false, false] {
            lines.send(IrqLevel { line: 10, level });
        }
        gpios.set_irq_in("device[0]", None, 95, true).unwrap();
        let seen: Vec<_> = gpios.taps.take().iter().map(Change::to_string).collect();
        assert_eq!(seen, ["IRQ raise 10", "IRQ lower 10", "IRQ raise 95"]);
        assert_eq!(told.take().len(), 3);
        assert_eq!(irq.take().len(), 6);
    }

    #[test]
    fn outputs_are_numbered_by_their_device() {
        let irq = Probe::new();
        let (gpios, lines) = gpios(&irq);
        gpios.intercept_out("device[1]", Some("sysbus-irq")).unwrap();
        lines.send(IrqLevel { line: 11, level: true });
        lines.send(IrqLevel { line: 10, level: true });
        assert_eq!(gpios.taps.take(), [Change { number: 0, level: true }]);
    }

    #[test]
    fn refusals_are_qemus() {
        let irq = Probe::new();
        let (gpios, _) = gpios(&irq);
        let unknown = Err(GpioError::UnknownDevice);
        assert_eq!(gpios.intercept_in("/machine", false), unknown);
        assert_eq!(gpios.intercept_in("vice[0]", false), unknown);
        assert_eq!(gpios.intercept_in("device[0]", true), Err(GpioError::NamedInput));
        assert_eq!(gpios.intercept_in("fw_cfg", false), Err(GpioError::NoneInstalled));
        assert_eq!(gpios.intercept_out("device[1]", None), Err(GpioError::NoneInstalled));
        assert_eq!(gpios.intercept_out("device[0]", None), Ok(()));
        assert_eq!(gpios.intercept_in("device[0]", false), Ok(()));
        assert_eq!(gpios.intercept_in("device[1]", false), Err(GpioError::Enabled));
        assert_eq!(gpios.set_irq_in("nosuch", None, 1, true), unknown);
        for (name, number) in [(None, 96), (None, -1), (Some("nmi"), 1)] {
            let path = "device[0]".to_owned();
            let missing = Err(GpioError::NoInput { path, number });
            assert_eq!(gpios.set_irq_in("device[0]", name, number, true), missing);
        }
        assert!(irq.take().is_empty());
    }
}
