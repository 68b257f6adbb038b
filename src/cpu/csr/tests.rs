//! CSRs, traps, translation and system instructions of one hart, by table.

use std::sync::Arc;

use super::bits::{MIE, SIE, *};
use super::number::{self, *};
use super::{get, read, set, write};
use crate::actors::outlet::Outlet;
use crate::cpu::hart::tests::harts_alone;
use crate::cpu::hart::{ArmStimer, Hart, Trap};
use crate::cpu::insn::{Insn, Op};
use crate::cpu::irq::{LCOFIP, MEIP, MSIP, MTIP, SEIP, SSIP, STIP};
use crate::cpu::isa::IsaConfig;
use crate::cpu::mmu::{Access, translate};
use crate::cpu::state::Privilege::{self, Machine as M, Supervisor as S, User as U};
use crate::cpu::system::execute_system;
use crate::cpu::trap::{INTERRUPT, pending_interrupt, reset, take};
use crate::machine::memory::RAM_BASE;

const RAM_SIZE: u64 = 0x20_0000;

fn hart_of(option: &str) -> Hart {
    let (_, isa) = IsaConfig::from_cpu_option(option).expect("a valid -cpu option");
    let mut hart = Hart::new(harts_alone(4, isa, RAM_SIZE).remove(3));
    reset(&mut hart, 0x1000);
    hart
}

fn hart() -> Hart {
    hart_of("rv64")
}

fn enter(hart: &mut Hart, privilege: Privilege) {
    hart.state.privilege = privilege;
    hart.context_changed();
}

/// Let S and U reach all memory.
fn open_pmp(hart: &mut Hart) {
    set(hart, PMPADDR0, u64::MAX);
    set(hart, PMPCFG0, 0x1f);
}

const ILLEGAL: Trap = Trap { cause: 2, tval: 0 };

/// (CSR, value after reset, after writing all ones, after writing zero), as QEMU 10.0 prints them.
#[test]
fn warl() {
    let all = u64::MAX;
    let rv64: &[(u16, u64, u64, u64)] = &[
        (SSTATUS, 0x2_0000_0000, 0x8000_0002_000c_6122, 0x2_0000_0000),
        (number::SIE, 0, 0, 0),
        (STVEC, 0, 0, 0),
        (SCOUNTEREN, 0, 0x7_ffff, 0),
        (SENVCFG, 0, 0xf1, 0),
        (SEPC, 0, !1, 0),
        (SCAUSE, 0, all, 0),
        (SIP, 0, 0, 0),
        (STIMECMP, 0, all, 0),
        (SATP, 0, 0, 0),
        (MSTATUS, 0xa_0000_0000, 0x8000_000a_007e_79aa, 0xa_0000_0000),
        (MISA, 0x8000_0000_0014_112d, 0x8000_0000_0014_112d, 0x8000_0000_0014_112d),
        (MEDELEG, 0, 0xf4_bfff, 0),
        (MIDELEG, 0, 0x2666, 0),
        (number::MIE, 0, !0x1555, 0),
        (MTVEC, 0, 0, 0),
        (MCOUNTEREN, 0, 0x7_ffff, 0),
        (MENVCFG, 1 << 61, 0xb000_0000_0000_00f1, 0),
        (MCOUNTINHIBIT, 0, 0x7_fffd, 0),
        (MHPMEVENT3, 0, 0xf3ff_ffff_ffff_ffff, 0),
        (MHPMEVENT31, 0, 0xf3ff_ffff_ffff_ffff, 0),
        (MIP, 0, 0x2666, 0),
        (TSELECT, 0, 0, 0),
        (TDATA2, 0, all, 0),
        (MCONTEXT, 0, 0x1fff, 0),
        (MHARTID, 3, 3, 3),
    ];
    let extended: &[(u16, u64, u64, u64)] = &[
        (MENVCFG, 1 << 62, 0xf000_0000_0000_00f1, 0),
        (MSTATEEN0, 0, 0xd100_0000_0000_0000, 0),
        (MISELECT, 0, 0xfff, 0),
        (SISELECT, 0, 0xfff, 0),
        (MSTATEEN3, 0, 1 << 63, 0),
        (SSTATEEN0, 0, 0, 0),
        (MSECCFG, 0, 0x307, 3),
        (SCOUNTOVF, 0, 0, 0),
    ];
    for (option, table) in [("rv64", rv64), ("max,svade=on", extended)] {
        for &(csr, initial, ones, zero) in table {
            let mut hart = hart_of(option);
            let name = number::name(csr).expect("every CSR has a name");
            assert_eq!(read(&mut hart, csr), Ok(initial), "{name} after reset");
            set(&mut hart, csr, all);
            assert_eq!(get(&mut hart, csr), ones, "{name} after ones");
            set(&mut hart, csr, 0);
            assert_eq!(get(&mut hart, csr), zero, "{name} after zero");
        }
    }
}

