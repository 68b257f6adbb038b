//! The interrupt lines of `virt` as qtest names them: which device of QEMU's object tree is at
//! either end of each.

use std::sync::Arc;

use super::memory_map as map;
use super::spec::{Accel, MachineSpec};
use crate::actors::message::IrqLevel;
use crate::actors::outlet::Outlet;
use crate::cpu::inbox::Peers;
use crate::cpu::irq::{MEIP, MSIP, MTIP, SEIP};
use crate::qtest::gpio::{Device, Direction, Gpios, Pin, Taps};

/// What a device calls the line to its interrupt controller.
const SYSBUS: Option<&str> = Some("sysbus-irq");

/// Taps in the lines of a machine that is being built, or none when nobody would use them.
#[derive(Debug, Clone)]
pub(super) struct Wiring {
    taps: Option<Taps>,
    harts: u32,
    /// Number of the first `/machine/unattached/device[]` after the ACLINT's.
    first: u32,
}

/// Indices into the list of devices.
const PLIC: usize = 0;
/// After the PLIC and the finisher.
const VIRTIO: usize = 2;
const UART: usize = VIRTIO + map::VIRTIO_COUNT as usize;
const RTC: usize = UART + 1;
const FW_CFG: usize = RTC + 1;
const HARTS: usize = FW_CFG + 1;

/// The device that drives an input of the PLIC.
fn driver_of(line: u32) -> Option<usize> {
    match line {
        map::UART_IRQ => Some(UART),
        map::RTC_IRQ => Some(RTC),
        _ => (0..map::VIRTIO_COUNT)
            .find(|slot| map::virtio_irq(*slot) == line)
            .map(|slot| VIRTIO + slot as usize),
    }
}

impl Wiring {
    pub(super) fn new(spec: &MachineSpec) -> Self {
        Self {
            taps: spec.qtest.is_some().then(Taps::default),
            harts: spec.smp.cpus,
            // QEMU leaves the ACLINT out where no guest code runs.
            first: match (spec.accel, spec.machine.aclint) {
                (Accel::Qtest, _) => 0,
                (_, false) => 2,
                (_, true) => 3,
            },
        }
    }

    /// The inputs of the PLIC.
    pub(super) fn plic(&self, inputs: Outlet<IrqLevel>) -> Outlet<IrqLevel> {
        let Some(taps) = &self.taps else { return inputs };
        taps.tap(inputs, |line| {
            let input = Pin { device: PLIC, direction: Direction::In, number: line };
            let output = |device| Pin { device, direction: Direction::Out, number: 0 };
            [input].into_iter().chain(driver_of(line).map(output)).collect()
        })
    }

    /// The line to bit `bit` of a hart's `mip`.
    pub(super) fn hart(&self, hart: usize, bit: u64, line: Outlet<IrqLevel>) -> Outlet<IrqLevel> {
        let Some(taps) = &self.taps else { return line };
        let harts = self.harts;
        taps.tap(line, move |_| {
            let number = bit.trailing_zeros();
            let input = Pin { device: HARTS + hart, direction: Direction::In, number };
            let output = |number| Pin { device: PLIC, direction: Direction::Out, number };
            let output = match bit {
                SEIP => Some(output(hart as u32)),
                MEIP => Some(output(harts + hart as u32)),
                _ => None,
            };
            [input].into_iter().chain(output).collect()
        })
    }

    /// The devices and their lines; `plic` are the PLIC's inputs, tapped.
    pub(super) fn gpios(&self, plic: &Outlet<IrqLevel>, peers: &Peers) -> Option<Gpios> {
        let taps = self.taps.clone()?;
        let unattached = |number: u32, groups| Device {
            path: format!("/machine/unattached/device[{}]", self.first + number),
            groups,
            inputs: None,
        };
        let mut devices = vec![
            Device {
                inputs: Some((plic.clone(), (0..=map::PLIC_SOURCES).collect())),
                ..unattached(0, vec![None])
            },
            unattached(1, vec![]),
        ];
        devices.extend((0..map::VIRTIO_COUNT).map(|slot| unattached(2 + slot, vec![SYSBUS])));
        // Between them QEMU has the PCI host bridge and the platform bus.
        devices.push(unattached(12, vec![SYSBUS]));
        devices.push(unattached(13, vec![SYSBUS]));
        devices.push(Device { path: "/machine/fw_cfg".into(), groups: vec![], inputs: None });
        for (hart, peer) in peers.0.iter().enumerate() {
            let irq = Arc::clone(&peer.irq);
            let line = move |message: IrqLevel| irq.set_lines(1 << message.line, message.level);
            let bits = [MSIP, MTIP, SEIP, MEIP].map(u64::trailing_zeros);
            let pins =
                move |number| vec![Pin { device: HARTS + hart, direction: Direction::In, number }];
            devices.push(Device {
                path: format!("/machine/soc0/harts[{hart}]"),
                groups: vec![None, Some("riscv.cpu.rnmi")],
                inputs: Some((taps.tap(Outlet::fold(line), pins), bits.to_vec())),
            });
        }
        debug_assert_eq!(devices.len(), HARTS + peers.0.len());
        Some(Gpios { devices, taps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Invocation};
    use crate::qtest::gpio::Change;

    fn spec(line: &str) -> MachineSpec {
        let words = format!("understudy -nodefaults {line}");
        match cli::parse(words.split(' ').map(Into::into)) {
            Ok(Invocation::Run { spec, .. }) => *spec,
            other => panic!("{other:?}"),
        }
    }

    /// What an interception of `path` tells when line `line` of the PLIC's inputs and then hart
    /// 1's SEIP rise.
    fn seen(path: &str, name: Option<Option<&str>>) -> Vec<Change> {
        let wiring = Wiring::new(&spec("-qtest null -accel qtest -smp 2"));
        let plic = wiring.plic(Outlet::Unconnected);
        let seip = wiring.hart(1, SEIP, Outlet::Unconnected);
        let gpios = wiring.gpios(&plic, &Peers::new(2)).unwrap();
        match name {
            None => gpios.intercept_in(path, false).unwrap(),
            Some(name) => gpios.intercept_out(path, name).unwrap(),
        }
        for line in [map::UART_IRQ, map::virtio_irq(7)] {
            plic.send(IrqLevel { line, level: true });
        }
        seip.send(IrqLevel { line: 0, level: true });
        gpios.taps.take().into()
    }

    #[test]
    fn lines_are_known_at_both_ends() {
        let raised = |numbers: &[u32]| {
            numbers.iter().map(|number| Change { number: *number, level: true }).collect::<Vec<_>>()
        };
        let plic = "/machine/unattached/device[0]";
        assert_eq!(seen(plic, None), raised(&[map::UART_IRQ, map::virtio_irq(7)]));
        assert_eq!(seen(plic, Some(None)), raised(&[1]));
        assert_eq!(seen("device[12]", Some(SYSBUS)), raised(&[0]));
        assert_eq!(seen("device[9]", Some(SYSBUS)), raised(&[0]));
        assert_eq!(seen("device[8]", Some(SYSBUS)), []);
        assert_eq!(seen("/machine/soc0/harts[1]", None), raised(&[9]));
        assert_eq!(seen("/machine/soc0/harts[0]", None), []);
    }

    #[test]
    fn without_qtest_lines_are_not_tapped() {
        let wiring = Wiring::new(&spec("-smp 1"));
        assert!(matches!(wiring.plic(Outlet::Unconnected), Outlet::Unconnected));
        assert!(wiring.gpios(&Outlet::Unconnected, &Peers::new(1)).is_none());
    }
}
