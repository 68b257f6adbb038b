//! The programs and what they have to find.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

use crate::program::Expect::{Any, Is, Ours};
use crate::program::{
    Assembler, BASE, Machine, OTHERS, Program, SFENCE_VMA, SRET, WFI, check, enter, note, run,
    step_at,
};

const U: i64 = 0;
const S: i64 = 1;
const A0: u8 = 10;
const A1: u8 = 11;
const INTERRUPT: u64 = 1 << 63;
/// Code that runs below M-mode, and data.
const SLOT: u64 = BASE + 0x5000;
const DATA: u64 = BASE + 0x6000;
/// Page tables: a root whose gigapage at `BASE` maps itself, a middle table, leaves.
const ROOT: u64 = BASE + 0x1_0000;
const MIDDLE: u64 = BASE + 0x1_1000;
const LEAVES: u64 = BASE + 0x1_2000;
const OTHER_ROOT: u64 = BASE + 0x1_3000;
const SV39: u64 = 8 << 60;
const MTIME: i64 = 0x0200_bff8;

/// PTE bits.
const V: u64 = 1;
const R: u64 = 2;
const W: u64 = 4;
const X: u64 = 8;
const USER: u64 = 16;
const AD: u64 = 3 << 6;

const fn pte(pa: u64, flags: u64) -> u64 {
    pa >> 12 << 10 | flags
}

macro_rules! code {
    ($ops:ident $($t:tt)*) => { dynasm!($ops ; .arch riscv64i ; .feature gc $($t)*) };
}

fn ecall(ops: &mut Assembler) {
    code!(ops ; ecall);
}

#[test]
fn time_follows_mtime() {
    const STCE: i64 = 1 << 63;
    const STIP: i32 = 1 << 5;
    let stip = |ops: &mut Assembler| {
        code!(ops ; csrr a0, 0x344 ; andi a0, a0, STIP);
        note(ops, A0);
    };
    let set = |ops: &mut Assembler, value: i64| {
        code!(ops ; li t1, MTIME ; li t0, value ; sd t0, [t1, 0]);
    };
    let since = |ops: &mut Assembler| {
        code!(ops ; csrr a0, 0xc01 ; sub a0, a0, t0 ; srli a0, a0, 36);
        note(ops, A0);
    };
    check(
        &Program::new("time follows mtime")
            .steps(&[
                &|ops| {
                    set(ops, 1 << 48);
                    since(ops);
                    code!(ops ; li t0, STCE ; csrs 0x30a, t0 ; li t2, 1 << 50 ; csrw 0x14d, t2);
                    stip(ops);
                },
                &|ops| {
                    set(ops, 1 << 50);
                    since(ops);
                    stip(ops);
                },
                &|ops| {
                    set(ops, 0);
                    since(ops);
                    stip(ops);
                },
                &|ops| {
                    // The interrupt comes when mtime is moved to its time, in words.
                    code!(ops
                        ; li t0, STIP.into()
                        ; csrw 0x304, t0
                        ; csrsi 0x300, 8
                        ; li t1, MTIME
                        ; li t0, 0x4_0000
                        ; sw t0, [t1, 4]
                        ; li a0, 1 << 16
                        ; ->wait:
                        ; addi a0, a0, -1
                        ; bnez a0, ->wait
                    );
                    (0..3).for_each(|_| note(ops, A0));
                },
            ])
            // QEMU looks at stimecmp only when that is written.
            .expect_each(&[Is(0), Is(0), Is(0), Ours(STIP as u64), Is(0), Is(0)])
            .expect_each(&[Ours(INTERRUPT | 5), Any, Is(0)]),
    );
}