#[test]
fn values_that_are_refused() {
    let cases: &[(u16, &[u64], u64)] = &[
        (SATP, &[8 << 60 | 5, 11 << 60], 8 << 60 | 5),
        (SATP, &[10 << 60 | 0xffff << 44, 7 << 60], 10 << 60 | 0xffff << 44),
        (MTVEC, &[0x101, 0x202], 0x101),
        (MSTATUS, &[0x1800, 0x1000], 0xa_0000_1800),
        (MSTATUS, &[0x800, 0x1000], 0xa_0000_0800),
        (MSTATUS, &[0x6000], 0x8000_000a_0000_6000),
        (TSELECT, &[1, 2], 1),
        (PMPCFG0, &[0x60], 0),
        (PMPCFG0, &[0x98, 0], 0x98),
        (PMPADDR0, &[u64::MAX], (1 << 54) - 1),
    ];
    for (csr, values, result) in cases {
        let mut hart = hart();
        for value in *values {
            set(&mut hart, *csr, *value);
        }
        assert_eq!(get(&mut hart, *csr), *result, "{csr:#x} <- {values:x?}");
    }
    // A locked TOR entry locks the address below it as well.
    let mut hart = hart();
    set(&mut hart, PMPADDR0, 0x100);
    set(&mut hart, PMPADDR0 + 1, 0x200);
    set(&mut hart, PMPCFG0, 0x8f00);
    for i in 0..3 {
        set(&mut hart, PMPADDR0 + i, 0x300);
    }
    let addresses = [0, 1, 2].map(|i| get(&mut hart, PMPADDR0 + i));
    assert_eq!(addresses, [0x100, 0x200, 0x300]);
    // Narrower translation: Sv57 is refused.
    let mut hart = hart_of("rv64,sv48=on");
    set(&mut hart, SATP, 10 << 60);
    assert_eq!(get(&mut hart, SATP), 0);
}

/// What each mode may do to each CSR, after `setup` in M-mode.
#[test]
fn access_rules() {
    type Setup = fn(&mut Hart);
    let none: Setup = |_| {};
    let cases: &[(&str, Setup, Privilege, u16, bool, bool)] = &[
        ("privilege", none, S, MSCRATCH, false, false),
        ("privilege", none, U, SSCRATCH, false, false),
        ("read-only", none, M, MHARTID, true, false),
        ("read-only", none, M, CYCLE, true, false),
        ("absent", none, M, 0x7c0, false, false),
        ("absent counter", none, M, MHPMCOUNTER3 + 16, false, false),
        ("odd pmpcfg", none, M, PMPCFG0 + 1, false, false),
        ("no Zkr", none, M, SEED, true, false),
        ("FS off", none, M, FCSR, false, false),
        ("FS on", |h| set(h, MSTATUS, 0x2000), U, FCSR, true, true),
        ("TVM", |h| set(h, MSTATUS, TVM), S, SATP, false, false),
        ("TVM in M", |h| set(h, MSTATUS, TVM), M, SATP, true, true),
        ("no TVM", none, S, SATP, true, true),
        ("mcounteren 0", none, S, CYCLE, false, false),
        ("mcounteren", |h| set(h, MCOUNTEREN, 1), S, CYCLE, false, true),
        ("scounteren 0", |h| set(h, MCOUNTEREN, 1), U, CYCLE, false, false),
        (
            "both",
            |h| {
                set(h, MCOUNTEREN, 2);
                set(h, SCOUNTEREN, 2);
            },
            U,
            TIME,
            false,
            true,
        ),
        ("stimecmp in M", none, M, STIMECMP, true, true),
        ("stimecmp", none, S, STIMECMP, true, false),
        ("stimecmp with STCE alone", |h| set(h, MENVCFG, 1 << 63), S, STIMECMP, true, false),
        (
            "stimecmp enabled",
            |h| {
                set(h, MENVCFG, 1 << 63);
                set(h, MCOUNTEREN, 2);
            },
            S,
            STIMECMP,
            true,
            true,
        ),
    ];
    for (what, setup, privilege, csr, writes, allowed) in cases {
        let mut hart = hart();
        setup(&mut hart);
        enter(&mut hart, *privilege);
        let result =
            if *writes { write(&mut hart, *csr, 0) } else { read(&mut hart, *csr).map(|_| ()) };
        assert_eq!(result, if *allowed { Ok(()) } else { Err(ILLEGAL) }, "{what}: {csr:#x}");
    }
    let mut hart = hart_of("max");
    for (privilege, bit) in [(S, MSECCFG_SSEED), (U, MSECCFG_USEED)] {
        enter(&mut hart, privilege);
        assert_eq!(write(&mut hart, SEED, 0), Err(ILLEGAL));
        set(&mut hart, MSECCFG, bit);
        assert_eq!(write(&mut hart, SEED, 0), Ok(()));
        assert_eq!(read(&mut hart, SEED), Err(ILLEGAL), "a pure read");
    }
    assert_eq!(write(&mut hart, SENVCFG, 1), Err(ILLEGAL), "U-mode");
    enter(&mut hart, S);
    assert_eq!(write(&mut hart, SENVCFG, 1), Err(ILLEGAL), "mstateen0.ENVCFG is clear");
    set(&mut hart, MSTATEEN0, STATEEN0_ENVCFG);
    assert_eq!(write(&mut hart, SENVCFG, 1), Ok(()));
    assert_eq!(write(&mut hart, SISELECT, 1), Err(ILLEGAL), "mstateen0.CSRIND is clear");
    set(&mut hart, MSTATEEN0, STATEEN0_CSRIND);
    assert_eq!(write(&mut hart, SISELECT, 1), Ok(()));
    for csr in [0x151, 0x351, 0x357] {
        assert_eq!(read(&mut hart, csr), Err(ILLEGAL), "nothing is behind {csr:#x}");
    }
}

