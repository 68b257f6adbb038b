//! The program that runs the cases, and the layout of its memory.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use understudy::cpu::pte;

use crate::cases::Case;
use crate::prologue::open_up;

pub const BASE: u64 = 0x8000_0000;
/// Size of guest memory, in bytes.
pub const MEMORY: u64 = 128 << 20;
const DRIVER: u64 = BASE + 0x800;
const HANDLER: u64 = BASE + 0x1000;
const SAVED: u64 = BASE + 0x1800;
/// Where the instruction of a case is put; environment calls follow it.
pub const SLOT: u64 = BASE + 0x2000;
/// Where traps delegated to S-mode arrive (direct mode): an environment call.
pub const SUPERVISOR_HANDLER: u64 = BASE + 0x2100;
/// A page for translated accesses: an environment call, then data.
pub const PAGE: u64 = BASE + 0x3000;
/// Page tables whose gigapage at `BASE` is for S-mode, or for U-mode, and whose entry 0 leads to
/// `MIDDLE` and on to `LEAVES`.
pub const ROOT_S: u64 = BASE + 0x4000;
pub const ROOT_U: u64 = BASE + 0x5000;
pub const MIDDLE: u64 = BASE + 0x6000;
pub const LEAVES: u64 = BASE + 0x7000;
const CASES: u64 = BASE + 0x10_0000;
const RESULTS: u64 = BASE + 0x400_0000;
pub const UART: u64 = 0x1000_0000;
/// What the program writes to the UART when all cases have run.
pub const DONE: u8 = b'D';

const CASE_WORDS: usize = 16;
const RESULT_WORDS: usize = 16;
const ECALL: u32 = 0x73;
/// Privileged instructions, which dynasm does not know.
const MRET: u32 = 0x3020_0073;
const SFENCE_VMA: u32 = 0x1200_0073;

/// What a case left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub mcause: u64,
    pub mepc: u64,
    pub mtval: u64,
    pub mstatus: u64,
    pub a0: u64,
    pub a1: u64,
    pub pte: u64,
    pub scause: u64,
    pub sepc: u64,
    pub stval: u64,
    pub fcsr: u64,
}

/// Guest memory's range of results, as (address, bytes).
pub fn results_range(count: usize) -> (u64, usize) {
    (RESULTS, count * RESULT_WORDS * 8)
}

/// Outcomes from the bytes of `results_range`.
pub fn outcomes(bytes: &[u8]) -> Vec<Outcome> {
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
    let result = |w: &[u64]| Outcome {
        mcause: w[0],
        mepc: w[1],
        mtval: w[2],
        mstatus: w[3],
        a0: w[4],
        a1: w[5],
        pte: w[6],
        scause: w[7],
        sepc: w[8],
        stval: w[9],
        fcsr: w[10],
    };
    words.chunks_exact(RESULT_WORDS).map(result).collect()
}

fn assemble(base: u64, code: impl FnOnce(&mut VecAssembler<RiscvRelocation>)) -> Vec<u8> {
    let mut ops = VecAssembler::new(base as usize);
    code(&mut ops);
    ops.finalize().expect("all labels are defined")
}

/// Prepare: s0 points to the first case, s1 counts, s2 points to the first result.
fn prologue(count: usize) -> Vec<u8> {
    let count = count as i64;
    assemble(BASE, |ops| {
        // The reset vectors of the two leave different values.
        for register in (1..32).filter(|r| !(8..12).contains(r)) {
            dynasm!(ops
                ; .arch riscv64i
                ; li X(register), 0
            );
        }
        open_up(ops, HANDLER);
        dynasm!(ops
            ; .arch riscv64i
            ; .feature gc
            ; li s0, CASES as i64
            ; li s1, count
            ; li s2, RESULTS as i64
            ; li t0, DRIVER as i64
            ; jr t0
        );
    })
}