#[test]
fn an_interrupt_raised_by_a_store_comes_before_the_next_instruction() {
    let at = step_at(1) + 0x100;
    check(
        &Program::new("interrupt raised by a store")
            .code(at, |ops| {
                code!(ops ; sw t0, [t1, 0] ; li a0, 1 ; li a0, 2 ; j ->on ; ->on: ; jr s10);
            })
            .steps(&[
                &|ops| code!(ops ; li t1, 0x0200_0000 ; li t0, 1 ; li a0, 0),
                &|ops| {
                    code!(ops ; csrwi 0x304, 8 ; csrsi 0x300, 8 ; li t2, at as i64 ; jr t2);
                },
                &|ops| {
                    note(ops, A0);
                    code!(ops ; sw x0, [t1, 0] ; csrr a0, 0x344 ; andi a0, a0, 8);
                    note(ops, A0);
                },
            ])
            .expect_each(&[Is(INTERRUPT | 3), Ours(at + 4), Is(0), Ours(0), Is(0)]),
    );
}

#[test]
fn pmp_inside_a_page_and_with_a_warm_tlb() {
    const NA4: i64 = 0x10;
    const NAPOT_RWX: i64 = 0x1f;
    const LOCK: i64 = 0x80;
    /// Entry 0 over four bytes, entry 1 over everything.
    fn rules(ops: &mut Assembler, at: u64, cfg: i64) {
        code!(ops
            ; li t0, -1
            ; csrw 0x3b1, t0
            ; li t0, at as i64 >> 2
            ; csrw 0x3b0, t0
            ; li t0, NAPOT_RWX << 8 | cfg
            ; csrw 0x3a0, t0
        );
    }
    fn load(ops: &mut Assembler, mode: i64, va: u64) {
        code!(ops ; li a0, va as i64);
        enter(ops, mode, SLOT);
    }
    let word = SLOT + 0x10;
    let code_at = SLOT + 0x40;
    check(
        &Program::new("pmp")
            .code(SLOT, |ops| code!(ops ; ld a1, [a0, 0] ; ecall))
            .code(word, |ops| code!(ops ; lw a1, [a0, 0] ; ecall))
            // Two halfwords, a word across the bound, and its end.
            .code(code_at, |ops| code!(ops ; nop ; c.nop ; addi a1, x0, 3 ; ecall))
            .words(DATA, &[0x11, 0x22])
            .steps(&[
                &|ops| load(ops, U, DATA),
                &|ops| {
                    rules(ops, DATA + 8, NA4);
                    load(ops, U, DATA);
                },
                &|ops| load(ops, S, DATA + 8),
                &|ops| load(ops, U, DATA + 4),
                &|ops| {
                    code!(ops ; li a0, DATA as i64 + 4);
                    enter(ops, U, word);
                },
                &|ops| {
                    // As U-mode, through MPRV; MPP is U after the trap's return.
                    code!(ops
                        ; li a0, DATA as i64 + 8
                        ; li t0, 3 << 11
                        ; csrc 0x300, t0
                        ; li t0, 1 << 17
                        ; csrs 0x300, t0
                        ; ld a1, [a0, 0]
                    );
                },
                &|ops| enter(ops, U, code_at),
                &|ops| {
                    rules(ops, code_at + 8, NA4 | 3);
                    enter(ops, U, code_at);
                },
                &|ops| {
                    // An entry 0 of top-of-range kind begins at address 0.
                    rules(ops, DATA + 8, 8);
                    load(ops, U, DATA + 8);
                },
                &|ops| {
                    rules(ops, DATA + 8, 8 | 5);
                    load(ops, U, DATA);
                },
                &|ops| {
                    code!(ops ; li a0, DATA as i64 + 12);
                    enter(ops, U, word);
                },
                &|ops| {
                    // Locked: M-mode too, until reset.
                    rules(ops, DATA + 8, NA4 | LOCK);
                    code!(ops ; li a0, DATA as i64 ; ld a1, [a0, 8]);
                },
                &|ops| {
                    rules(ops, DATA + 16, NA4 | 7);
                    code!(ops ; csrr a0, 0x3a0 ; csrr a1, 0x3b0);
                    note(ops, A0);
                    note(ops, A1);
                },
            ])
            .trap(8, SLOT + 4, 0)
            .trap(8, SLOT + 4, 0)
            .trap(5, SLOT, DATA + 8)
            .trap(5, SLOT, DATA + 4)
            .trap(8, word + 4, 0)
            .expect_each(&[Is(5), Any, Is(DATA + 8)])
            .trap(8, code_at + 10, 0)
            // The half that may not be fetched is what mtval names; QEMU names the instruction.
            .expect_each(&[Is(1), Is(code_at + 6), Ours(code_at + 8)])
            .expect_each(&[Is(1), Is(SLOT), Is(SLOT)])
            .trap(8, SLOT + 4, 0)
            .trap(8, word + 4, 0)
            .expect_each(&[Is(5), Any, Is(DATA + 8)])
            .expect(&[0x1f90, (DATA + 8) >> 2]),
    );
}

