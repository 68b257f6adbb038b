//! A hart's state as it travels: QEMU's `cpu_common` and `cpu`, which describe the same registers
//! in QEMU's terms.
//!
//! Three things of a hart have no field in QEMU's description, which loses them: the accrued
//! floating-point exceptions, which of the pending bits software set, and overflows of counters
//! already seen. They are where QEMU reads and writes nothing: the four unused bytes, and the
//! upper halves of counters, which only RV32 has. So they arrive here, and QEMU takes the stream.

use std::sync::Arc;

use super::csr::bits::ISELECT_MASK;
use super::csr::{self, number};
use super::hart::Hart;
use super::irq::{LCOFIP, MSIP, SSIP, STIP};
use super::isa::{IsaConfig, SatpMode};
use super::state::{HPM_COUNTERS, HartState, NO_RESERVATION, PMP_ENTRIES, Privilege};
use super::{pmp, trap};
use crate::migration::vmstate::{Fields, StateError, VmState, Vmsd};

/// Counters and events, with the three fixed ones in front.
const COUNTERS: usize = 32;
/// QEMU's numbers of the versions of the specifications that a hart follows.
const PRIVILEGED_SPEC: u64 = 3;
const VECTOR_SPEC: u64 = 0x1_0000;
/// `misa_mxl`: 64 bits.
const MXL_64: u32 = 2;
/// Letters of `misa`.
const LETTERS: u64 = (1 << 26) - 1;
/// Where QEMU's harts start; ours are told when they are reset.
const RESET_VECTOR: u64 = 0x1000;
/// The bit that says that the unused bytes are used.
const EXTRA: u8 = 0x80;
/// `interrupt_request`: some interrupt is pending.
const INTERRUPT_HARD: u32 = 2;
/// Exceptions from here on are QEMU's own (halted, interrupted), not the hart's.
const EXCP_INTERRUPT: i32 = 0x1_0000;

/// Default priorities of local interrupts as QEMU has them without AIA.
const M_PRIORITIES: [u8; 64] = priorities(11);
const S_PRIORITIES: [u8; 64] = priorities(9);

/// The AIA specification's default order (5.2), as QEMU numbers it; `external` comes first.
const fn priorities(external: usize) -> [u8; 64] {
    const ORDER: &[(usize, u8)] = &[
        (1, 20),
        (2, 24),
        (3, 17),
        (5, 21),
        (6, 25),
        (7, 18),
        (9, 19),
        (10, 23),
        (11, 16),
        (12, 22),
        (16, 36),
        (17, 33),
        (18, 30),
        (19, 27),
        (20, 14),
        (21, 11),
        (22, 8),
        (23, 5),
        (32, 37),
        (33, 35),
        (34, 34),
        (35, 32),
        (36, 31),
        (37, 29),
        (38, 28),
        (39, 26),
        (40, 15),
        (41, 13),
        (42, 12),
        (43, 10),
        (44, 9),
        (45, 7),
        (46, 6),
        (47, 4),
    ];
    let mut all = [0xff; 64];
    let mut i = 0;
    while i < ORDER.len() {
        all[ORDER[i].0] = ORDER[i].1;
        i += 1;
    }
    all[external] = 0;
    all
}

/// `cpu_common`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommonState {
    /// In `wfi`, or stopped by the firmware.
    pub halted: bool,
    /// Some interrupt is pending; follows from `mip`.
    pub interrupted: bool,
}

impl VmState for CommonState {
    const VMSD: Vmsd = Vmsd::new("cpu_common", 1);

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        f.bool32("halted", &mut self.halted)?;
        let mut requests = if self.interrupted { INTERRUPT_HARD } else { 0 };
        f.u32("interrupt_request", &mut requests)?;
        self.interrupted = requests & INTERRUPT_HARD != 0;
        f.subsection(Vmsd::new("cpu_common/exception_index", 1), false, &mut |f| {
            let mut index = -1;
            f.i32("exception_index", &mut index)?;
            if (0..EXCP_INTERRUPT).contains(&index) {
                return Err(f.refuse("exception_index", format!("exception {index} under way")));
            }
            Ok(())
        })
    }
}

