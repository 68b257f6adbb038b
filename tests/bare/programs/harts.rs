//! Several harts at once.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

use super::{A0, DATA};
use crate::program::Expect::{Is, Ours};
use crate::program::{Assembler, OTHERS, Program, WFI, check, note, step_at};

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
