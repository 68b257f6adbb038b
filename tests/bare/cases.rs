//! The cases: combinations of instructions, modes and state.

use understudy::cpu::pte;

use crate::guest::{LEAVES, MIDDLE, PAGE, ROOT_S, ROOT_U, SLOT};

/// One instruction to run and the state around it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `mstatus` before `mret`: MPP is the mode.
    pub mstatus: u64,
    /// Where `mret` goes.
    pub start: u64,
    /// Bits of the instruction at `SLOT`, the next one's too where it is compressed.
    pub insn: u64,
    pub a0: u64,
    pub a1: u64,
    pub menvcfg: u64,
    pub senvcfg: u64,
    /// `mcounteren` and `scounteren`.
    pub counteren: u64,
    pub satp: u64,
    pub medeleg: u64,
    pub mie: u64,
    /// Stored at `pte_at`, unless that is zero.
    pub pte: u64,
    pub pte_at: u64,
}

const NOP: u64 = 0x13;
const MODES: [u64; 3] = [3 << 11, 1 << 11, 0];
const FS: u64 = 1 << 13;
const SUM: u64 = 1 << 18;
const MXR: u64 = 1 << 19;
const TVM_TW_TSR: u64 = 7 << 20;
const MPRV: u64 = 1 << 17;
const ADUE: u64 = 1 << 61;
const PBMTE: u64 = 1 << 62;
const STCE: u64 = 1 << 63;
const CBO: u64 = 0xf0;

const BASIC: Case = Case {
    mstatus: 0,
    start: SLOT,
    insn: NOP,
    a0: PAGE + 8,
    a1: 0,
    menvcfg: ADUE,
    senvcfg: 0,
    counteren: 0,
    satp: 0,
    medeleg: 0,
    mie: 0,
    pte: 0,
    pte_at: 0,
};

/// A small deterministic generator (xorshift64*).
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Every CSR number, read and written with its own value (`csrrs a0, csr, a1` with a1 = 0), in
/// every mode, with enables off and on.
pub fn csr_accesses() -> Vec<Case> {
    let mut cases = Vec::new();
    for csr in 0..4096u64 {
        for mode in MODES {
            for (mstatus, menvcfg, counteren) in
                [(0, ADUE, 0), (FS, ADUE | STCE, u64::MAX), (FS | TVM_TW_TSR, ADUE, 1)]
            {
                for write in [0, 11u64 << 15] {
                    cases.push(Case {
                        mstatus: mode | mstatus,
                        insn: csr << 20 | write | 2 << 12 | 10 << 7 | 0x73,
                        menvcfg,
                        counteren,
                        ..BASIC
                    });
                }
            }
        }
    }
    cases
}

/// Everything under opcode SYSTEM with funct3 0, and the cache-block instructions, in every mode.
pub fn system_instructions() -> Vec<Case> {
    const WFI: u64 = 0x105;
    let mut cases = Vec::new();
    for mode in MODES {
        for mstatus in [0, TVM_TW_TSR] {
            let waits = mode != 0 && (mode == 3 << 11 || mstatus == 0);
            for funct12 in 0..4096u64 {
                for (rd, rs1) in [(0, 0), (0, 10), (10, 0)] {
                    if funct12 == WFI && rd == 0 && rs1 == 0 && waits {
                        continue;
                    }
                    // QEMU lets U-mode order invalidations, which Svinval forbids.
                    if matches!(funct12, 0x180 | 0x181) && mode == 0 {
                        continue;
                    }
                    let insn = funct12 << 20 | rs1 << 15 | rd << 7 | 0x73;
                    cases.push(Case { mstatus: mode | mstatus, insn, ..BASIC });
                    if funct12 < 3 {
                        // All but the environment call that ends a case.
                        let medeleg = !(1 << 9);
                        cases.push(Case { mstatus: mode | mstatus, insn, medeleg, ..BASIC });
                    }
                }
            }
        }
        for op in 0..8u64 {
            for menvcfg in [0, 0x10, 0x30, 0x40, 0x80, CBO] {
                for senvcfg in [0, 0x10, 0x30, 0x40, 0x80, CBO] {
                    for rd in [0, 10] {
                        let insn = op << 20 | 10 << 15 | 2 << 12 | rd << 7 | 0x0f;
                        let menvcfg = ADUE | menvcfg;
                        let a0 = PAGE + 0x400;
                        cases.push(Case { mstatus: mode, insn, a0, menvcfg, senvcfg, ..BASIC });
                    }
                }
            }
        }
    }
    cases
}

