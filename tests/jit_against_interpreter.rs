//! The translator against the reference interpreter: random straight-line and branching programs
//! over every instruction, random register values (with the awkward FP ones), all rounding modes;
//! registers, flags, memory and the trap that ends the program must be the same.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use understudy::actors::outlet::Outlet;
use understudy::cpu::decode::decode;
use understudy::cpu::hart::{Hart, HartEnv, Trap};
use understudy::cpu::inbox::Peers;
use understudy::cpu::insn::Op;
use understudy::cpu::interpret;
use understudy::cpu::isa::IsaConfig;
use understudy::cpu::trap;
use understudy::devices::bus::Bus;
use understudy::jit::engine::{Engine, Exit};
use understudy::machine::clock::VirtualClock;
use understudy::machine::memory::{GuestRam, RAM_BASE};

const RAM: u64 = 1 << 20;
const CODE: u64 = RAM_BASE;
const DATA: u64 = RAM_BASE + 0x8_0000;
const EBREAK: u32 = 0x0010_0073;
/// Registers that point into the data area and are never written.
const BASES: [u8; 3] = [2, 9, 20];

fn hart() -> Hart {
    let peers = Peers::new(1);
    let env = HartEnv {
        hartid: 0,
        isa: Arc::new(IsaConfig::max()),
        ram: Arc::new(GuestRam::new(RAM_BASE, RAM).unwrap()),
        bus: Arc::new(Bus::default()),
        irq: Arc::clone(&peers.0[0].irq),
        clock: Arc::new(VirtualClock::default()),
        inbox: Arc::clone(&peers.0[0].inbox),
        peers,
        stimer: Outlet::Unconnected,
        random: Default::default(),
    };
    env.ram.observe_code(Arc::new(env.peers.clone()));
    let mut hart = Hart::new(env);
    trap::reset(&mut hart, CODE);
    hart.state.mstatus |= 3 << 13;
    hart.context_changed();
    hart
}

/// Every legal combination of the fields that select an instruction, by operation.
fn templates(isa: &IsaConfig) -> Vec<(Op, Vec<u32>)> {
    let mut map: HashMap<Op, Vec<u32>> = HashMap::new();
    let opcodes = [
        0x03, 0x07, 0x0f, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33, 0x37, 0x3b, 0x43, 0x47, 0x4b,
        0x4f, 0x53, 0x63, 0x6f,
    ];
    for opcode in opcodes {
        for funct3 in 0..8 {
            for funct7 in 0..128 {
                for rs2 in 0..32 {
                    // rd and rs1 even, for amocas.q.
                    let word =
                        funct7 << 25 | rs2 << 20 | 10 << 15 | funct3 << 12 | 12 << 7 | opcode;
                    let insn = decode(word, isa);
                    if insn.op != Op::Illegal {
                        map.entry(insn.op).or_default().push(word);
                    }
                }
            }
        }
    }
    for excluded in [Op::FenceI, Op::CboInval, Op::CboClean, Op::CboFlush] {
        map.remove(&excluded);
    }
    let mut ops: Vec<_> = map.into_iter().collect();
    ops.sort_by_key(|(op, _)| *op as u16);
    ops
}

#[derive(Debug, Clone)]
struct Choice {
    op: usize,
    template: usize,
    rd: u8,
    rs1: u8,
    rs2: u8,
    imm: u16,
}

fn is_memory(op: Op) -> bool {
    let m = op.mnemonic();
    matches!(
        m,
        "lb" | "lh"
            | "lw"
            | "ld"
            | "lbu"
            | "lhu"
            | "lwu"
            | "sb"
            | "sh"
            | "sw"
            | "sd"
            | "flw"
            | "fsw"
            | "fld"
            | "fsd"
            | "flh"
            | "fsh"
            | "cbo.zero"
    ) || m.starts_with("amo")
        || m.starts_with("lr.")
        || m.starts_with("sc.")
}

