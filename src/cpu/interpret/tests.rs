//! The interpreter on assembled programs, on tables of corner cases, and on every operation there
//! is.

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmLabelApi, VecAssembler, dynasm};

use super::{bitmanip, execute, integer, step};
use crate::cpu::decode::{decode, tests as decoder};
use crate::cpu::hart::tests::harts_alone;
use crate::cpu::hart::{Hart, Trap};
use crate::cpu::insn::{Group, Insn, Op};
use crate::cpu::isa::IsaConfig;
use crate::cpu::state::Privilege;
use crate::machine::memory::RAM_BASE;

const RAM_SIZE: u64 = 1 << 16;
/// Where the tests keep data.
const DATA: u64 = RAM_BASE + 0x8000;
const FS_INITIAL: u64 = 1 << 13;
const FS_DIRTY: u64 = 3 << 13;

fn hart_with(isa: IsaConfig) -> Hart {
    let mut hart = Hart::new(harts_alone(1, isa, RAM_SIZE).remove(0));
    hart.state.pc = RAM_BASE;
    hart.state.mstatus = FS_INITIAL;
    hart.context_changed();
    hart
}

fn hart() -> Hart {
    hart_with(decoder::everything())
}

/// Run an assembled program up to its `ebreak`, with `a7` pointing to `DATA`.
fn run(assembler: VecAssembler<RiscvRelocation>) -> Hart {
    let program = assembler.finalize().expect("all labels are defined");
    let mut hart = hart();
    hart.env.ram.write(RAM_BASE, &program).expect("the program fits");
    hart.state.x[17] = DATA;
    for _ in 0..10_000 {
        if let Err(trap) = step(&mut hart) {
            assert_eq!(trap, Trap { cause: 3, tval: hart.state.pc });
            return hart;
        }
    }
    panic!("the program does not end; pc is {:#x}", hart.state.pc);
}

macro_rules! program {
    ($($code:tt)*) => {{
        let mut ops = VecAssembler::<RiscvRelocation>::new(RAM_BASE as usize);
        dynasm!(ops ; .arch riscv64i ; .feature gczacas_zfa $($code)* ; ebreak);
        ops
    }};
}

#[test]
fn loops_calls_and_compressed_code() {
    let hart = run(program!(
        ; li a0, 0
        ; li a1, 100
        ; ->again:
        ; c.add a0, a1
        ; c.addi a1, -1
        ; bnez a1, ->again
        ; mv s0, a0
        ; li a0, 90
        ; jal ra, ->gcd
        ; mv s1, a0
        ; j ->end
        ; ->gcd:
        ; li a1, 1071
        ; ->euclid:
        ; remu a2, a1, a0
        ; mv a1, a0
        ; mv a0, a2
        ; bnez a0, ->euclid
        ; mv a0, a1
        ; c.jr ra
        ; ->end:
        ; auipc s2, 0
        ; lui s3, -0x80000000
    ));
    assert_eq!(hart.state.x[8], 5050);
    assert_eq!(hart.state.x[9], 9);
    assert_eq!(hart.state.x[18], hart.state.pc - 8);
    assert_eq!(hart.state.x[19], 0xffff_ffff_8000_0000);
}

#[test]
fn loads_stores_and_their_extension() {
    let hart = run(program!(
        ; li t0, 0x0123456789abcdef
        ; sd t0, [a7, 0]
        ; sd t0, [a7, 8]
        ; lb a0, [a7, 0]
        ; lbu a1, [a7, 0]
        ; lh a2, [a7, 0]
        ; lhu a3, [a7, 0]
        ; lw a4, [a7, 0]
        ; lwu a5, [a7, 0]
        ; ld a6, [a7, 3]
        ; sw t0, [a7, 13]
        ; sh t0, [a7, 5]
        ; sb t0, [a7, 7]
        ; ld s0, [a7, 0]
        ; ld s1, [a7, 8]
        ; ld zero, [a7, 0]
    ));
    let x = &hart.state.x;
    assert_eq!(
        x[10..16],
        [
            0xffff_ffff_ffff_ffef,
            0xef,
            0xffff_ffff_ffff_cdef,
            0xcdef,
            0xffff_ffff_89ab_cdef,
            0x89ab_cdef,
        ]
    );
    assert_eq!(x[16], 0xabcd_ef01_2345_6789);
    assert_eq!(x[8], 0xefcd_ef67_89ab_cdef);
    assert_eq!(x[9], 0xabcd_ef67_89ab_cdef);
    assert_eq!(hart.env.ram.load_u16(DATA + 16).unwrap(), 0x89);
    assert_eq!(x[0], 0);
}