/// What the built-in firmware knows of the hart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirmwareState {
    /// SBI's hart state, and where the hart is to start while a start is pending.
    pub status: u8,
    pub start: (u64, u64),
    pub stopped: bool,
    /// Where a suspended hart goes on.
    pub restart: Option<(u64, u64)>,
    /// Firmware counters: event (0 for none), running, value.
    pub counters: Vec<(u16, bool, u64)>,
}

/// `cpu`.
#[derive(Debug, Clone)]
pub struct CpuState {
    pub isa: Arc<IsaConfig>,
    pub hartid: u64,
    pub registers: Box<HartState>,
    /// All of them, those in MXCSR too.
    pub fflags: u8,
    pub mip: u64,
    /// The part of `mip` that software set; unknown in QEMU's streams.
    pub soft: Option<u64>,
    /// Present on a machine with the built-in firmware.
    pub firmware: Option<FirmwareState>,
}

impl CpuState {
    /// The registers of `hart`.
    pub fn of(hart: &Hart, firmware: Option<FirmwareState>) -> Self {
        Self {
            isa: Arc::clone(&hart.env.isa),
            hartid: hart.env.hartid,
            registers: hart.state.clone(),
            fflags: hart.fflags(),
            mip: hart.env.irq.pending(),
            soft: Some(hart.env.irq.soft()),
            firmware,
        }
    }

    /// Be in this state. Lines driven by devices stay as they drive them; MSIP, which its device
    /// does not send, is among what `mip` says.
    pub fn restore(self, hart: &mut Hart) {
        let from = self.registers;
        // `cpu_common` said so before.
        let waiting = hart.state.waiting;
        trap::reset(hart, from.pc);
        hart.state.waiting = waiting;
        // Through the rules of each register, so that no stream makes a value that no guest could.
        let legal = [
            (number::MSTATUS, from.mstatus),
            (number::MENVCFG, from.menvcfg),
            (number::SENVCFG, from.senvcfg),
            (number::MEDELEG, from.medeleg),
            (number::MIDELEG, from.mideleg),
            (number::MIE, from.mie),
            (number::MTVEC, from.mtvec),
            (number::STVEC, from.stvec),
            (number::MCOUNTEREN, from.mcounteren),
            (number::SCOUNTEREN, from.scounteren),
            (number::MEPC, from.mepc),
            (number::SEPC, from.sepc),
            (number::SATP, from.satp),
            (number::TSELECT, from.tselect),
            (number::MCONTEXT, from.mcontext),
            (number::MISELECT, from.miselect),
            (number::SISELECT, from.siselect),
        ];
        for (csr, value) in legal {
            csr::set(hart, csr, value);
        }
        for (csr, value) in (number::MSTATEEN0..).zip(from.mstateen) {
            csr::set(hart, csr, value);
        }
        let s = &mut hart.state;
        s.x = from.x;
        s.f = from.f;
        s.frm = from.frm;
        s.privilege = from.privilege;
        s.misa = from.misa;
        s.mscratch = from.mscratch;
        s.mcause = from.mcause;
        s.mtval = from.mtval;
        s.sscratch = from.sscratch;
        s.scause = from.scause;
        s.stval = from.stval;
        s.stimecmp = from.stimecmp;
        s.mseccfg = from.mseccfg;
        s.mcountinhibit = from.mcountinhibit;
        s.mcycle_offset = from.mcycle_offset;
        s.minstret_offset = from.minstret_offset;
        s.mhpmcounter = from.mhpmcounter;
        s.mhpmevent = from.mhpmevent;
        s.hpm_wrapped = from.hpm_wrapped;
        s.tdata = from.tdata;
        s.pmpcfg = from.pmpcfg.map(|cfg| cfg & (pmp::LOCK | 0x1f));
        s.pmpaddr = from.pmpaddr.map(|addr| addr & pmp::ADDR_MASK);
        hart.set_fflags(self.fflags);
        let soft = self.soft.unwrap_or_else(|| {
            let timer = if hart.env.isa.sstc && from.menvcfg >> 63 != 0 { 0 } else { STIP };
            self.mip & (SSIP | LCOFIP | timer)
        });
        hart.env.irq.set_soft(soft, true);
        hart.env.irq.set_lines(MSIP, self.mip & MSIP != 0);
        hart.translations_changed();
        hart.context_changed();
    }
}

