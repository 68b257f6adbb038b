//! Page tables and what is remembered of them.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::{DynasmApi, dynasm};

use super::{
    A0, A1, AD, DATA, LEAVES, MIDDLE, OTHER_ROOT, R, ROOT, S, SLOT, SV39, USER, V, W, X, pte,
};
use crate::program::Expect::{Any, Is, Ours};
use crate::program::{Assembler, BASE, Program, SFENCE_VMA, check, enter, note};

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