/// The page tables of the tests below: page 0 of user data, a superpage of 2 MiB at 0x20_0000.
fn paged(name: &'static str) -> Program {
    Program::new(name)
        .code(SLOT, |ops| code!(ops ; ld a1, [a0, 0] ; ecall))
        .words(ROOT, &[pte(MIDDLE, V), 0, pte(BASE, V | R | W | X | AD)])
        .words(OTHER_ROOT, &[0, 0, pte(BASE, V | R | W | X | AD)])
        .words(MIDDLE, &[pte(LEAVES, V), pte(BASE, V | R | W | AD)])
        .words(LEAVES, &[pte(DATA, V | R | W | USER | AD), 0])
        .words(DATA, &[0x11])
}

fn satp(ops: &mut Assembler, value: u64) {
    code!(ops ; li t0, value as i64 ; csrw 0x180, t0);
}

fn load(ops: &mut Assembler, mode: i64, va: u64) {
    code!(ops ; li a0, va as i64 ; li a1, 0);
    enter(ops, mode, SLOT);
}

#[test]
fn fences_and_mode_bits_with_a_warm_tlb() {
    const SUM: i64 = 1 << 18;
    const SUPER: u64 = 0x20_0000;
    let ok = |p: Program, value: u64| p.trap(9, SLOT + 4, 0).expect(&[value]);
    let noted = |step: &dyn Fn(&mut Assembler), ops: &mut Assembler| {
        note(ops, A1);
        step(ops);
    };
    let mut p = paged("fences and mode bits").steps(&[
        &|ops| {
            satp(ops, SV39 | ROOT >> 12);
            load(ops, S, SUPER + 0x6000);
        },
        &|ops| {
            // Another leaf for the superpage, fenced by another address inside it.
            noted(
                &|ops| {
                    code!(ops
                        ; li t0, MIDDLE as i64
                        ; li t1, pte(BASE + 0x20_0000, V | R | W | AD) as i64
                        ; sd t1, [t0, 8]
                        ; li t0, SUPER as i64
                        ; .u32 SFENCE_VMA | 5 << 15
                    );
                    load(ops, S, SUPER + 0x6000);
                },
                ops,
            );
        },
        &|ops| noted(&|ops| load(ops, S, 0), ops),
        &|ops| {
            code!(ops ; li t0, SUM ; csrs 0x300, t0);
            load(ops, S, 0);
        },
        &|ops| {
            noted(
                &|ops| {
                    code!(ops ; li t0, SUM ; csrc 0x300, t0);
                    load(ops, S, 0);
                },
                ops,
            );
        },
        &|ops| {
            // Another address space, and back; nothing is fenced.
            satp(ops, SV39 | 1 << 44 | OTHER_ROOT >> 12);
            load(ops, S, SUPER + 0x6000);
        },
        &|ops| {
            satp(ops, SV39 | ROOT >> 12);
            load(ops, S, SUPER + 0x6000);
        },
        &|ops| {
            noted(
                &|ops| {
                    // Bare, then the data of the page as M-mode sees it through MPRV.
                    satp(ops, 0);
                    load(ops, S, DATA);
                },
                ops,
            );
        },
        &|ops| {
            noted(
                &|ops| {
                    satp(ops, SV39 | ROOT >> 12);
                    code!(ops
                        ; li t0, 3 << 11 | SUM
                        ; csrc 0x300, t0
                        ; li t0, 1 << 17 | 1 << 11 | SUM
                        ; csrs 0x300, t0
                        ; ld a0, [x0, 0]
                        ; li t0, SUM
                        ; csrc 0x300, t0
                        ; ld a1, [x0, 0]
                    );
                },
                ops,
            );
        },
        &|ops| note(ops, A0),
    ]);
    p = ok(p, 0x11);
    p = ok(p, 0);
    p = p.trap(13, SLOT, 0);
    p = ok(p, 0x11);
    p = p.trap(13, SLOT, 0).trap(13, SLOT, SUPER + 0x6000);
    p = ok(p, 0);
    p = ok(p, 0x11);
    check(&p.expect_each(&[Is(13), Any, Is(0), Is(0x11)]));
}