#[test]
fn interrupt_csrs_of_s_mode_are_views() {
    let mut hart = hart();
    set(&mut hart, number::SIE, u64::MAX);
    assert_eq!(get(&mut hart, number::MIE), 0, "nothing is delegated");
    set(&mut hart, MIDELEG, u64::MAX);
    set(&mut hart, number::SIE, u64::MAX);
    set(&mut hart, SIP, u64::MAX);
    assert_eq!(get(&mut hart, number::SIE), 0x2222);
    assert_eq!(get(&mut hart, number::MIE), 0x2222);
    assert_eq!(get(&mut hart, MIP), SSIP | LCOFIP);

    // A wire's SEIP does not become software's by a read-modify-write.
    hart.env.irq.set_lines(SEIP, true);
    let set_ssip = Insn { op: Op::Csrrs, rd: 5, rs1: 6, imm: MIP.into(), ..csr_insn() };
    hart.state.x[6] = SSIP;
    execute_system(&mut hart, &set_ssip).expect("M-mode may");
    assert_eq!(hart.state.x[5], SSIP | LCOFIP | SEIP);
    hart.env.irq.set_lines(SEIP, false);
    assert_eq!(get(&mut hart, MIP) & SEIP, 0);
}

fn csr_insn() -> Insn {
    Insn { op: Op::Csrrw, rd: 0, rs1: 0, rs2: 0, rs3: 0, rm: 0, len: 4, imm: 0, raw: 0x1073 }
}

#[test]
fn csr_instructions_read_and_write_only_when_they_should() {
    let mut hart = hart();
    hart.state.x[6] = 0xf0;
    let run = |hart: &mut Hart, op, rd, rs1, csr: u16| {
        execute_system(hart, &Insn { op, rd, rs1, imm: csr.into(), ..csr_insn() })
    };
    run(&mut hart, Op::Csrrw, 0, 6, MSCRATCH).unwrap();
    run(&mut hart, Op::Csrrsi, 5, 0x1f, MSCRATCH).unwrap();
    assert_eq!((hart.state.x[5], hart.state.mscratch), (0xf0, 0xff));
    run(&mut hart, Op::Csrrc, 6, 6, MSCRATCH).unwrap();
    assert_eq!((hart.state.x[6], hart.state.mscratch), (0xff, 0x0f));
    run(&mut hart, Op::Csrrwi, 7, 3, MSCRATCH).unwrap();
    assert_eq!((hart.state.x[7], hart.state.mscratch), (0x0f, 3));
    assert_eq!(hart.state.pc, 0x1000 + 16);
    // Reads of read-only CSRs through set and clear with x0.
    for op in [Op::Csrrs, Op::Csrrc, Op::Csrrsi, Op::Csrrci] {
        assert_eq!(run(&mut hart, op, 5, 0, MHARTID), Ok(()), "{op:?}");
        assert_eq!(hart.state.x[5], 3);
        hart.state.x[9] = 0;
        let refused = Trap { cause: 2, tval: 0x1073 };
        assert_eq!(run(&mut hart, op, 5, 9, MHARTID), Err(refused), "{op:?}");
    }
    assert_eq!(hart.state.x[0], 0);
}