/// A field that has one value here.
fn constant(f: &mut dyn Fields, name: &'static str, value: u64) -> Result<(), StateError> {
    let mut found = value;
    f.u64(name, &mut found)?;
    if found != value {
        return Err(f.refuse(name, format!("{found:#x} is not {value:#x}")));
    }
    Ok(())
}

/// A field that means nothing to harts of this machine: zero, or what it was left at.
fn idle(f: &mut dyn Fields, name: &'static str) -> Result<(), StateError> {
    f.u64(name, &mut 0)
}

/// A register of 64 bits that QEMU keeps in 32.
fn half(f: &mut dyn Fields, name: &'static str, value: &mut u64) -> Result<(), StateError> {
    let mut word = *value as u32;
    f.u32(name, &mut word)?;
    *value = word.into();
    Ok(())
}

impl VmState for CpuState {
    const VMSD: Vmsd = Vmsd::new("cpu", 10);

    fn before_load(&mut self) {
        self.registers.mcontext = 0;
        self.registers.mseccfg = 0;
        self.registers.mstateen = [0; 4];
        self.registers.reservation = NO_RESERVATION;
        self.registers.pmpcfg = [0; PMP_ENTRIES];
        if let Some(firmware) = &mut self.firmware {
            *firmware = FirmwareState { counters: firmware.counters.clone(), ..Default::default() };
        }
    }

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        self.integer_state(f)?;
        self.control_state(f)?;
        self.counter_state(f)?;
        let s = &mut self.registers;
        f.u64("env.sscratch", &mut s.sscratch)?;
        f.u64("env.mscratch", &mut s.mscratch)?;
        f.u64("env.stimecmp", &mut s.stimecmp)?;
        self.subsections(f)
    }
}

impl CpuState {
    fn integer_state(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let s = &mut self.registers;
        f.u64s("env.gpr", &mut s.x)?;
        if s.x[0] != 0 {
            return Err(f.refuse("env.gpr", "register 0 is not zero".to_owned()));
        }
        f.u64s("env.fpr", &mut s.f)?;
        f.u8s("env.miprio", &mut { M_PRIORITIES })?;
        f.u8s("env.siprio", &mut { S_PRIORITIES })?;
        f.u64("env.pc", &mut s.pc)?;
        let unit = if self.isa.c { 2 } else { 4 };
        if !s.pc.is_multiple_of(unit) {
            return Err(f.refuse("env.pc", format!("{:#x} is misaligned", s.pc)));
        }
        // A reservation does not travel: the guest's `sc` fails, and it tries again.
        idle_with(f, "env.load_res", NO_RESERVATION)?;
        idle(f, "env.load_val")?;
        let mut frm = u64::from(s.frm);
        f.u64("env.frm", &mut frm)?;
        s.frm = u8::try_from(frm)
            .ok()
            .filter(|&frm| frm < 8)
            .ok_or_else(|| f.refuse("env.frm", format!("{frm} is no rounding mode")))?;
        idle(f, "env.badaddr")?;
        idle(f, "env.guest_phys_fault_addr")?;
        constant(f, "env.priv_ver", PRIVILEGED_SPEC)?;
        idle_with(f, "env.vext_ver", VECTOR_SPEC)?;
        let mut mxl = MXL_64;
        f.u32("env.misa_mxl", &mut mxl)?;
        if mxl != MXL_64 {
            return Err(f.refuse("env.misa_mxl", format!("{mxl} is not {MXL_64}")));
        }
        let mut letters = (s.misa & LETTERS) as u32;
        f.u32("env.misa_ext", &mut letters)?;
        self.unused_bytes(f)?;
        let mut mask = (self.isa.misa() & LETTERS) as u32;
        f.u32("env.misa_ext_mask", &mut mask)?;
        let missing = u64::from(letters) & !self.isa.misa() & LETTERS;
        if missing != 0 {
            let reason = format!("extensions {missing:#x} are missing here");
            return Err(f.refuse("env.misa_ext", reason));
        }
        self.registers.misa = u64::from(MXL_64) << 62 | u64::from(letters);
        Ok(())
    }