/// Run the case at s0.
fn driver() -> Vec<u8> {
    assemble(DRIVER, |ops| {
        dynasm!(ops
            ; .arch riscv64i
            ; .feature gc
            ; beqz s1, ->done
            ; ld t0, [s0, 88]
            ; ld t1, [s0, 96]
            ; beqz t1, ->no_pte
            ; sd t0, [t1, 0]
            ; ->no_pte:
            ; ld t0, [s0, 16]
            ; li t1, SLOT as i64
            ; sw t0, [t1, 0]
            ; ld t0, [s0, 40]
            ; csrw 0x30a, t0
            ; ld t0, [s0, 48]
            ; csrw 0x10a, t0
            ; ld t0, [s0, 56]
            ; csrw 0x306, t0
            ; csrw 0x106, t0
            ; ld t0, [s0, 64]
            ; csrw 0x180, t0
            ; ld t0, [s0, 72]
            ; csrw 0x302, t0
            ; ld t0, [s0, 80]
            ; csrw 0x304, t0
            ; li t0, SUPERVISOR_HANDLER as i64
            ; csrw 0x105, t0
            ; csrw 0x141, x0
            ; csrw 0x142, x0
            ; csrw 0x143, x0
            ; csrw 0x14d, x0
            ; li t0, SAVED as i64
            ; sd s0, [t0, 0]
            ; sd s1, [t0, 8]
            ; sd s2, [t0, 16]
            ; csrw 0x340, t0
            ; ld t0, [s0, 8]
            ; csrw 0x341, t0
            ; fence.i
            ; .u32 SFENCE_VMA
            ; li t0, 0x2000
            ; csrw 0x300, t0
            ; csrw 0x003, x0
            ; ld a0, [s0, 24]
            ; ld a1, [s0, 32]
            ; ld t0, [s0, 0]
            ; csrw 0x300, t0
            ; li t0, 0
            ; .u32 MRET
            ; ->done:
            ; li t0, UART as i64
            ; li t1, i64::from(DONE)
            ; sb t1, [t0, 0]
            ; ->stop:
            ; j ->stop
        );
    })
}

/// The trap handler in M-mode: store the outcome and go on with the next case.
fn handler() -> Vec<u8> {
    assemble(HANDLER, |ops| {
        dynasm!(ops
            ; .arch riscv64i
            ; .feature gc
            ; csrr t0, 0x340
            ; ld s0, [t0, 0]
            ; ld s1, [t0, 8]
            ; ld s2, [t0, 16]
            ; csrr t0, 0x342
            ; sd t0, [s2, 0]
            ; csrr t0, 0x341
            ; sd t0, [s2, 8]
            ; csrr t0, 0x343
            ; sd t0, [s2, 16]
            ; csrr t0, 0x300
            ; sd t0, [s2, 24]
            ; sd a0, [s2, 32]
            ; sd a1, [s2, 40]
            ; ld t1, [s0, 96]
            ; beqz t1, ->no_pte
            ; ld t1, [t1, 0]
            ; ->no_pte:
            ; sd t1, [s2, 48]
            ; csrr t0, 0x142
            ; sd t0, [s2, 56]
            ; csrr t0, 0x141
            ; sd t0, [s2, 64]
            ; csrr t0, 0x143
            ; sd t0, [s2, 72]
            ; csrw 0x180, x0
            ; li t0, 0x2000
            ; csrw 0x300, t0
            ; csrr t0, 0x003
            ; sd t0, [s2, 80]
            ; addi s0, s0, (CASE_WORDS * 8) as i32
            ; addi s1, s1, -1
            ; addi s2, s2, (RESULT_WORDS * 8) as i32
            ; li t0, DRIVER as i64
            ; jr t0
        );
    })
}

/// Memory from `BASE` on: the program, its tables and the cases.
pub fn image(cases: &[Case]) -> Vec<u8> {
    let mut image = vec![0; (CASES - BASE) as usize];
    let mut put = |address: u64, bytes: &[u8]| {
        let at = (address - BASE) as usize;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(BASE, &prologue(cases.len()));
    put(DRIVER, &driver());
    put(HANDLER, &handler());
    for address in [SLOT + 4, SLOT + 8, SUPERVISOR_HANDLER, PAGE] {
        put(address, &ECALL.to_le_bytes());
    }
    put(PAGE + 8, &0x8877_6655_4433_2211u64.to_le_bytes());
    let pointer = |to: u64| pte::entry(to, pte::V).to_le_bytes();
    let flags = pte::V | pte::R | pte::W | pte::X | pte::A | pte::D;
    for (root, flags) in [(ROOT_S, flags), (ROOT_U, flags | pte::U)] {
        put(root, &pointer(MIDDLE));
        put(root + 16, &pte::entry(BASE, flags).to_le_bytes());
    }
    put(MIDDLE, &pointer(LEAVES));
    for case in cases {
        let mut words = [0; CASE_WORDS];
        let fields = [
            case.mstatus,
            case.start,
            case.insn,
            case.a0,
            case.a1,
            case.menvcfg,
            case.senvcfg,
            case.counteren,
            case.satp,
            case.medeleg,
            case.mie,
            case.pte,
            case.pte_at,
        ];
        words[..fields.len()].copy_from_slice(&fields);
        image.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    }
    assert!(BASE + (image.len() as u64) < RESULTS, "too many cases");
    image
}