#[test]
fn delegation_and_vectors() {
    // (mode, cause, delegated, mode after, offset from the vector's base)
    let interrupt = |code: u64| INTERRUPT | code;
    let cases = [
        (U, 8, true, S, 0),
        (U, 8, false, M, 0),
        (S, 9, true, S, 0),
        (M, 11, true, M, 0),
        (M, 2, true, M, 0),
        (S, 12, true, S, 0),
        (S, interrupt(5), true, S, 20),
        (U, interrupt(1), false, M, 4),
        (S, interrupt(9), false, M, 36),
        (M, interrupt(7), false, M, 28),
        (U, interrupt(13), true, S, 52),
    ];
    for (from, cause, delegated, to, offset) in cases {
        let mut hart = hart();
        set(&mut hart, MTVEC, 0x8000_0101);
        set(&mut hart, STVEC, 0x8000_0201);
        let deleg = if cause & INTERRUPT != 0 { MIDELEG } else { MEDELEG };
        set(&mut hart, deleg, if delegated { u64::MAX } else { 0 });
        set(&mut hart, MSTATUS, SIE | MIE | MPRV);
        enter(&mut hart, from);
        take(&mut hart, Trap { cause, tval: 0x55 });
        let what = format!("{cause:#x} from {from:?}, delegated: {delegated}");
        let base = if to == S { 0x8000_0200 } else { 0x8000_0100 };
        assert_eq!(hart.state.privilege, to, "{what}");
        assert_eq!(hart.state.pc, base + offset, "{what}");
        let taken = if to == S { [SEPC, SCAUSE, STVAL] } else { [MEPC, MCAUSE, MTVAL] };
        assert_eq!(taken.map(|csr| get(&mut hart, csr)), [0x1000, cause, 0x55], "{what}");
        let status = get(&mut hart, MSTATUS);
        let expected = if to == S {
            MIE | SPIE | if from == S { SPP } else { 0 }
        } else {
            SIE | MPIE | (from as u64) << MPP_SHIFT
        };
        assert_eq!(status & (SIE | MIE | SPIE | MPIE | SPP | MPP), expected, "{what}");
    }
}

#[test]
fn interrupt_priority_and_enables() {
    let all = MEIP | MSIP | MTIP | SEIP | SSIP | STIP | LCOFIP;
    let mut hart = hart();
    set(&mut hart, number::MIE, u64::MAX);
    hart.env.irq.set_lines(all, true);
    let first = |hart: &Hart| pending_interrupt(hart).map(|t| t.cause & !INTERRUPT);
    assert_eq!(first(&hart), None, "mstatus.MIE is clear");
    set(&mut hart, MSTATUS, MIE);
    for expected in [11, 3, 7, 9, 1, 5, 13] {
        assert_eq!(first(&hart), Some(expected));
        hart.env.irq.set_lines(1 << expected, false);
    }
    assert_eq!(first(&hart), None);

    // Delegated ones never interrupt M, follow SIE in S, and always interrupt U.
    hart.env.irq.set_lines(SSIP, true);
    set(&mut hart, MIDELEG, u64::MAX);
    assert_eq!(first(&hart), None);
    enter(&mut hart, S);
    assert_eq!(first(&hart), None);
    set(&mut hart, SSTATUS, SIE);
    assert_eq!(first(&hart), Some(1));
    set(&mut hart, SSTATUS, 0);
    enter(&mut hart, U);
    assert_eq!(first(&hart), Some(1));
    // What stays with M interrupts lower modes whatever MIE says, and goes first.
    set(&mut hart, MSTATUS, 0);
    hart.env.irq.set_lines(MTIP, true);
    assert_eq!(first(&hart), Some(7));
}