fn set(word: &mut u32, shift: u32, mask: u32, value: u32) {
    *word = *word & !(mask << shift) | (value & mask) << shift;
}

/// The instruction word of a choice, kept inside the program and the data area. `left` is the
/// number of instructions to the end.
fn encode(choice: &Choice, ops: &[(Op, Vec<u32>)], isa: &IsaConfig, left: usize) -> u32 {
    let (op, words) = &ops[choice.op % ops.len()];
    let mut word = words[choice.template % words.len()];
    let rd = u32::from(choice.rd % 32);
    let rd = if BASES.contains(&(rd as u8)) { 5 } else { rd };
    let base = u32::from(BASES[usize::from(choice.rs1) % 3]);
    let rs1 = if is_memory(*op) { base } else { u32::from(choice.rs1 % 32) };
    let opcode = word & 0x7f;
    let hop = 4 * (1 + u32::from(choice.imm) % (left.max(1) as u32).min(6));
    match opcode {
        0x63 => {
            let fields = rs1 << 15 | u32::from(choice.rs2 % 32) << 20;
            return word & 0x707f | fields | (hop & 0x1e) << 7 | (hop & 0x7e0) << 20;
        }
        0x6f => return opcode | rd << 7 | (hop & 0x7fe) << 20,
        0x23 | 0x27 => {
            set(&mut word, 15, 31, rs1);
            set(&mut word, 20, 31, u32::from(choice.rs2 % 32));
            set(&mut word, 7, 31, u32::from(choice.imm));
            set(&mut word, 25, 0x3f, u32::from(choice.imm >> 5));
            return word;
        }
        _ => {}
    }
    let attempt = |fields: &[(u32, u32, u32)]| {
        let mut w = word;
        for &(shift, mask, value) in fields {
            set(&mut w, shift, mask, value);
        }
        (decode(w, isa).op == *op).then_some(w)
    };
    let immediate = (20, 0xfff, u32::from(choice.imm) & 0x7ff);
    let rs2 = (20, 31, u32::from(choice.rs2));
    let upper = (12, 0xf_ffff, u32::from(choice.imm) << 4);
    let regs = [(7, 31, rd), (15, 31, rs1)];
    if matches!(opcode, 0x17 | 0x37) {
        return attempt(&[regs[0], upper]).unwrap_or(word);
    }
    let candidates: [&[(u32, u32, u32)]; 3] =
        [&[regs[0], regs[1], immediate], &[regs[0], regs[1], rs2], &regs];
    let fallback = || if is_memory(*op) { 0x13 } else { word };
    candidates.iter().find_map(|f| attempt(f)).unwrap_or_else(fallback)
}

const AWKWARD: [u64; 20] = [
    0,
    1,
    u64::MAX,
    1 << 63,
    i64::MAX as u64,
    0xffff_ffff,
    0x8000_0000,
    0x7fff_ffff,
    0xffff_ffff_8000_0000,
    0x3ff0_0000_0000_0000,
    0xbff8_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff8_0000_0000_0001,
    0x7ff0_0000_0000_0001,
    0x0000_0000_0000_0001,
    0x000f_ffff_ffff_ffff,
    0xffff_ffff_7f80_0001,
    0xffff_ffff_3fc0_0000,
    0xffff_ffff_7fc0_1234,
    0x41e0_0000_0010_0000,
];

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), prop::sample::select(AWKWARD.to_vec()), (0u64..200)]
}

fn choice() -> impl Strategy<Value = Choice> {
    (any::<usize>(), any::<usize>(), 0u8..32, 0u8..32, 0u8..32, any::<u16>())
        .prop_map(|(op, template, rd, rs1, rs2, imm)| Choice { op, template, rd, rs1, rs2, imm })
}

#[derive(Debug, Clone)]
struct Case {
    choices: Vec<Choice>,
    x: Vec<u64>,
    f: Vec<u64>,
    frm: u8,
    start: u16,
}

