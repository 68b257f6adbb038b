//! Waiting for the timer, and the commands about time: `tick` and `primes`.

use dynasmrt::{DynasmApi, DynasmLabelApi};

use super::asm::*;

pub(super) fn emit(g: &mut Guest) {
    wait(g);
    tick(g);
    primes(g);
}

fn wait(g: &mut Guest) {
    // Sleep until `time` is a0, or a key was pressed: then a0 = 1, and the key is taken.
    asm!(g ; ->wait_until:);
    g.enter();
    asm!(g ; mv a3, a0);
    g.sbi(sbi::TIME, 0);
    asm!(g
        ; again:
        // As in `getc`: off between the look and the wfi.
        ; csrci sstatus, SIE as _
        ; ld t0, [gp, global::RX_TAIL]
        ; ld t1, [gp, global::RX_HEAD]
        ; bne t0, t1, >key
        ; rdtime t0
        ; bgeu t0, a3, >over
        ; .u32 WFI
        ; csrsi sstatus, SIE as _
        ; j <again
        ; key:
        ; csrsi sstatus, SIE as _
        ; call ->getc
        ; li.12 a0, 1
        ; j >done
        ; over:
        ; csrsi sstatus, SIE as _
        ; li.12 a0, 0
        ; done:
    );
    g.leave();

    // a0 = milliseconds in a0 ticks
    asm!(g
        ; ->milliseconds:
        ; li.12 t0, 1000
        ; mul a0, a0, t0
        ; ld t0, [gp, global::TIMEBASE]
        ; divu a0, a0, t0
        ; ret
    );
}

/// `tick [SECONDS]`: s0 = ticks so far, s1 = how many, s2 = when.
fn tick(g: &mut Guest) {
    asm!(g ; ->tick:);
    g.enter();
    asm!(g
        ; call ->parse_number
        ; mv s1, a0
        ; bnez a2, >given
        ; li.12 s1, 5
        ; given:
        ; li.12 s0, 0
        ; rdtime s2
        ; next:
        ; bgeu s0, s1, >done
        ; ld t0, [gp, global::TIMEBASE]
        ; add s2, s2, t0
        ; mv a0, s2
        ; call ->wait_until
        ; bnez a0, >done
        ; addi s0, s0, 1
    );
    g.print("tick ");
    asm!(g
        ; mv a0, s0
        ; call ->put_decimal
        ; li.12 a0, 10
        ; call ->putc
        ; j <next
        ; done:
    );
    g.leave();
}

/// `primes [N]`: trial division by odd numbers. s0 = N, s1 = primes, s2 = start.
fn primes(g: &mut Guest) {
    asm!(g ; ->primes:);
    g.enter();
    asm!(g
        ; call ->parse_number
        ; mv s0, a0
        ; bnez a2, >given
        ; li.32 s0, 200_000
        ; given:
        ; rdtime s2
        ; li.12 s1, 0
        ; li.12 t0, 2
        ; bltu s0, t0, >counted
        ; li.12 s1, 1
        // t0 = candidate, t1 = divisor
        ; li.12 t0, 3
        ; candidate:
        ; bltu s0, t0, >counted
        ; li.12 t1, 3
        ; divisor:
        ; mul t2, t1, t1
        ; bltu t0, t2, >prime
        ; remu t2, t0, t1
        ; beqz t2, >composite
        ; addi t1, t1, 2
        ; j <divisor
        ; prime:
        ; addi s1, s1, 1
        ; composite:
        ; addi t0, t0, 2
        ; j <candidate
        ; counted:
        ; rdtime t0
        ; sub s2, t0, s2
        ; mv a0, s1
        ; call ->put_decimal
    );
    g.print(" primes up to ");
    asm!(g
        ; mv a0, s0
        ; call ->put_decimal
    );
    g.print(" in ");
    asm!(g
        ; mv a0, s2
        ; call ->milliseconds
        ; call ->put_decimal
    );
    g.print(" ms\n");
    g.leave();
}