#[test]
fn returns() {
    let mret = Insn { op: Op::Mret, ..csr_insn() };
    let sret = Insn { op: Op::Sret, ..csr_insn() };
    for (mpp, to, mprv) in [(0, U, false), (1, S, false), (3, M, true)] {
        let mut hart = hart();
        open_pmp(&mut hart);
        set(&mut hart, MEPC, 0x8000_0003);
        set(&mut hart, MSTATUS, mpp << MPP_SHIFT | MPIE | MPRV);
        execute_system(&mut hart, &mret).unwrap();
        assert_eq!((hart.state.pc, hart.state.privilege), (0x8000_0002, to));
        let status = get(&mut hart, MSTATUS) & (MIE | MPIE | MPP | MPRV);
        assert_eq!(status, MIE | MPIE | if mprv { MPRV } else { 0 }, "MPP {mpp}");
    }
    let mut hart = hart();
    set(&mut hart, SEPC, 0x8000_0100);
    set(&mut hart, MSTATUS, SPP | SIE | MPRV);
    enter(&mut hart, S);
    execute_system(&mut hart, &sret).unwrap();
    assert_eq!((hart.state.pc, hart.state.privilege), (0x8000_0100, S));
    assert_eq!(get(&mut hart, MSTATUS) & (SIE | SPIE | SPP | MPRV), SPIE);
    // No PMP rule: nothing below M could run, and `mret` says so.
    let mut hart = hart_of("rv64");
    assert_eq!(execute_system(&mut hart, &mret), Err(Trap { cause: 1, tval: 0 }));
    // Without C, addresses are multiples of four.
    let mut hart = hart_of("rv64,c=off");
    set(&mut hart, MEPC, 0x8000_0007);
    assert_eq!(get(&mut hart, MEPC), 0x8000_0004);
}

#[test]
fn system_instructions_by_mode() {
    let cases: &[(Op, u64, Privilege, bool)] = &[
        (Op::Mret, 0, S, false),
        (Op::Sret, 0, U, false),
        (Op::Sret, TSR, S, false),
        (Op::Sret, TSR, M, true),
        (Op::Wfi, 0, U, false),
        (Op::Wfi, 0, S, true),
        (Op::Wfi, TW, S, false),
        (Op::Wfi, TW, M, true),
        (Op::WrsNto, TW, S, false),
        (Op::WrsSto, TW, S, true),
        (Op::SfenceVma, 0, U, false),
        (Op::SfenceVma, TVM, S, false),
        (Op::SfenceVma, TVM, M, true),
        (Op::SinvalVma, TVM, S, false),
        (Op::SfenceWInval, TVM, S, true),
        (Op::SfenceInvalIr, 0, U, false),
        (Op::CboZero, 0, S, false),
        (Op::CboInval, 0, U, false),
        (Op::Add, 0, M, false),
    ];
    for (op, mstatus, privilege, legal) in cases {
        let mut hart = hart();
        set(&mut hart, MSTATUS, *mstatus);
        enter(&mut hart, *privilege);
        let result = execute_system(&mut hart, &Insn { op: *op, ..csr_insn() });
        let expected = if *legal { Ok(()) } else { Err(Trap { cause: 2, tval: 0x1073 }) };
        assert_eq!(result, expected, "{op:?} with {mstatus:#x} in {privilege:?}");
        assert_eq!(hart.state.waiting, *op == Op::Wfi && *legal, "{op:?}");
    }
    // An interrupt that is pending and enabled ends `wfi` even where it cannot be taken.
    let mut hart = hart();
    set(&mut hart, number::MIE, MTIP);
    hart.env.irq.set_lines(MTIP, true);
    execute_system(&mut hart, &Insn { op: Op::Wfi, ..csr_insn() }).unwrap();
    assert!(!hart.state.waiting);
}

#[test]
fn counters() {
    let mut hart = hart();
    set(&mut hart, MCYCLE, 1000);
    assert_eq!(get(&mut hart, MCYCLE), 1000, "the virtual clock stands still");
    set(&mut hart, MHPMCOUNTER3, 77);
    hart.env.clock.start();
    let running = |hart: &mut Hart, csr| {
        let before = get(hart, csr);
        std::thread::sleep(std::time::Duration::from_micros(50));
        get(hart, csr) > before
    };
    assert!(running(&mut hart, MCYCLE) && running(&mut hart, INSTRET) && running(&mut hart, TIME));
    assert_eq!(get(&mut hart, MHPMCOUNTER3), 77, "no event selected");
    set(&mut hart, MHPMEVENT3, 1);
    assert!(running(&mut hart, MHPMCOUNTER3));
    set(&mut hart, MCOUNTINHIBIT, 9);
    assert!(!running(&mut hart, MCYCLE) && !running(&mut hart, MHPMCOUNTER3));
    assert!(running(&mut hart, MINSTRET));
    set(&mut hart, MCYCLE, 5);
    assert_eq!(get(&mut hart, CYCLE), 5);
    set(&mut hart, MCOUNTINHIBIT, 0);
    let resumed = get(&mut hart, MCYCLE);
    assert!((5..1_000_000_000).contains(&resumed), "{resumed}");
}

