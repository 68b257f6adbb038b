//! Harts move to others and are the same there.

use super::*;
use crate::cpu::hart::tests::harts_alone;
use crate::cpu::irq::SEIP;
use crate::migration::vmstate::tests::{assert_described_as_qemus, harass, round_trip};
use crate::migration::vmstate::{load, save};

fn hart(isa: IsaConfig) -> Hart {
    let mut hart = Hart::new(harts_alone(1, isa, 0x1000).remove(0));
    trap::reset(&mut hart, RESET_VECTOR);
    hart
}

#[test]
fn a_hart_at_power_on_is_described_as_qemus() {
    let mut state = CpuState::of(&hart(IsaConfig::rv64()), None);
    let mut fresh = CpuState::of(&hart(IsaConfig::rv64()), None);
    let section = round_trip(&mut state, &mut fresh);
    assert_described_as_qemus(&section);
    let mut common = CommonState { halted: true, interrupted: true };
    let saved = round_trip(&mut common, &mut CommonState { halted: false, interrupted: false });
    assert_eq!(saved.bytes, [0, 0, 0, 1, 0, 0, 0, 2]);
    assert_described_as_qemus(&saved);
}

/// Every register that a guest can write, set to what it can hold.
fn busy_hart() -> Hart {
    let mut hart = hart(IsaConfig::max());
    for csr in 0..0xfff {
        let counts = (number::MCYCLE..=number::MHPMCOUNTER31).contains(&csr);
        if csr != number::SATP && csr != number::FCSR && !counts {
            csr::set(&mut hart, csr, 0x5555_5555_5555_5555 ^ u64::from(csr) << 7);
        }
    }
    csr::set(&mut hart, number::SATP, 8 << 60 | 3 << 44 | 0x8_1234);
    csr::set(&mut hart, number::MCOUNTINHIBIT, 0x15);
    for csr in number::MCYCLE..=number::MHPMCOUNTER31 {
        csr::set(&mut hart, csr, u64::from(csr) << 20);
    }
    csr::set(&mut hart, number::FCSR, 0b010_10101);
    let s = &mut hart.state;
    s.x = std::array::from_fn(|i| (i as u64) << 33);
    s.f = std::array::from_fn(|i| !(i as u64));
    s.pc = 0x8000_0002;
    s.privilege = Privilege::Supervisor;
    s.hpm_wrapped = 1 << 7;
    hart.env.irq.set_soft(SSIP | SEIP, true);
    hart.env.irq.set_lines(MSIP, true);
    hart
}

#[test]
fn every_register_arrives() {
    let from = busy_hart();
    let mut state = CpuState::of(&from, None);
    let mut to = hart(IsaConfig::max());
    let mut arrived = CpuState::of(&to, None);
    let section = round_trip(&mut state, &mut arrived);
    arrived.restore(&mut to);
    csr::counters::update_stimer(&mut to);
    assert_eq!(to.fflags(), from.fflags());
    assert_eq!((to.env.irq.soft(), to.env.irq.pending()), {
        (from.env.irq.soft(), from.env.irq.pending())
    });
    let mut again = CpuState::of(&to, None);
    assert_eq!(save(&mut again).unwrap(), section);
    // What is not in the bytes is not in the hart either.
    let plain = |hart: &Hart| {
        let mut state = (*hart.state).clone();
        state.jit = Default::default();
        (state.reservation, state.fflags) = (NO_RESERVATION, hart.fflags());
        format!("{state:?}")
    };
    assert_eq!(plain(&to), plain(&from));
    harass(&section, |bytes| {
        let mut state = CpuState::of(&hart(IsaConfig::max()), None);
        let taken = load(&mut state, 10, &bytes)?;
        state.restore(&mut to);
        Ok(taken)
    });
}

#[test]
fn the_built_in_firmwares_harts_travel_and_need_it_at_the_other_end() {
    let from = hart(IsaConfig::rv64());
    let counters = vec![(0, false, 0); 16];
    let mut firmware = FirmwareState { status: 2, start: (0x8020_0000, 7), ..Default::default() };
    firmware.stopped = true;
    firmware.restart = Some((0x8000_0004, 9));
    firmware.counters = counters.clone();
    firmware.counters[3] = (5, true, 77);
    let mut state = CpuState::of(&from, Some(firmware.clone()));
    let blank = FirmwareState { counters, ..Default::default() };
    let mut fresh = CpuState::of(&hart(IsaConfig::rv64()), Some(blank));
    let section = round_trip(&mut state, &mut fresh);
    assert_eq!(fresh.firmware, Some(firmware));
    let mut bytes = section.bytes;
    bytes.push(0);
    let mut without = CpuState::of(&from, None);
    assert_eq!(
        load(&mut without, 10, &bytes).unwrap_err().to_string(),
        "Failed to load cpu/sbi:firmware: this machine has no built-in firmware"
    );
    let mut other = CpuState::of(&from, None);
    other.hartid = 1;
    assert_eq!(
        load(&mut other, 10, &bytes).unwrap_err().to_string(),
        "Failed to load cpu:env.mhartid: 0x0 is not 0x1"
    );
}
