//! `dirty RATE [SECONDS [MIB]]`: writes to memory page by page, round and round, at a rate; before
//! each write it checks what the last round left. A migration that loses a page shows.

use dynasmrt::{DynasmApi, DynasmLabelApi};

use super::asm::*;

const DEFAULT_MIB: i32 = 32;
/// Pages written between looks at the clock.
const BATCH: i32 = 512;
/// `1 << 12` bytes a page, `1 << 8` pages a MiB.
const PAGE_SHIFT: i32 = 12;
const PAGES_PER_MIB_SHIFT: i32 = 8;
/// Last doubleword of a page, from 2048 bytes into it (the reach of an offset).
const LAST_WORD: i32 = 2040;

/// s0 = memory, s1 = pages, s2 = pages a second, s3 = when to end, s4 = start, s5 = pages written
/// so far, s6 = errors, s7 = next page, s8 = round, s9 = when to report, s10 = ticks a second.
pub(super) fn emit(g: &mut Guest) {
    asm!(g ; ->dirty:);
    g.enter();
    asm!(g
        ; call ->parse_number
        ; beqz a0, >usage
        ; slli s2, a0, PAGES_PER_MIB_SHIFT as _
        ; mv a0, a1
        ; call ->parse_number
        // No number: to the end of time.
        ; li.12 s3, -1
        ; mv s11, a0
        ; mv s5, a2
        ; mv a0, a1
        ; call ->parse_number
        ; bnez a2, >size_given
        ; li.12 a0, DEFAULT_MIB as _
        ; size_given:
        ; bnez a0, >start
        ; usage:
    );
    g.print("usage: dirty RATE [SECONDS [MIB]], RATE in MiB/s\n");
    g.leave();
    asm!(g
        ; start:
        ; slli s1, a0, PAGES_PER_MIB_SHIFT as _
        ; ld s10, [gp, global::TIMEBASE]
        // Free memory: from behind the stacks to the device tree, which lies near the end.
        ; li.32 t0, BSS_BYTES as _
        ; add s0, gp, t0
        ; ld t0, [gp, global::FDT]
        ; sub t0, t0, s0
        ; srli t0, t0, PAGE_SHIFT as _
        ; bgeu t0, s1, >fits
        ; mv s1, t0
        ; fits:
        ; li.12 s6, 0
        ; li.12 s7, 0
        ; li.12 s8, 0
        // Round 0: nothing to check yet.
        ; fill:
        ; call ->page_words
        ; sd t1, [t0]
        ; sd t1, [t2, LAST_WORD]
        ; addi s7, s7, 1
        ; bltu s7, s1, <fill
        ; li.12 s7, 0
        ; li.12 s8, 1
        ; rdtime s4
        ; add s9, s4, s10
        ; beqz s5, >forever
        ; mul t0, s11, s10
        ; add s3, s4, t0
        ; forever:
        ; li.12 s5, 0

        ; again:
        ; rdtime t3
        ; bgeu t3, s3, >finish
        ; bltu t3, s9, >no_report
        ; add s9, s9, s10
        ; call ->dirty_report
        ; rdtime t3
        ; no_report:
        // t3 = pages that should have been written by now
        ; sub t3, t3, s4
        ; mul t3, t3, s2
        ; divu t3, t3, s10
        ; li.12 t4, BATCH as _
        ; page:
        ; bgeu s5, t3, >on_time
        ; beqz t4, >behind
        ; call ->check_page
        ; call ->page_words
        ; sd t1, [t0]
        ; sd t1, [t2, LAST_WORD]
        ; addi s5, s5, 1
        ; addi t4, t4, -1
        ; addi s7, s7, 1
        ; bltu s7, s1, <page
        ; li.12 s7, 0
        ; addi s8, s8, 1
        ; j <page
        // Behind the rate: do not sleep, but hear a key.
        ; behind:
        ; li.12 a0, 0
        ; j >pause
        ; on_time:
        ; rdtime a0
        ; li.12 t0, 500
        ; divu t0, s10, t0
        ; add a0, a0, t0
        ; pause:
        ; call ->wait_until
        ; beqz a0, <again

        // The last report, then every page once more: those below s7 are of this round.
        ; finish:
        ; call ->dirty_report
        ; mv s9, s7
        ; li.12 s7, 0
        ; addi s8, s8, 1
        ; check:
        ; bne s7, s9, >same_round
        ; addi s8, s8, -1
        ; same_round:
        ; call ->check_page
        ; addi s7, s7, 1
        ; bltu s7, s1, <check
        ; mv a0, s1
        ; call ->put_decimal
    );
    g.print(" pages checked, ");
    asm!(g
        ; mv a0, s6
        ; call ->put_decimal
    );
    g.print(" errors\n");
    g.leave();

    // Page s7 in round s8: t0 = its address, t2 = its second half, t1 = what its first and last
    // doubleword hold.
    asm!(g
        ; ->page_words:
        ; slli t0, s7, PAGE_SHIFT as _
        ; add t0, t0, s0
        ; li.32 t2, 2048
        ; add t2, t2, t0
        ; slli t1, s8, 32
        ; add t1, t1, s7
        ; not t1, t1
        ; ret

        // Count an error unless page s7 holds what round s8 - 1 left. Changes t0, t1, t2, t5, t6.
        ; ->check_page:
        ; mv t6, ra
        ; addi s8, s8, -1
        ; call ->page_words
        ; addi s8, s8, 1
        ; ld t5, [t0]
        ; bne t5, t1, >wrong
        ; ld t5, [t2, LAST_WORD]
        ; bne t5, t1, >wrong
        ; jr t6
        ; wrong:
        ; addi s6, s6, 1
        ; jr t6
    );

    asm!(g ; ->dirty_report:);
    g.enter();
    asm!(g
        ; srli a0, s5, PAGES_PER_MIB_SHIFT as _
        ; call ->put_decimal
    );
    g.print(" MiB written, round ");
    asm!(g
        ; mv a0, s8
        ; call ->put_decimal
    );
    g.print(", ");
    asm!(g
        ; mv a0, s6
        ; call ->put_decimal
    );
    g.print(" errors\n");
    g.leave();
}