#[test]
fn supervisor_timer() {
    let armed = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut hart = hart();
    let sink = armed.clone();
    hart.env.stimer = Outlet::fold(move |m: ArmStimer| sink.lock().push(m.deadline));
    set(&mut hart, STIMECMP, 500);
    assert_eq!(armed.lock().pop(), Some(None), "STCE is clear");
    set(&mut hart, MIP, STIP);
    set(&mut hart, MENVCFG, MENVCFG_STCE);
    assert_eq!(armed.lock().pop(), Some(Some(500)));
    assert_eq!(get(&mut hart, MIP) & STIP, 0);
    set(&mut hart, MIP, STIP);
    assert_eq!(get(&mut hart, MIP) & STIP, 0, "software cannot set it");
    set(&mut hart, STIMECMP, 0);
    assert_eq!((get(&mut hart, MIP) & STIP, armed.lock().pop()), (STIP, Some(None)));
    set(&mut hart, MENVCFG, 0);
    assert_eq!(get(&mut hart, MIP) & STIP, 0);
}

#[test]
fn counter_overflow() {
    let mut hart = hart_of("max");
    set(&mut hart, MCOUNTEREN, 1 << 3);
    set(&mut hart, MHPMEVENT3, 2);
    set(&mut hart, MHPMCOUNTER3, (-200_000i64) as u64);
    assert_eq!((get(&mut hart, SCOUNTOVF), get(&mut hart, MIP)), (0, 0));
    hart.env.clock.start();
    std::thread::sleep(std::time::Duration::from_millis(1));
    super::update_stimer(&mut hart);
    assert_eq!((get(&mut hart, SCOUNTOVF), get(&mut hart, MIP)), (1 << 3, LCOFIP));
    assert!(get(&mut hart, MHPMCOUNTER3) < 1 << 40, "it counts on from zero");
    // Cleared flags stay clear until the next time.
    set(&mut hart, MHPMEVENT3, 2);
    set(&mut hart, MIP, 0);
    super::update_stimer(&mut hart);
    assert_eq!((get(&mut hart, SCOUNTOVF), get(&mut hart, MIP)), (0, 0));
    // Not counted in M-mode: it stands, and goes on in S-mode.
    set(&mut hart, MHPMEVENT3, 2 | 1 << 62);
    let stands = get(&mut hart, MHPMCOUNTER3);
    std::thread::sleep(std::time::Duration::from_micros(50));
    assert_eq!(get(&mut hart, MHPMCOUNTER3), stands);
    super::set_privilege(&mut hart, S);
    std::thread::sleep(std::time::Duration::from_micros(50));
    assert!(get(&mut hart, MHPMCOUNTER3) > stands);
}

/// Root table, a middle table, a leaf table and a data page.
const ROOT: u64 = RAM_BASE + 0x1000;
const MIDDLE: u64 = RAM_BASE + 0x2000;
const LEAVES: u64 = RAM_BASE + 0x3000;
const DATA: u64 = RAM_BASE + 0x10_0000;

const fn pte(pa: u64, flags: u64) -> u64 {
    pa >> 12 << 10 | flags
}

/// A hart in S-mode under Sv39 whose virtual page 0 is mapped by `leaf`.
fn paged(option: &str, leaf: u64) -> Hart {
    let mut hart = hart_of(option);
    open_pmp(&mut hart);
    let ram = hart.env.ram.clone();
    ram.store_u64(ROOT, pte(MIDDLE, 1)).unwrap();
    ram.store_u64(MIDDLE, pte(LEAVES, 1)).unwrap();
    ram.store_u64(LEAVES, leaf).unwrap();
    set(&mut hart, SATP, 8 << 60 | ROOT >> 12);
    enter(&mut hart, S);
    hart
}