#[test]
fn faults_at_page_bounds_and_outside_memory() {
    const HOLE: u64 = 0x40_0000_0000;
    // Fields of `jr a0`, a store, and an AMO, for S-mode.
    let (jump, store, add) = (SLOT + 0x10, SLOT + 0x20, SLOT + 0x30);
    let access = |at: u64, va: u64| {
        move |ops: &mut Assembler| {
            code!(ops ; li a0, va as i64);
            enter(ops, S, at);
        }
    };
    let leaf = |i: u64, value: u64| {
        move |ops: &mut Assembler| {
            code!(ops
                ; li t0, (LEAVES + 8 * i) as i64
                ; li t1, value as i64
                ; sd t1, [t0, 0]
                ; .u32 SFENCE_VMA
            );
        }
    };
    let all = V | R | W | X | AD;
    check(
        &paged("faults at bounds")
            .words(LEAVES, &[pte(DATA, all), 0, pte(HOLE, all)])
            .code(jump, |ops| code!(ops ; jr a0))
            .code(store, |ops| code!(ops ; sd a1, [a0, 0] ; ecall))
            .code(add, |ops| code!(ops ; amoadd.d a1, a1, [a0] ; ecall))
            .words(DATA + 0xff8, &[0x0013_0001_0001_0001])
            .steps(&[
                &|ops| {
                    satp(ops, SV39 | ROOT >> 12);
                    access(SLOT, 0xffc)(ops);
                },
                &|ops| {
                    code!(ops ; li a1, -1);
                    access(store, 0xffc)(ops);
                },
                &|ops| {
                    // Nothing of it was written.
                    code!(ops ; li a0, DATA as i64 + 0xff8 ; ld a0, [a0, 0]);
                    note(ops, A0);
                    // An instruction whose second half has no page.
                    access(jump, 0xffe)(ops);
                },
                &|ops| {
                    leaf(1, pte(DATA, V | R | AD))(ops);
                    access(jump, 0xffe)(ops);
                },
                &|ops| access(jump, 0x1000)(ops),
                &|ops| access(jump, 1 << 38)(ops),
                &|ops| access(SLOT, 1 << 63)(ops),
                &|ops| access(store, u64::MAX << 40)(ops),
                &|ops| access(jump, 0x2000)(ops),
                &|ops| access(SLOT, 0x2008)(ops),
                &|ops| access(store, 0x2008)(ops),
                &|ops| access(add, 0x2008)(ops),
                &|ops| access(add, 0x0009)(ops),
                &|ops| {
                    // Page tables where nothing is.
                    satp(ops, SV39 | HOLE >> 12);
                    access(SLOT, 0)(ops);
                },
                &|ops| {
                    satp(ops, 0);
                    access(SLOT, HOLE)(ops);
                },
                &|ops| access(jump, HOLE)(ops),
                &|ops| access(add, HOLE)(ops),
            ])
            .trap(13, SLOT, 0x1000)
            .trap(15, store, 0x1000)
            .expect(&[0x0013_0001_0001_0001])
            .trap(12, 0xffe, 0x1000)
            .trap(12, 0xffe, 0x1000)
            .trap(12, 0x1000, 0x1000)
            .trap(12, 1 << 38, 1 << 38)
            .trap(13, SLOT, 1 << 63)
            .trap(15, store, u64::MAX << 40)
            .trap(1, 0x2000, 0x2000)
            .trap(5, SLOT, 0x2008)
            .trap(7, store, 0x2008)
            .trap(7, add, 0x2008)
            // QEMU does the load of an AMO first.
            .expect_each(&[Ours(6), Is(add), Is(9)])
            // A table outside memory violates its attributes (12.3.2, step 2); QEMU: page fault.
            .expect_each(&[Ours(1), Is(SLOT), Is(SLOT)])
            .trap(5, SLOT, HOLE)
            .trap(1, HOLE, HOLE)
            .trap(7, add, HOLE),
    );
}