/// Loads, stores, fetches and atomics through page-table entries with every combination of the low
/// flags and a choice of the high bits, as a leaf and one level up.
pub fn page_table_entries() -> Vec<Case> {
    const LOAD: u64 = 10 << 15 | 3 << 12 | 11 << 7 | 0x03;
    const STORE: u64 = 11 << 20 | 10 << 15 | 3 << 12 | 0x23;
    const LOAD_RESERVED: u64 = 2 << 27 | 10 << 15 | 3 << 12 | 11 << 7 | 0x2f;
    const AMOADD: u64 = 10 << 15 | 3 << 12 | 11 << 7 | 0x2f;
    let sv39 = |root: u64| 8 << 60 | root >> 12;
    let settings = [
        (MODES[1], ROOT_S),
        (MODES[1] | SUM, ROOT_S),
        (MODES[1] | MXR, ROOT_S),
        (MODES[0] | MPRV | MXR, ROOT_S),
        (MODES[2], ROOT_U),
    ];
    // Not PBMT = 3: reserved, and taken by QEMU.
    let pbmt = |kind: u64| kind << pte::PBMT_SHIFT;
    let high = [0, pte::N, pbmt(1), pbmt(2), 1 << 54, 1 << 60, 3 << 8];
    let mut cases = Vec::new();
    for (mstatus, root) in settings {
        let base = Case { mstatus, satp: sv39(root), a1: 5, ..BASIC };
        for (low, high, menvcfg) in (0..256u64)
            .flat_map(|low| high.map(|high| (low, high)))
            .flat_map(|(low, high)| [(low, high, ADUE | PBMTE), (low, high, 0)])
        {
            if high != 0 && low & (pte::A | pte::D) == pte::D {
                continue;
            }
            let case = Case { pte: pte::entry(PAGE, low | high), pte_at: LEAVES, menvcfg, ..base };
            for insn in [LOAD, STORE] {
                cases.push(Case { insn, a0: 8, ..case });
            }
            if mstatus & MPRV == 0 {
                cases.push(Case { start: 0, ..case });
            }
            if high == 0 {
                cases.push(Case { insn: LOAD_RESERVED, a0: 8, ..case });
                cases.push(Case { insn: AMOADD, a0: 8, ..case });
                // As a superpage (misaligned) and as a pointer, in the middle.
                let pte = pte::entry(LEAVES, low);
                let a0 = 0x20_0008;
                cases.push(Case { insn: LOAD, a0, pte, pte_at: MIDDLE + 8, menvcfg, ..base });
            }
        }
        // Addresses that are not canonical, at the edges and far out.
        for a0 in [1 << 38, 1 << 39, u64::MAX << 39, u64::MAX << 38, 1 << 63, (1 << 38) - 8] {
            for insn in [LOAD, STORE] {
                cases.push(Case { insn, a0, ..base });
            }
        }
    }
    cases
}

/// Random bits under the opcodes that neither jump nor reach memory, full-size and compressed.
pub fn random_encodings() -> Vec<Case> {
    const OPCODES: [u64; 10] = [0x13, 0x1b, 0x33, 0x3b, 0x43, 0x47, 0x4b, 0x4f, 0x53, 0x37];
    const A0: u64 = 10;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut cases = Vec::new();
    for i in 0..60_000 {
        let opcode = OPCODES[i % OPCODES.len()];
        // Register operands a0 and a1, all else random; mostly the sparse upper bits of real code.
        let keep = match random.next() % 3 {
            0 => 0xfff0_7000,
            1 => 0x6e00_7000,
            _ => 0x7e1f_7000,
        };
        let rs2 = if random.next() & 1 == 0 { A0 + random.next() % 2 } else { random.next() % 32 };
        let mut insn = random.next() & keep | A0 << 15 | A0 << 7 | opcode;
        if keep & 0x01f0_0000 == 0 {
            insn |= rs2 << 20;
        }
        let small = random.next().is_multiple_of(3);
        let (a0, a1) = (random.next(), random.next());
        let (a0, a1) = if small { (a0 % 64, a1 % 64) } else { (a0, a1) };
        cases.push(Case { mstatus: MODES[i % 3] | FS, insn, a0, a1, ..BASIC });
    }
    // Reserved fields of fences, fence.i, and everything of the custom opcodes.
    for i in 0..2000 {
        let opcode = [0x0b, 0x2b, 0x5b, 0x7b, 0x57, 0x77, 0x1f, 0x3f, 0x5f, 0x7f][i % 10];
        let insn = random.next() & 0xffff_f000 | A0 << 7 | opcode;
        cases.push(Case { mstatus: FS, insn, ..BASIC });
    }
    // Quadrants 0 and 1 of the compressed space without loads, stores and jumps, on a0 and a1.
    const C_NOP: u64 = 0x0001_0000;
    for half in 0..0x1_0000u64 {
        let (quadrant, funct3) = (half & 3, half >> 13);
        let wanted = match (quadrant, funct3) {
            (0, 4) => true,
            (1, 0..=3) => half >> 7 & 31 == A0,
            (1, 4) => half >> 7 & 7 == 2,
            (2, 0) => half >> 7 & 31 == A0,
            (2, 4) => half >> 7 & 31 == A0 && half >> 2 & 31 != 0,
            _ => false,
        };
        if wanted {
            let (a0, a1) = (0xfedc_ba98_7654_3210, 0x0f1e_2d3c_4b5a_6978);
            cases.push(Case { mstatus: FS, insn: half | C_NOP, a0, a1, ..BASIC });
        }
    }
    cases
}
