//! PMP.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::{DynasmApi, dynasm};

use super::{A0, A1, DATA, S, SLOT, U};
use crate::program::Expect::{Any, Is, Ours};
use crate::program::{Assembler, Program, check, enter, note};

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