#[test]
fn interrupts_come_in_order_of_priority_to_the_mode_they_are_delegated_to() {
    const SSIP: i64 = 1 << 1;
    const STIP: i64 = 1 << 5;
    const SEIP: i64 = 1 << 9;
    const ALL: i64 = SSIP | STIP | SEIP;
    let vectors = SLOT + 0x100;
    let idle = SLOT + 0x80;
    let next = |clear: i64| {
        move |ops: &mut Assembler| {
            code!(ops ; li t0, clear ; csrc 0x344, t0 ; csrsi 0x300, 8 ; ->here: ; j ->here);
        }
    };
    let scause = |clear: i64| {
        move |ops: &mut Assembler| {
            code!(ops ; csrr a0, 0x142 ; csrr a1, 0x141);
            note(ops, A0);
            note(ops, A1);
            note(ops, 25);
            code!(ops ; li t0, clear ; csrc 0x344, t0 ; li t0, 1 << 1 ; csrs 0x300, t0);
            enter(ops, S, idle);
        }
    };
    let mut p = Program::new("interrupts")
        .code(idle, |ops| code!(ops ; ->here: ; j ->here))
        .code(vectors, |ops| {
            for _ in 0..16 {
                code!(ops ; jal s9, ->common);
            }
            code!(ops ; ->common: ; ecall);
        })
        .steps(&[
            &|ops| {
                code!(ops ; li t0, ALL ; csrw 0x304, t0 ; csrw 0x344, t0);
                next(0)(ops);
            },
            &|ops| next(SEIP)(ops),
            &|ops| next(SSIP)(ops),
            &|ops| {
                // Delegated, to a vectored stvec.
                code!(ops
                    ; li t0, vectors as i64 + 1
                    ; csrw 0x105, t0
                    ; li t0, ALL
                    ; csrw 0x303, t0
                    ; csrw 0x344, t0
                    ; csrsi 0x300, 2
                );
                enter(ops, S, idle);
            },
            &|ops| scause(SEIP)(ops),
            &|ops| scause(SSIP)(ops),
            &|ops| {
                code!(ops ; csrr a0, 0x142);
                note(ops, A0);
                // Not even enabled ones come to S-mode while M-mode runs; wfi ends all the same.
                code!(ops ; csrsi 0x300, 8 ; .u32 WFI ; csrr a0, 0x144 ; csrw 0x344, x0);
                note(ops, A0);
                // U-mode cannot mask them.
                code!(ops ; csrci 0x300, 10 ; csrsi 0x344, 2);
                enter(ops, U, idle);
            },
            &|ops| {
                code!(ops ; csrr a0, 0x142);
                note(ops, A0);
                // sip writes what is delegated and writable only.
                code!(ops ; csrw 0x144, x0 ; li t0, ALL ; csrs 0x144, t0 ; csrr a0, 0x344);
                note(ops, A0);
                code!(ops ; csrw 0x344, x0);
                // Timeout-wait makes wfi illegal below M-mode.
                code!(ops ; li t0, 1 << 21 ; csrs 0x300, t0);
                enter(ops, S, SLOT);
            },
        ])
        .code(SLOT, |ops| code!(ops ; .u32 WFI));
    // QEMU takes the lowest number first, not what the spec (3.1.9) says.
    for cause in [9, 1, 5] {
        p = p.expect_each(&[Ours(INTERRUPT | cause), Any, Is(0)]);
    }
    for cause in [9, 1] {
        p = p.trap(9, vectors + 64, 0);
        p = p.expect_each(&[Ours(INTERRUPT | cause), Is(idle), Ours(vectors + 4 * cause + 4)]);
    }
    p = p.trap(9, vectors + 64, 0).expect(&[INTERRUPT | 5, ALL as u64 & !(SEIP | SSIP) as u64]);
    p = p.trap(9, vectors + 64, 0).expect(&[INTERRUPT | 1, SSIP as u64]);
    check(&p.expect_each(&[Is(2), Is(SLOT), Ours(WFI.into())]));
}

