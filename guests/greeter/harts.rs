//! `harts`: starts every other hart through SBI, lets them count for a second, stops them.

use dynasmrt::{DynasmApi, DynasmLabelApi};

use super::asm::*;

/// s0 = hart, s1 = number of harts, s2 = harts started.
pub(super) fn emit(g: &mut Guest) {
    asm!(g ; ->harts:);
    g.enter();
    asm!(g
        ; ld s1, [gp, global::HARTS]
        // The last stack is the boot hart's.
        ; li.12 t0, (MAX_HARTS - 1) as _
        ; bgeu t0, s1, >enough_stacks
        ; mv s1, t0
        ; enough_stacks:
        ; sd zero, [gp, global::STOP]
        ; sd zero, [gp, global::RUNNING]
        ; li.12 s0, 0
        ; li.12 s2, 0
        ; next:
        ; bgeu s0, s1, >started
        ; slli t0, s0, 3
        ; add t0, t0, gp
        ; sd zero, [t0, global::COUNTS]
        ; ld t0, [gp, global::BOOT_HART]
        ; beq t0, s0, >skip
        // hart_start(hart, address, opaque = globals)
        ; mv a0, s0
        ; la a1, ->secondary
        ; mv a2, gp
    );
    g.sbi(sbi::HSM, 0);
    asm!(g
        ; bnez a0, >skip
        ; addi s2, s2, 1
        ; skip:
        ; addi s0, s0, 1
        ; j <next
        ; started:
        ; mv a0, s2
        ; call ->put_decimal
    );
    g.print(" harts started\n");
    asm!(g
        ; beqz s2, >done
        ; rdtime a0
        ; ld t0, [gp, global::TIMEBASE]
        ; add a0, a0, t0
        ; call ->wait_until
        ; li.12 t0, 1
        ; fence
        ; sd t0, [gp, global::STOP]
        // Each adds one when it has left its count.
        ; wait:
        ; ld t0, [gp, global::RUNNING]
        ; bne t0, s2, <wait
        ; fence
        ; li.12 s0, 0
        ; show:
        ; bgeu s0, s1, >done
        ; slli t0, s0, 3
        ; add t0, t0, gp
        ; ld s3, [t0, global::COUNTS]
        ; beqz s3, >silent
    );
    g.print("hart ");
    asm!(g
        ; mv a0, s0
        ; call ->put_decimal
    );
    g.print(" counted to ");
    asm!(g
        ; mv a0, s3
        ; call ->put_decimal
        ; li.12 a0, 10
        ; call ->putc
        ; silent:
        ; addi s0, s0, 1
        ; j <show
        ; done:
    );
    g.leave();

    // A hart starts with interrupts off: a0 = hart, a1 = globals. Its stack ends at
    // globals + GLOBALS_BYTES + (hart + 1 << STACK_SHIFT).
    asm!(g
        ; .align 4
        ; ->secondary:
        ; mv gp, a1
        ; la t0, ->trap
        ; csrw stvec, t0
        ; addi t0, a0, 1
        ; slli t0, t0, STACK_SHIFT as _
        ; li.32 t1, GLOBALS_BYTES as _
        ; add t0, t0, t1
        ; add sp, gp, t0
        ; li.12 t0, 0
        ; count:
        ; addi t0, t0, 1
        ; ld t1, [gp, global::STOP]
        ; beqz t1, <count
        ; slli t1, a0, 3
        ; add t1, t1, gp
        ; sd t0, [t1, global::COUNTS]
        ; addi t1, gp, global::RUNNING
        ; li.12 t0, 1
        ; amoadd.d.aqrl zero, t0, [t1]
    );
    // hart_stop does not come back.
    g.sbi(sbi::HSM, 1);
    asm!(g
        ; halt:
        ; .u32 WFI
        ; j <halt
    );
}
