//! The state in which the built-in firmware hands a hart to S-mode. It follows what OpenSBI sets
//! up on `virt`, except that every exception other than `ecall` from S-mode is delegated: there is
//! no M-mode code that could handle one.

use crate::cpu::isa::IsaConfig;

/// Values of the machine-level CSRs while the built-in firmware serves the hart. CSRs that are
/// not here keep their reset values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialCsrs {
    pub mstatus: u64,
    pub medeleg: u64,
    pub mideleg: u64,
    pub mcounteren: u64,
    pub scounteren: u64,
    pub menvcfg: u64,
    /// `mstateen0`; the others stay zero.
    pub mstateen0: u64,
    /// First PMP entry: all of memory, readable, writable, executable, not locked.
    pub pmpcfg0: u8,
    pub pmpaddr0: u64,
}

/// Exceptions 0 to 8 (all but `ecall` from S-mode and M-mode) and the page faults 12, 13, 15.
const MEDELEG: u64 = 0x1ff | 1 << 12 | 1 << 13 | 1 << 15;
/// Supervisor software, timer and external interrupt.
const MIDELEG: u64 = 1 << 1 | 1 << 5 | 1 << 9;
/// Local counter-overflow interrupt (Sscofpmf).
const MIDELEG_LCOFI: u64 = 1 << 13;

/// `mstatus.FS` = Dirty, as OpenSBI leaves it.
const MSTATUS_FS: u64 = 3 << 13;
/// `mstatus.UXL`, `SXL` = 64 bits.
const MSTATUS_XL: u64 = 2 << 32 | 2 << 34;

const MENVCFG_CBIE_INVALIDATE: u64 = 3 << 4;
const MENVCFG_CBCFE: u64 = 1 << 6;
const MENVCFG_CBZE: u64 = 1 << 7;
const MENVCFG_ADUE: u64 = 1 << 61;
const MENVCFG_PBMTE: u64 = 1 << 62;
const MENVCFG_STCE: u64 = 1 << 63;

/// `pmpcfg` byte: NAPOT, X, W, R.
const PMP_NAPOT_RWX: u8 = 3 << 3 | 0b111;
/// `pmpaddr` of the NAPOT region that is the whole address space (54 bits of address >> 2).
const PMP_EVERYTHING: u64 = (1 << 54) - 1;

/// The values for a hart with these extensions.
pub fn initial_csrs(isa: &IsaConfig) -> InitialCsrs {
    let when = |present: bool, bits: u64| if present { bits } else { 0 };
    InitialCsrs {
        mstatus: MSTATUS_XL | when(isa.f, MSTATUS_FS),
        medeleg: MEDELEG,
        mideleg: MIDELEG | when(isa.sscofpmf, MIDELEG_LCOFI),
        mcounteren: 0xffff_ffff,
        // cycle, time, instret.
        scounteren: 7,
        menvcfg: when(isa.zicbom, MENVCFG_CBIE_INVALIDATE | MENVCFG_CBCFE)
            | when(isa.zicboz, MENVCFG_CBZE)
            // With Svade in the ISA string the guest expects faults until it asks otherwise.
            | when(isa.svadu && !isa.svade, MENVCFG_ADUE)
            | when(isa.svpbmt, MENVCFG_PBMTE)
            | when(isa.sstc, MENVCFG_STCE),
        // SE0, ENVCFG, CSRIND, AIA, IMSIC, CONTEXT (Smstateen 1.0): everything that is there.
        mstateen0: when(isa.smstateen, 1 << 63 | 1 << 62 | 0b1_1111 << 57),
        pmpcfg0: PMP_NAPOT_RWX,
        pmpaddr0: PMP_EVERYTHING,
    }
}