#[test]
fn returns_from_traps() {
    let ret = SLOT + 0x40;
    let status = |ops: &mut Assembler| {
        code!(ops ; csrr a0, 0x300 ; li t0, 0x6_19aa ; and a0, a0, t0);
        note(ops, A0);
    };
    check(
        &Program::new("returns")
            .code(ret, |ops| code!(ops ; .u32 SRET))
            .code(SLOT, ecall)
            .steps(&[
                &|ops| {
                    // sret in M-mode to U: MPRV goes, SPP becomes U, SIE takes SPIE.
                    code!(ops
                        ; li t0, 1 << 17 | 1 << 5
                        ; csrs 0x300, t0
                        ; li t0, 1 << 8
                        ; csrc 0x300, t0
                        ; li t0, SLOT as i64
                        ; csrw 0x141, t0
                        ; .u32 SRET
                    );
                },
                &|ops| {
                    status(ops);
                    // MPP = 2 is not taken.
                    code!(ops ; li t0, 3 << 11 ; csrc 0x300, t0 ; li t0, 2 << 11 ; csrs 0x300, t0);
                    status(ops);
                },
                &|ops| {
                    code!(ops ; li t0, 1 << 8 ; csrs 0x300, t0);
                    enter(ops, S, ret);
                },
                &|ops| enter(ops, U, ret),
                &|ops| {
                    // TSR.
                    code!(ops ; li t0, 1 << 22 ; csrs 0x300, t0);
                    enter(ops, S, ret);
                },
                &|ops| {
                    // xepc keeps bit 1 and drops bit 0.
                    code!(ops ; li t0, -1 ; csrw 0x341, t0 ; csrr a0, 0x341);
                    note(ops, A0);
                    code!(ops ; csrw 0x141, t0 ; csrr a0, 0x141);
                    note(ops, A0);
                },
            ])
            .trap(8, SLOT, 0)
            // MPP is M and MPIE clear after the runtime's return: SPIE and SIE are left.
            .expect_each(&[Any, Any])
            .trap(9, SLOT, 0)
            .expect_each(&[Is(2), Is(ret), Ours(SRET.into())])
            .expect_each(&[Is(2), Is(ret), Ours(SRET.into())])
            .expect_each(&[Ours(!1), Ours(!1)]),
    );
}