#[test]
fn atomics() {
    let hart = run(program!(
        ; li t0, -0x80000000
        ; sd t0, [a7, 0]
        ; li t1, 5
        ; lr.w a0, [a7]
        ; sc.w a1, t1, [a7]
        // The reservation is used up.
        ; sc.w a2, t1, [a7]
        ; lw a3, [a7, 0]
        ; li t2, -3
        ; amoadd.w a4, t2, [a7]
        ; amomin.w a5, t2, [a7]
        ; amomaxu.w a6, t1, [a7]
        ; lw s0, [a7, 0]
        // The upper word took no part.
        ; lw s1, [a7, 4]
        ; amoswap.d s2, t1, [a7]
        ; amomax.d s3, t2, [a7]
        ; li s4, 6
        ; amocas.d s4, t2, [a7]
        ; mv s5, s4
        ; amocas.d s5, t2, [a7]
        ; ld s6, [a7, 0]
        // amocas.w compares words whatever the upper half of rd.
        ; li s7, 0x1fffffffd
        ; amocas.w s7, t1, [a7]
        ; ld s8, [a7, 0]
    ));
    let x = &hart.state.x;
    let minus3 = -3i64 as u64;
    assert_eq!(x[10], 0xffff_ffff_8000_0000);
    assert_eq!((x[11], x[12], x[13]), (0, 1, 5));
    assert_eq!((x[14], x[15], x[16]), (5, 2, minus3));
    assert_eq!((x[8], x[9]), (minus3, u64::MAX));
    assert_eq!((x[18], x[19]), (minus3, 5));
    assert_eq!((x[20], x[21], x[22]), (5, 5, minus3));
    assert_eq!((x[23], x[24]), (minus3, 0xffff_ffff_0000_0005));
}

#[test]
fn quadword_compare_and_swap_of_register_pairs() {
    let mut hart = hart();
    let insn = |rd: u8, rs2: u8| Insn { op: Op::AmoCasQ, rd, rs2, rs1: 5, ..blank() };
    hart.state.x[5] = DATA;
    (hart.state.x[10], hart.state.x[11]) = (1, 2);
    (hart.state.x[12], hart.state.x[13]) = (3, 4);
    hart.state.x[1] = 77;
    execute(&mut hart, &insn(10, 12)).unwrap();
    assert_eq!((hart.state.x[10], hart.state.x[11]), (0, 0));
    execute(&mut hart, &insn(10, 12)).unwrap();
    assert_eq!(hart.env.ram.load_u64(DATA + 8).unwrap(), 4);
    // The pair of x0 reads as zero and is not written.
    execute(&mut hart, &insn(0, 10)).unwrap();
    assert_eq!(hart.state.x[1], 77);
    execute(&mut hart, &insn(12, 0)).unwrap();
    assert_eq!((hart.state.x[12], hart.state.x[13]), (3, 4));
    assert_eq!(hart.env.ram.load_u64(DATA).unwrap(), 0);
    hart.state.x[5] = DATA + 8;
    assert_eq!(execute(&mut hart, &insn(10, 12)), Err(Trap { cause: 6, tval: DATA + 8 }));
}

#[test]
fn floating_point_registers_flags_and_dirtiness() {
    let hart = run(program!(
        ; li t0, 1
        ; fcvt.s.w fa0, t0
        ; li t0, 3
        ; fcvt.s.w fa1, t0
        ; fdiv.s fa2, fa0, fa1
        ; fcvt.d.s fa3, fa2
        ; fsd fa3, [a7, 0]
        ; fsw fa3, [a7, 8]
        // A double is no boxed single.
        ; fadd.s fa4, fa3, fa0
        ; fmv.x.w a0, fa3
        ; fmv.x.d a1, fa2
        ; feq.s a2, fa4, fa4
        ; fclass.s a3, fa4
        ; flw fa5, [a7, 8]
        ; fli.d fa6, 0.5
        ; fmadd.d fa7, fa6, fa6, fa6
    ));
    let third = 0x3eaa_aaab;
    let wide = f64::from(f32::from_bits(third)).to_bits();
    assert_eq!(hart.state.f[12], 0xffff_ffff_0000_0000 | u64::from(third));
    assert_eq!(hart.state.f[13], wide);
    assert_eq!(hart.env.ram.load_u64(DATA).unwrap(), wide);
    assert_eq!(hart.state.f[14], 0xffff_ffff_7fc0_0000);
    assert_eq!(hart.state.x[10], wide as i32 as u64);
    assert_eq!(hart.state.x[11], hart.state.f[12]);
    assert_eq!((hart.state.x[12], hart.state.x[13]), (0, 1 << 9));
    assert_eq!(hart.state.f[15], 0xffff_ffff_0000_0000 | wide & 0xffff_ffff);
    assert_eq!(hart.state.f[17], 0.75f64.to_bits());
    assert_eq!(hart.fflags(), 1);
    assert_eq!(hart.state.mstatus & FS_DIRTY, FS_DIRTY);
}