#[test]
fn leaf_permissions_and_encodings() {
    use Access::{Fetch, Load, Store};
    const V: u64 = 1;
    const R: u64 = 2;
    const W: u64 = 4;
    const X: u64 = 8;
    const USER: u64 = 16;
    const A: u64 = 64;
    const D: u64 = 128;
    let ok = V | R | W | X | A | D;
    let (none, sum, mxr) = ((false, false), (true, false), (false, true));
    // Flags, access, mode, (SUM, MXR), cause of the fault or 0.
    type Case = (u64, Access, Privilege, (bool, bool), u64);
    let cases: &[Case] = &[
        (ok, Load, S, none, 0),
        (ok, Store, S, none, 0),
        (ok, Fetch, S, none, 0),
        (ok & !V, Load, S, none, 13),
        (ok & !R & !X, Load, S, none, 13),
        (ok & !R, Store, S, none, 15),
        (ok & !W, Store, S, none, 15),
        (ok & !X, Fetch, S, none, 12),
        (V | X | A, Load, S, none, 13),
        (V | X | A, Load, S, mxr, 0),
        (ok, Load, U, none, 13),
        (ok | USER, Load, U, none, 0),
        (ok | USER, Load, S, none, 13),
        (ok | USER, Load, S, sum, 0),
        (ok | USER, Store, S, sum, 0),
        (ok | USER, Fetch, S, sum, 12),
        (ok | 1 << 54, Load, S, none, 13),
        (ok | 1 << 60, Load, S, none, 13),
        (ok | 1 << 61, Load, S, none, 13),
        (ok | 1 << 63, Load, S, none, 13),
    ];
    for (flags, access, privilege, (sum, mxr), cause) in cases {
        let mut hart = paged("rv64", pte(DATA, *flags));
        let result = translate(&mut hart, 0x123, *access, *privilege, *sum, *mxr);
        let expected =
            if *cause == 0 { Ok(DATA + 0x123) } else { Err(Trap { cause: *cause, tval: 0x123 }) };
        assert_eq!(result.map(|m| m.pa), expected, "{flags:#x} {access:?} {privilege:?}");
    }
}

#[test]
fn accessed_and_dirty() {
    let fresh = 0x0f;
    // (option, menvcfg.ADUE, access, cause, flags after)
    let cases = [
        ("rv64", true, Access::Load, 0, 0x4f),
        ("rv64", true, Access::Store, 0, 0xcf),
        ("rv64", false, Access::Load, 13, 0x0f),
        ("rv64", false, Access::Fetch, 12, 0x0f),
        ("rv64,svadu=off", false, Access::Store, 0, 0xcf),
        ("rv64,svadu=off,svade=on", false, Access::Store, 15, 0x0f),
    ];
    for (option, adue, access, cause, after) in cases {
        let mut hart = paged(option, pte(DATA, fresh));
        set(&mut hart, MENVCFG, if adue { MENVCFG_ADUE } else { 0 });
        let result = translate(&mut hart, 0, access, S, false, false);
        assert_eq!(result.map_err(|t| t.cause).err().unwrap_or(0), cause, "{option} {access:?}");
        assert_eq!(hart.env.ram.load_u64(LEAVES).unwrap() & 0xff, after, "{option} {access:?}");
        if access == Access::Load && cause == 0 {
            assert!(!result.unwrap().write, "stores must come back for the D bit");
        }
    }
}