#[test]
fn written_code_runs_after_fence_i_on_this_hart_and_on_others() {
    /// `addi a0, x0, n` and `ret`.
    const fn returns(n: u64) -> u64 {
        0x0000_8067 << 32 | 0x0000_0513 | n << 20
    }
    let flag = DATA + 0x100;
    let call = |ops: &mut Assembler, at: u64| {
        code!(ops ; li t2, at as i64 ; jalr x1, t2, 0);
        note(ops, A0);
    };
    let near = step_at(3) + 0x100;
    let write = |ops: &mut Assembler, at: u64, n: u64| {
        code!(ops ; li t0, at as i64 ; li t1, returns(n) as i64 ; sd t1, [t0, 0]);
    };
    check(
        &Program::new("written code")
            .harts(2)
            .words(DATA, &[returns(1)])
            .words(near, &[returns(5)])
            .code(OTHERS, |ops| {
                code!(ops ; li s0, flag as i64 ; li t2, DATA as i64 ; ->run: ; jalr x1, t2, 0
                    ; ld t0, [s0, 0] ; beqz t0, ->run
                    ; fence.i ; jalr x1, t2, 0 ; sd a0, [s0, 8] ; fence ; li a1, 1
                    ; sd a1, [s0, 16] ; ->stop: ; .u32 WFI ; j ->stop);
            })
            .steps(&[
                &|ops| code!(ops ; li a0, 0),
                &|ops| call(ops, DATA),
                &|ops| {
                    write(ops, DATA, 2);
                    code!(ops ; fence.i);
                    call(ops, DATA);
                },
                &|ops| {
                    // On the page that runs.
                    call(ops, near);
                    write(ops, near, 6);
                    code!(ops ; fence.i);
                    call(ops, near);
                },
                &|ops| {
                    write(ops, DATA, 3);
                    code!(ops ; fence ; li t0, flag as i64 ; li t1, 1 ; sd t1, [t0, 0]
                        ; ->wait: ; ld t1, [t0, 16] ; beqz t1, ->wait ; fence ; ld a0, [t0, 8]);
                    note(ops, A0);
                },
            ])
            // QEMU's harts may go on with what they translated while another hart wrote.
            .expect_each(&[Is(1), Ours(2), Is(5), Is(6), Ours(3)]),
    );
}

#[test]
fn harts_start_together_and_count_together() {
    const HARTS: u32 = 4;
    const ROUNDS: i64 = 20_000;
    let (amo, lrsc, finished, started) = (DATA, DATA + 64, DATA + 128, DATA + 192);
    let count = |ops: &mut Assembler| {
        code!(ops
            ; slli t0, a0, 4
            ; li t1, started as i64
            ; add t0, t0, t1
            ; sd a0, [t0, 0]
            ; lwu t1, [a1, 0]
            ; sd t1, [t0, 8]
            ; li t0, amo as i64
            ; li t1, lrsc as i64
            ; li t2, ROUNDS
            ; li a2, 1
            ; ->round:
            ; amoadd.w x0, a2, [t0]
            ; ->retry:
            ; lr.d a3, [t1]
            ; add a3, a3, a2
            ; sc.d a4, a3, [t1]
            ; bnez a4, ->retry
            ; addi t2, t2, -1
            ; bnez t2, ->round
            ; li t0, finished as i64
            ; amoadd.d.rl x0, a2, [t0]
        );
    };
    let mut p = Program::new("harts")
        .harts(HARTS)
        .words(DATA, &[0; 64])
        .code(OTHERS, |ops| {
            count(ops);
            code!(ops ; ->stop: ; .u32 WFI ; j ->stop);
        })
        .steps(&[
            &|ops| count(ops),
            &|ops| {
                code!(ops
                    ; li t1, i64::from(HARTS)
                    ; ->wait:
                    ; ld t2, [t0, 0]
                    ; bne t2, t1, ->wait
                    ; fence
                );
                for at in [amo, lrsc] {
                    code!(ops ; li t0, at as i64 ; ld a0, [t0, 0]);
                    note(ops, A0);
                }
            },
            &|ops| {
                code!(ops ; li t0, started as i64 ; li t1, 2 * i64::from(HARTS)
                    ; ->next: ; ld a0, [t0, 0] ; addi t0, t0, 8 ; sd a0, [s11, 0]
                    ; addi s11, s11, 8 ; addi t1, t1, -1 ; bnez t1, ->next);
            },
        ])
        .expect(&[u64::from(HARTS) * ROUNDS as u64; 2]);
    for hart in 0..HARTS {
        // The magic number of a device tree, which is big-endian.
        p = p.expect(&[hart.into(), 0xedfe_0dd0]);
    }
    check(&p);
}