fn blank() -> Insn {
    decode(0x13, &decoder::everything())
}

/// Comparisons and stores write no FP state, unless they raise a flag.
#[test]
fn fs_turns_dirty_only_when_fp_state_is_written() {
    let feq = decode(0xa0b5_2553, &decoder::everything());
    let fsw = decode(0x00a5_2027, &decoder::everything());
    assert_eq!((feq.op, fsw.op), (Op::FeqS, Op::Fsw));
    let mut hart = hart();
    hart.state.f[10] = 0xffff_ffff_3f80_0000;
    hart.state.f[11] = 0xffff_ffff_7fc0_0000;
    execute(&mut hart, &feq).unwrap();
    hart.state.x[10] = DATA;
    execute(&mut hart, &fsw).unwrap();
    assert_eq!(hart.state.mstatus & FS_DIRTY, FS_INITIAL);
    hart.state.f[11] = 0xffff_ffff_7f80_0001;
    execute(&mut hart, &feq).unwrap();
    assert_eq!(hart.state.mstatus & FS_DIRTY, FS_DIRTY);
    assert_eq!(hart.fflags(), 16);
}

#[test]
fn dynamic_rounding_mode() {
    // fdiv.s fa0, fa0, fa1 with rm = 7
    let fdiv = decode(0x18b5_7553, &decoder::everything());
    assert_eq!((fdiv.op, fdiv.rm), (Op::FdivS, 7));
    for (frm, expected) in [
        (0, Some(0x3eaa_aaab)),
        (1, Some(0x3eaa_aaaa)),
        (2, Some(0x3eaa_aaaa)),
        (3, Some(0x3eaa_aaab)),
        (4, Some(0x3eaa_aaab)),
        (5, None),
        (6, None),
        (7, None),
    ] {
        let mut hart = hart();
        hart.state.frm = frm;
        hart.state.f[10] = 0xffff_ffff_3f80_0000;
        hart.state.f[11] = 0xffff_ffff_4040_0000;
        let result = execute(&mut hart, &fdiv);
        match expected {
            Some(bits) => assert_eq!(hart.state.f[10] as u32, bits, "frm {frm}"),
            None => assert_eq!(result, Err(Trap { cause: 2, tval: 0x18b5_7553 }), "frm {frm}"),
        }
    }
}

/// The parts of the state that a trapping instruction must leave alone.
fn visible(hart: &Hart) -> ([u64; 32], [u64; 32], u64, u64, u8) {
    (hart.state.x, hart.state.f, hart.state.pc, hart.state.mstatus, hart.fflags())
}

