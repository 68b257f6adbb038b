//! The clocks that a program sees, and interrupts that come at an exact instruction.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

use super::{A0, INTERRUPT, MTIME};
use crate::program::Expect::{Any, Is, Ours};
use crate::program::{Assembler, Program, check, note, step_at};

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