fn case() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec(choice(), 1..60),
        prop::collection::vec(value(), 32),
        prop::collection::vec(value(), 32),
        0u8..6,
        prop_oneof![Just(0u16), (0u16..2048).prop_map(|n| 2 * n)],
    )
        .prop_map(|(choices, x, f, frm, start)| Case { choices, x, f, frm, start })
}

fn program(case: &Case, ops: &[(Op, Vec<u32>)], isa: &IsaConfig) -> Vec<u32> {
    let n = case.choices.len();
    let encoded = case.choices.iter().enumerate().map(|(i, c)| encode(c, ops, isa, n - i));
    encoded.chain([EBREAK]).collect()
}

fn load(hart: &mut Hart, case: &Case, program: &[u32]) {
    for (i, word) in program.iter().enumerate() {
        let at = CODE + u64::from(case.start) + 4 * i as u64;
        hart.env.ram.write(at, &word.to_le_bytes()).unwrap();
    }
    for i in 0..0x1000u64 {
        hart.env.ram.store_u64(DATA - 0x4000 + 8 * i, case.x[i as usize % 32] ^ i << 7).unwrap();
    }
    hart.state.pc = CODE + u64::from(case.start);
    for r in 1..32 {
        hart.state.x[r] = case.x[r];
        hart.state.f[r] = case.f[r];
    }
    hart.state.f[0] = case.f[0];
    for (i, base) in BASES.iter().enumerate() {
        // One is at the end of a page and one is misaligned.
        hart.state.x[usize::from(*base)] = DATA + [0, 0xff8, 0x801][i];
    }
    hart.state.frm = case.frm;
    hart.context_changed();
}

fn outcome(hart: &Hart, trap: Trap) -> (Trap, u64, Vec<u64>, Vec<u64>, u8, u64) {
    let s = &hart.state;
    (trap, s.pc, s.x.to_vec(), s.f.to_vec(), hart.fflags(), s.reservation)
}

fn compare(case: &Case, program: &[u32]) -> Result<(), TestCaseError> {
    let mut engine = Engine::new(1 << 20).unwrap();
    let (mut a, mut b) = (hart(), hart());
    load(&mut a, case, program);
    load(&mut b, case, program);
    let expected = loop {
        if let Err(trap) = interpret::step(&mut a) {
            break trap;
        }
    };
    let got = loop {
        match engine.run(&mut b) {
            Exit::Trap(trap) => break trap,
            Exit::Polled => {
                b.env.irq.take_kick();
            }
        }
    };
    let names: Vec<_> = program.iter().map(|&w| decode(w, &a.env.isa).op.mnemonic()).collect();
    prop_assert_eq!(outcome(&b, got), outcome(&a, expected), "program {:?}", names);
    let mut memory = [vec![0; 0x8000], vec![0; 0x8000]];
    for (hart, bytes) in [&a, &b].into_iter().zip(&mut memory) {
        hart.env.ram.read(DATA - 0x4000, bytes).unwrap();
    }
    prop_assert!(memory[0] == memory[1], "memory differs after {names:?}");
    Ok(())
}

#[test]
fn random_programs_do_the_same() {
    let isa = IsaConfig::max();
    let ops = templates(&isa);
    assert!(ops.len() > 250, "only {} operations have templates", ops.len());
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() };
    proptest!(config, |(case in case())| {
        compare(&case, &program(&case, &ops, &isa))?;
    });
}

/// Every operation on its own, many times over, so that none goes untested.
#[test]
fn every_operation_does_the_same() {
    let isa = IsaConfig::max();
    let ops = templates(&isa);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for (i, (op, _)) in ops.iter().enumerate() {
        for _ in 0..60 {
            let mut case = case().new_tree(&mut runner).unwrap().current();
            case.choices.truncate(3);
            case.start = 0;
            for c in &mut case.choices {
                c.op = i;
            }
            let program = program(&case, &ops, &isa);
            if let Err(error) = compare(&case, &program) {
                panic!("{}: {error}\n{program:x?}\n{case:x?}", op.mnemonic());
            }
        }
    }
}