#[test]
fn traps_change_nothing() {
    let without_c = || IsaConfig { c: false, zca: false, zcd: false, ..decoder::everything() };
    let bad = 0x10; // no RAM, no device
    let table: &[(u32, IsaConfig, u64, u64)] = &[
        // funct3 4 of SYSTEM, and an illegal halfword with rubbish above it
        (0xc000_4073, decoder::everything(), 2, 0xc000_4073),
        (0xdead_0000, decoder::everything(), 2, 0),
        (0x0000_0073, decoder::everything(), 11, 0),
        (0x0010_0073, decoder::everything(), 3, RAM_BASE),
        // jal ra, +6; jalr ra, 6(a0); beq x0, x0, +6 without C
        (0x0060_00ef, without_c(), 0, RAM_BASE + 6),
        (0x0065_00e7, without_c(), 0, bad + 6),
        (0x0000_0363, without_c(), 0, RAM_BASE + 6),
        // lw ra, 0(a0); sw ra, 0(a0); flw ft1, 0(a0); lr.w; amoadd.w
        (0x0005_2083, decoder::everything(), 5, bad),
        (0x0015_2023, decoder::everything(), 7, bad),
        (0x0005_2087, decoder::everything(), 5, bad),
        (0x1005_20af, decoder::everything(), 5, bad),
        (0x00b5_20af, decoder::everything(), 7, bad),
    ];
    for (raw, isa, cause, tval) in table {
        let insn = decode(*raw, isa);
        let mut hart = hart_with(isa.clone());
        hart.state.x[10] = bad;
        let before = visible(&hart);
        let tval = *tval;
        assert_eq!(execute(&mut hart, &insn), Err(Trap { cause: *cause, tval }), "{raw:08x}");
        assert_eq!(visible(&hart), before, "{raw:08x}");
    }
    // A branch that is not taken has no target to be misaligned: bne x0, x0, +6.
    let insn = decode(0x0000_1363, &without_c());
    let mut hart = hart_with(without_c());
    assert_eq!(execute(&mut hart, &insn), Ok(()));
    for (privilege, cause) in
        [(Privilege::User, 8), (Privilege::Supervisor, 9), (Privilege::Machine, 11)]
    {
        hart.state.privilege = privilege;
        let ecall = decode(0x73, &without_c());
        assert_eq!(execute(&mut hart, &ecall), Err(Trap { cause, tval: 0 }));
    }
}

/// Each operation, once with all destinations and once with x0: it runs, x0 stays zero, and
/// without FP state every one of the FP group is illegal.
#[test]
fn every_operation_is_executed() {
    let isa = decoder::everything();
    for sample in decoder::samples(&isa) {
        if sample.op.group() == Group::System || matches!(sample.op, Op::Ecall | Op::Ebreak) {
            continue;
        }
        for rd in [0, 14] {
            let insn =
                Insn { rd, imm: if sample.op == Op::Jalr { 4 } else { sample.imm }, ..sample };
            let mut hart = hart();
            hart.state.x = [DATA; 32];
            hart.state.x[0] = 0;
            // Base register of memory accesses; the samples use x0 or x12 at an arbitrary offset.
            let insn = match insn.op.group() {
                Group::Memory => Insn { imm: 0, rs1: 12, ..insn },
                Group::Float
                    if matches!(
                        insn.op,
                        Op::Flw | Op::Fld | Op::Flh | Op::Fsw | Op::Fsd | Op::Fsh
                    ) =>
                {
                    Insn { imm: 0, rs1: 12, ..insn }
                }
                Group::Atomic => Insn { rs1: 12, ..insn },
                _ => insn,
            };
            let pc = hart.state.pc;
            assert_eq!(execute(&mut hart, &insn), Ok(()), "{insn:?}");
            assert_eq!(hart.state.x[0], 0, "{insn:?}");
            assert!(hart.state.pc != pc || insn.op.group() == Group::Control, "{insn:?}");
            if insn.op.group() == Group::Float {
                let mut hart = hart_with(isa.clone());
                hart.state.mstatus = 0;
                let illegal = Trap { cause: 2, tval: insn.raw.into() };
                assert_eq!(execute(&mut hart, &insn), Err(illegal), "{insn:?}");
            }
        }
    }
}