#[test]
fn the_finisher_sets_the_exit_status() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let elf = dir.path().join("program");
    let path = elf.display().to_string();
    // What is written, with what width, and the status; a width that is not decoded faults, and
    // the program then passes.
    for (value, width, expected) in [
        (0x5555, 4, 0),
        (0x5555, 2, 0),
        (0x1_3333, 4, 1),
        (0x2a_3333, 4, 42),
        (0x3333, 2, 0),
        (0x0100_3333, 4, 0),
        (0x7_5555, 4, 7),
        (0x7777, 4, 0),
        (0x5_3333, 1, 0),
        (0x5_3333, 8, 0),
    ] {
        let program = Program::new("finisher").steps(&[
            &|ops| {
                code!(ops ; li t0, 0x10_0000 ; li t1, value);
                match width {
                    1 => code!(ops ; sb t1, [t0, 0]),
                    2 => code!(ops ; sh t1, [t0, 0]),
                    4 => code!(ops ; sw t1, [t0, 0]),
                    _ => code!(ops ; sd t1, [t0, 0]),
                }
                if !matches!(width, 1 | 8) {
                    code!(ops ; ->wait: ; j ->wait);
                }
            },
            &|_| {},
        ]);
        std::fs::write(&elf, program.elf()).expect("the program is written");
        for machine in [Machine::Translator, Machine::Interpreter, Machine::Qemu] {
            let Some((status, serial)) = run(machine, &elf, &["-bios", &path], &program) else {
                continue;
            };
            assert_eq!(status, Some(expected), "{value:#x} in {width} bytes on {machine:?}");
            assert_eq!(serial.len(), if matches!(width, 1 | 8) { 24 } else { 0 });
        }
    }
}

#[test]
fn a_program_may_come_as_firmware_as_kernel_or_through_the_loader() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let elf = dir.path().join("program");
    let path = elf.display().to_string();
    let program = Program::new("ways in").steps(&[&|ops| {
        code!(ops ; csrr a0, 0xf14 ; li a1, 0x1234);
        note(ops, A0);
        note(ops, A1);
    }]);
    std::fs::write(&elf, program.elf()).expect("the program is written");
    let loader = format!("loader,file={path}");
    let loader_and_start = format!("loader,file={path},cpu-num=0");
    let expected: Vec<u8> = [0u64, 0x1234].iter().flat_map(|w| w.to_le_bytes()).collect();
    for how in [
        &["-bios", &path][..],
        &["-bios", "none", "-kernel", &path],
        &["-bios", "none", "-device", &loader],
        &["-bios", "none", "-device", &loader_and_start],
    ] {
        for machine in [Machine::Translator, Machine::Qemu] {
            let Some(found) = run(machine, &elf, how, &program) else { continue };
            assert_eq!(found, (Some(0), expected.clone()), "{how:?} on {machine:?}");
        }
    }
    // A 32-bit program is refused in words.
    let mut narrow = program.elf();
    narrow[4] = 1;
    std::fs::write(&elf, narrow).expect("the program is written");
    for how in [&["-bios", &path][..], &["-bios", "none", "-kernel", &path]] {
        let (status, serial) =
            run(Machine::Translator, &elf, how, &program).expect("ours is always there");
        assert_eq!((status, serial.len()), (Some(1), 0), "{how:?}");
    }
}