#[test]
fn walks() {
    let at = |hart: &mut Hart, va: u64| {
        translate(hart, va, Access::Load, S, false, false).map(|m| (m.pa, m.page_size))
    };
    let fault = |va: u64| Err(Trap { cause: 13, tval: va });
    let mut hart = paged("rv64,svnapot=on,svpbmt=on", pte(DATA, 0xcf));
    let ram = hart.env.ram.clone();
    // Superpages: aligned, and not.
    ram.store_u64(ROOT + 8, pte(RAM_BASE, 0xcf)).unwrap();
    ram.store_u64(ROOT + 16, pte(RAM_BASE + 0x20_0000, 0xcf)).unwrap();
    assert_eq!(at(&mut hart, 0x4000_1234), Ok((RAM_BASE + 0x1234, 1 << 30)));
    assert_eq!(at(&mut hart, 0x8000_0000), fault(0x8000_0000));
    // A table where nothing answers, and pointers with reserved bits.
    ram.store_u64(ROOT + 24, pte(0x1000, 1)).unwrap();
    assert_eq!(at(&mut hart, 0xc000_0000), Err(Trap { cause: 5, tval: 0xc000_0000 }));
    for flag in [1 << 4, 1 << 6, 1 << 7, 1 << 62, 1 << 63] {
        ram.store_u64(ROOT, pte(MIDDLE, 1) | flag).unwrap();
        assert_eq!(at(&mut hart, 0), fault(0), "{flag:#x}");
    }
    ram.store_u64(ROOT, pte(MIDDLE, 1)).unwrap();
    // A pointer in the last level.
    ram.store_u64(LEAVES + 8, pte(MIDDLE, 1)).unwrap();
    assert_eq!(at(&mut hart, 0x1000), fault(0x1000));
    // Canonical addresses only.
    for va in [1 << 38, 1 << 39, 0xffff_ff80_0000_0000] {
        assert_eq!(at(&mut hart, va), fault(va), "{va:#x}");
    }
    ram.store_u64(ROOT + 511 * 8, pte(RAM_BASE, 0xcf)).unwrap();
    assert_eq!(at(&mut hart, 0xffff_ffff_c000_0010), Ok((RAM_BASE + 0x10, 1 << 30)));
    // 64 KiB NAPOT: page 3 of it, and a wrong encoding.
    let napot = |ppn_low: u64| pte(DATA, 0xcf) | ppn_low << 10 | 1 << 63;
    ram.store_u64(LEAVES + 16 * 8 + 24, napot(8)).unwrap();
    assert_eq!(at(&mut hart, 0x1_3042), Ok((DATA + 0x3042, 0x1_0000)));
    ram.store_u64(LEAVES + 16 * 8 + 24, napot(4)).unwrap();
    assert_eq!(at(&mut hart, 0x1_3042), fault(0x1_3042));
    // Svpbmt: types 1 and 2 when enabled, never 3.
    for (pbmt, legal) in [(1, true), (2, true), (3, false)] {
        ram.store_u64(LEAVES, pte(DATA, 0xcf) | pbmt << 61).unwrap();
        assert_eq!(at(&mut hart, 0).is_ok(), legal, "PBMT {pbmt}");
    }
    set(&mut hart, MENVCFG, 0);
    ram.store_u64(LEAVES, pte(DATA, 0xcf) | 1 << 61).unwrap();
    assert_eq!(at(&mut hart, 0), fault(0), "menvcfg.PBMTE is clear");
}

#[test]
fn deeper_trees_and_pmp_on_entries() {
    let ram_walk = |mode: u64, levels: u64| {
        let mut hart = paged("rv64", pte(DATA, 0xcf));
        let ram = hart.env.ram.clone();
        // Tables above ROOT, each pointing down through entry 1.
        let mut top = ROOT;
        for level in 3..levels {
            let table = RAM_BASE + 0x8000 + level * 0x1000;
            ram.store_u64(table + 8, pte(top, 1)).unwrap();
            top = table;
        }
        set(&mut hart, SATP, mode << 60 | top >> 12);
        let va = (3..levels).fold(0, |va, level| va | 1u64 << (12 + 9 * level));
        translate(&mut hart, va, Access::Load, S, false, false).map(|m| m.pa)
    };
    assert_eq!(ram_walk(9, 4), Ok(DATA));
    assert_eq!(ram_walk(10, 5), Ok(DATA));

    // An entry that PMP hides is an access fault of the access, and so is the page itself.
    for (hidden, access, cause) in
        [(LEAVES, Access::Load, 5), (ROOT, Access::Store, 7), (DATA, Access::Fetch, 1)]
    {
        let mut hart = paged("rv64", pte(DATA, 0xcf));
        set(&mut hart, PMPADDR0 + 1, u64::MAX);
        set(&mut hart, PMPADDR0, hidden >> 2 | 0x1ff);
        set(&mut hart, PMPCFG0, 0x1f18);
        let result = translate(&mut hart, 8, access, S, false, false);
        assert_eq!(result.map(|m| m.pa), Err(Trap { cause, tval: 8 }), "{hidden:#x}");
    }
    // A PMP bound inside the page leaves the decision to each access.
    let mut hart = paged("rv64", pte(DATA, 0xcf));
    set(&mut hart, PMPADDR0 + 1, u64::MAX);
    set(&mut hart, PMPADDR0, (DATA + 0x800) >> 2 | 0xf);
    set(&mut hart, PMPCFG0, 0x1f18);
    let mapping = translate(&mut hart, 8, Access::Load, S, false, false).unwrap();
    assert!(!mapping.pmp_uniform && mapping.read && mapping.write);
}