#[test]
fn corner_cases_of_multiplication_and_division() {
    const MIN: u64 = i64::MIN as u64;
    const MIN32: u64 = i32::MIN as u64;
    const ONES: u64 = u64::MAX;
    for (op, a, b, expected) in [
        (Op::Div, 7, 0, ONES),
        (Op::Div, MIN, ONES, MIN),
        (Op::Div, -7i64 as u64, 2, -3i64 as u64),
        (Op::Divu, 7, 0, ONES),
        (Op::Rem, 7, 0, 7),
        (Op::Rem, MIN, ONES, 0),
        (Op::Rem, -7i64 as u64, 2, ONES),
        (Op::Remu, 7, 0, 7),
        (Op::Divw, 1 << 32 | 7, 1 << 32, ONES),
        (Op::Divw, MIN32, ONES, MIN32),
        (Op::Divuw, 0x8000_0000, 1, MIN32),
        (Op::Divuw, 7, 1 << 32, ONES),
        (Op::Remw, 0x8000_0000, 0, MIN32),
        (Op::Remw, MIN32, ONES, 0),
        (Op::Remuw, 0x8000_0000, 0, MIN32),
        (Op::Mulh, MIN, MIN, 1 << 62),
        (Op::Mulhsu, ONES, ONES, ONES),
        (Op::Mulhsu, MIN, 2, ONES),
        (Op::Mulhu, ONES, ONES, ONES - 1),
        (Op::Mulw, 0x8000_0001, 3, 0xffff_ffff_8000_0003),
        (Op::Sraw, 0x0000_0001_8000_0000, 31, ONES),
        (Op::Srlw, 0xffff_ffff_8000_0000, 32, MIN32),
        (Op::Sllw, 1, 31, MIN32),
        (Op::Sra, MIN, 127, ONES),
        (Op::Slt, ONES, 0, 1),
        (Op::Sltu, ONES, 0, 0),
        (Op::Sltiu, 5, ONES, 1),
        (Op::CzeroEqz, 5, 0, 0),
        (Op::CzeroEqz, 5, 1, 5),
        (Op::CzeroNez, 5, 0, 5),
        (Op::CzeroNez, 5, 1, 0),
    ] {
        assert_eq!(integer::value(op, a, b, 0), Some(expected), "{op:?} {a:#x} {b:#x}");
    }
}

#[test]
fn corner_cases_of_bit_manipulation() {
    const ONES: u64 = u64::MAX;
    const X: u64 = 0x0123_4567_89ab_cdef;
    for (op, a, b, expected) in [
        (Op::AddUw, ONES, 1, 1 << 32),
        (Op::Sh3addUw, ONES, 1, 0x7_ffff_fff9),
        (Op::Sh1add, 1 << 63, 1, 1),
        (Op::Sh2add, 3, 1, 13),
        (Op::SlliUw, ONES, 63, 1 << 63),
        (Op::Andn, ONES, X, !X),
        (Op::Orn, 0, X, !X),
        (Op::Xnor, X, 0, !X),
        (Op::Clz, 0, 0, 64),
        (Op::Ctzw, 1 << 32, 0, 32),
        (Op::Clzw, ONES << 32, 0, 32),
        (Op::Cpopw, ONES, 0, 32),
        (Op::SextB, 0x180, 0, 0xffff_ffff_ffff_ff80),
        (Op::SextH, 0x1_8000, 0, 0xffff_ffff_ffff_8000),
        (Op::ZextH, X, 0, 0xcdef),
        (Op::Min, ONES, 0, ONES),
        (Op::Minu, ONES, 0, 0),
        (Op::Max, ONES, 0, 0),
        (Op::Maxu, ONES, 0, ONES),
        (Op::Rol, X, 4, 0x1234_5678_9abc_def0),
        (Op::Ror, X, 68, 0xf012_3456_789a_bcde),
        (Op::Rolw, 0x4000_0000, 33, 0xffff_ffff_8000_0000),
        (Op::Roriw, 1, 1, 0xffff_ffff_8000_0000),
        (Op::OrcB, 0x0100_0080_0000_ff00, 0, 0xff00_00ff_0000_ff00),
        (Op::Rev8, X, 0, 0xefcd_ab89_6745_2301),
        (Op::Brev8, X, 0, 0x80c4_a2e6_91d5_b3f7),
        (Op::Pack, X, X, 0x89ab_cdef_89ab_cdef),
        (Op::Packh, X, X, 0xefef),
        (Op::Packw, X, X, 0xffff_ffff_cdef_cdef),
        (Op::Clmul, ONES, ONES, 0x5555_5555_5555_5555),
        (Op::Clmulh, ONES, ONES, 0x5555_5555_5555_5555),
        (Op::Clmulr, ONES, ONES, 0xaaaa_aaaa_aaaa_aaaa),
        (Op::Clmul, 3, 7, 9),
        (Op::Bclr, ONES, 64, ONES - 1),
        (Op::Bexti, 1 << 63, 63, 1),
        (Op::Binv, 1, 0, 0),
        (Op::Bset, 0, 127, 1 << 63),
        (Op::Xperm4, 0xfedc_ba98_7654_3210, X, X),
        (Op::Xperm4, X, 0x0000_0000_0000_00f0, 0xffff_ffff_ffff_ff0f),
        (Op::Xperm8, X, 0x0706_0504_0302_0108, 0x0123_4567_89ab_cd00),
    ] {
        assert_eq!(bitmanip::value(op, a, b), Some(expected), "{op:?} {a:#x} {b:#x}");
    }
}