    /// See the module's documentation.
    fn unused_bytes(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let [high, low] = (self.soft.unwrap_or(0) as u16).to_be_bytes();
        let mut bytes = [high, low, 0, self.fflags | EXTRA];
        f.elements("unused", "unused_buffer", 4, &mut bytes)?;
        self.fflags = bytes[3] & 31;
        let used = bytes[3] & EXTRA != 0;
        self.soft = used.then(|| u16::from_be_bytes([bytes[0], bytes[1]]).into());
        Ok(())
    }

    fn control_state(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let s = &mut self.registers;
        let mut privilege = s.privilege as u64;
        f.u64("env.priv", &mut privilege)?;
        s.privilege = match privilege {
            0 => Privilege::User,
            1 => Privilege::Supervisor,
            3 => Privilege::Machine,
            other => return Err(f.refuse("env.priv", format!("{other} is no privilege level"))),
        };
        let mut virtualised = false;
        f.bool("env.virt_enabled", &mut virtualised)?;
        if virtualised {
            let reason = "the hypervisor extension is missing here".to_owned();
            return Err(f.refuse("env.virt_enabled", reason));
        }
        idle_with(f, "env.resetvec", RESET_VECTOR)?;
        constant(f, "env.mhartid", self.hartid)?;
        f.u64("env.mstatus", &mut s.mstatus)?;
        f.u64("env.mip", &mut self.mip)?;
        idle(f, "env.miclaim")?;
        f.u64("env.mie", &mut s.mie)?;
        idle(f, "env.mvien")?;
        idle(f, "env.mvip")?;
        idle(f, "env.sie")?;
        f.u64("env.mideleg", &mut s.mideleg)?;
        f.u64("env.satp", &mut s.satp)?;
        let modes = [SatpMode::Bare, SatpMode::Sv39, SatpMode::Sv48, SatpMode::Sv57];
        let mode = s.satp >> 60;
        if !modes.iter().any(|m| *m <= self.isa.satp_mode && m.encoding() == mode) {
            return Err(f.refuse("env.satp", format!("mode {mode} is not supported here")));
        }
        f.u64("env.stval", &mut s.stval)?;
        f.u64("env.medeleg", &mut s.medeleg)?;
        f.u64("env.stvec", &mut s.stvec)?;
        f.u64("env.sepc", &mut s.sepc)?;
        f.u64("env.scause", &mut s.scause)?;
        f.u64("env.mtvec", &mut s.mtvec)?;
        for (name, vector) in [("env.stvec", s.stvec), ("env.mtvec", s.mtvec)] {
            if vector & 3 > 1 {
                return Err(f.refuse(name, format!("mode {} is reserved", vector & 3)));
            }
        }
        f.u64("env.mepc", &mut s.mepc)?;
        f.u64("env.mcause", &mut s.mcause)?;
        f.u64("env.mtval", &mut s.mtval)?;
        f.u64("env.miselect", &mut s.miselect)?;
        f.u64("env.siselect", &mut s.siselect)?;
        s.miselect &= ISELECT_MASK;
        s.siselect &= ISELECT_MASK;
        half(f, "env.scounteren", &mut s.scounteren)?;
        half(f, "env.mcounteren", &mut s.mcounteren)?;
        f.u32("env.scountinhibit", &mut 0)?;
        half(f, "env.mcountinhibit", &mut s.mcountinhibit)
    }

    fn counter_state(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let s = &mut self.registers;
        // The stored parts: what a counter read when it last started or stopped, less the clock's
        // time where it runs.
        let mut stored = [0; COUNTERS];
        stored[0] = s.mcycle_offset;
        stored[2] = s.minstret_offset;
        stored[3..].copy_from_slice(&s.mhpmcounter);
        let mut wrapped = 0;
        f.structures("env.pmu_ctrs", Vmsd::new("cpu/pmu", 2), COUNTERS, &mut |i, f| {
            f.u64("mhpmcounter_val", &mut stored[i])?;
            let mut seen = u64::from(s.hpm_wrapped >> i & 1);
            f.u64("mhpmcounterh_val", &mut seen)?;
            wrapped |= u32::from(seen == 1) << i;
            let mut previous = 0;
            f.u64("mhpmcounter_prev", &mut previous)?;
            stored[i] = stored[i].wrapping_sub(previous);
            idle(f, "mhpmcounterh_prev")
        })?;
        s.mcycle_offset = stored[0];
        s.minstret_offset = stored[2];
        s.mhpmcounter.copy_from_slice(&stored[3..]);
        s.hpm_wrapped = wrapped;
        let mut events = [0; COUNTERS];
        events[3..].copy_from_slice(&s.mhpmevent);
        f.u64s("env.mhpmevent_val", &mut events)?;
        for (event, loaded) in
            s.mhpmevent.iter_mut().zip(events.iter().skip(COUNTERS - HPM_COUNTERS))
        {
            *event = loaded & csr::counters::HPM_EVENT_WRITABLE;
        }
        f.u64s("env.mhpmeventh_val", &mut [0; COUNTERS])
    }

