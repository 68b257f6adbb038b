//! Interrupts and traps: who gets them, in which order, and the way back.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

use super::{A0, A1, INTERRUPT, S, SLOT, U, ecall};
use crate::program::Expect::{Any, Is, Ours};
use crate::program::{Assembler, Program, SRET, WFI, check, enter, note};

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