    fn subsections(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let s = &mut self.registers;
        let isa = &self.isa;
        f.subsection(Vmsd::new("cpu/pmp", 1), isa.pmp_entries != 0, &mut |f| {
            let entry = Vmsd::new("cpu/pmp/entry", 1);
            f.structures("env.pmp_state.pmp", entry, PMP_ENTRIES, &mut |i, f| {
                f.u64("addr_reg", &mut s.pmpaddr[i])?;
                f.u8("cfg_reg", &mut s.pmpcfg[i])
            })
        })?;
        f.subsection(Vmsd::new("cpu/envcfg", 1), true, &mut |f| {
            f.u64("env.menvcfg", &mut s.menvcfg)?;
            f.u64("env.senvcfg", &mut s.senvcfg)?;
            idle(f, "env.henvcfg")
        })?;
        f.subsection(Vmsd::new("cpu/debug", 2), isa.debug, &mut |f| {
            f.u64("env.trigger_cur", &mut s.tselect)?;
            for (i, name) in ["env.tdata1", "env.tdata2", "env.tdata3"].into_iter().enumerate() {
                let mut column = s.tdata.map(|trigger| trigger[i]);
                f.u64s(name, &mut column)?;
                for (trigger, value) in s.tdata.iter_mut().zip(column) {
                    trigger[i] = value;
                }
            }
            Ok(())
        })?;
        // QEMU's spelling.
        f.subsection(Vmsd::new("cpu/smtateen", 1), isa.smstateen, &mut |f| {
            f.u64s("env.mstateen", &mut s.mstateen)?;
            f.u64s("env.hstateen", &mut [0; 4])?;
            f.u64s("env.sstateen", &mut s.sstateen)
        })?;
        f.subsection(Vmsd::new("cpu/mseccfg", 1), isa.smepmp || isa.zkr, &mut |f| {
            f.u64("env.mseccfg", &mut s.mseccfg)
        })?;
        f.subsection(Vmsd::new("cpu/mcontext", 1), s.mcontext != 0, &mut |f| {
            f.u64("env.mcontext", &mut s.mcontext)
        })?;
        let has_firmware = self.firmware.is_some();
        let mut absent = FirmwareState::default();
        let firmware = self.firmware.as_mut().unwrap_or(&mut absent);
        f.subsection(Vmsd::new("cpu/sbi", 1), has_firmware, &mut |f| {
            if !has_firmware {
                let reason = "this machine has no built-in firmware".to_owned();
                return Err(f.refuse("firmware", reason));
            }
            f.u8("status", &mut firmware.status)?;
            f.u64("start_addr", &mut firmware.start.0)?;
            f.u64("start_opaque", &mut firmware.start.1)?;
            f.bool("stopped", &mut firmware.stopped)?;
            let mut restarts = firmware.restart.is_some();
            f.bool("restarts", &mut restarts)?;
            let (mut pc, mut opaque) = firmware.restart.unwrap_or_default();
            f.u64("restart_pc", &mut pc)?;
            f.u64("restart_opaque", &mut opaque)?;
            firmware.restart = restarts.then_some((pc, opaque));
            let counters = &mut firmware.counters;
            let counter = Vmsd::new("cpu/sbi/counter", 1);
            f.structures("counters", counter, counters.len(), &mut |i, f| {
                f.u16("event", &mut counters[i].0)?;
                f.bool("running", &mut counters[i].1)?;
                f.u64("value", &mut counters[i].2)
            })
        })
    }
}

/// As `idle`, with the value that QEMU has.
fn idle_with(f: &mut dyn Fields, name: &'static str, value: u64) -> Result<(), StateError> {
    f.u64(name, &mut { value })
}

#[cfg(test)]
mod tests;
