//! The 16550: output by polling, input by interrupts through the PLIC; numbers; lines.

use dynasmrt::{DynasmApi, DynasmLabelApi};

use super::asm::*;
use crate::machine::memory_map::{PLIC, UART, UART_IRQ};

/// Register offsets and bits of the 16550.
const IER: i32 = 1;
const FCR: i32 = 2;
const LCR: i32 = 3;
const MCR: i32 = 4;
const LSR: i32 = 5;
const LSR_THR_EMPTY: i32 = 1 << 5;

/// PLIC: enable bits and context registers.
const PLIC_ENABLE: i32 = 0x2000;
const PLIC_ENABLE_STRIDE_SHIFT: i32 = 7;
const PLIC_CONTEXT: i32 = 0x20_0000;
const PLIC_CONTEXT_STRIDE_SHIFT: i32 = 12;

pub(super) fn emit(g: &mut Guest) {
    init(g);
    output(g);
    numbers(g);
    input(g);
}

fn init(g: &mut Guest) {
    asm!(g
        ; ->console_init:
        // 8 bits, FIFO on, interrupt line connected (OUT2), interrupt on received data.
        ; li.32 t0, UART.base as _
        ; li.12 t1, 3
        ; sb t1, [t0, LCR]
        ; li.12 t1, 1
        ; sb t1, [t0, FCR]
        ; li.12 t1, 8
        ; sb t1, [t0, MCR]
        ; li.12 t1, 1
        ; sb t1, [t0, IER]
        // Context of S-mode on this hart: 2 * hart + 1.
        ; ld t2, [gp, global::BOOT_HART]
        ; slli t2, t2, 1
        ; addi t2, t2, 1
        ; li.32 t0, PLIC.base as _
        ; li.12 t1, 1
        ; sw t1, [t0, 4 * UART_IRQ as i32]
        ; slli t3, t2, PLIC_ENABLE_STRIDE_SHIFT as _
        ; li.32 t4, PLIC_ENABLE as _
        ; add t3, t3, t4
        ; add t3, t3, t0
        ; li.12 t1, 1 << UART_IRQ
        ; sw t1, [t3]
        ; slli t3, t2, PLIC_CONTEXT_STRIDE_SHIFT as _
        ; li.32 t4, PLIC_CONTEXT as _
        ; add t3, t3, t4
        ; add t3, t3, t0
        ; sw zero, [t3]
        ; addi t3, t3, 4
        ; sd t3, [gp, global::PLIC_CLAIM]
        ; li.32 t0, STIE_SEIE as _
        ; csrw sie, t0
        ; ret
    );
}

fn output(g: &mut Guest) {
    asm!(g
        // Print the character a0; a line feed gets its carriage return. Changes t0, t1, t2.
        ; ->putc:
        ; li.12 t2, 10
        ; bne a0, t2, >plain
        ; li.12 t2, 13
        ; j >send
        ; plain:
        ; mv t2, a0
        ; send:
        ; li.32 t0, UART.base as _
        ; full:
        ; lbu t1, [t0, LSR]
        ; andi t1, t1, LSR_THR_EMPTY
        ; beqz t1, <full
        ; sb t2, [t0]
        ; li.12 t1, 13
        ; beq t2, t1, >return_sent
        ; ret
        // After a carriage return that stands for a line feed comes the line feed.
        ; return_sent:
        ; li.12 t1, 10
        ; mv t2, a0
        ; beq a0, t1, <full
        ; ret

        // Print the string at a0. Changes t0 to t4.
        ; ->puts:
        ; mv t4, ra
        ; mv t3, a0
        ; next:
        ; lbu a0, [t3]
        ; beqz a0, >done
        ; call ->putc
        ; addi t3, t3, 1
        ; j <next
        ; done:
        ; jr t4
    );
}

fn numbers(g: &mut Guest) {
    let zero_x = g.string("0x");
    asm!(g
        // Print a0 in decimal.
        ; ->put_decimal:
        ; li.12 a1, 10
        ; j ->put_number

        // Print a0 in hexadecimal.
        ; ->put_hex:
        ; addi sp, sp, -16
        ; sd ra, [sp]
        ; sd a0, [sp, 8]
        ; la a0, =>zero_x
        ; call ->puts
        ; ld ra, [sp]
        ; ld a0, [sp, 8]
        ; addi sp, sp, 16
        ; li.12 a1, 16
        // a0 to the base a1, backwards into 72 bytes on the stack.
        ; ->put_number:
        ; addi sp, sp, -80
        ; sd ra, [sp, 72]
        ; addi t0, sp, 71
        ; sb zero, [t0]
        ; digit:
        ; remu t1, a0, a1
        ; divu a0, a0, a1
        ; li.12 t2, 10
        ; blt t1, t2, >decimal
        ; addi t1, t1, 39
        ; decimal:
        ; addi t1, t1, 48
        ; addi t0, t0, -1
        ; sb t1, [t0]
        ; bnez a0, <digit
        ; mv a0, t0
        ; call ->puts
        ; ld ra, [sp, 72]
        ; addi sp, sp, 80
        ; ret
    );
}

fn input(g: &mut Guest) {
    asm!(g
        // a0 = the next character received; waits for it.
        ; ->getc:
        ; again:
        // Interrupts are off between the look and the wfi, which wakes for a pending one all the
        // same; else one that came in between would be slept through.
        ; csrci sstatus, SIE as _
        ; ld t0, [gp, global::RX_TAIL]
        ; ld t1, [gp, global::RX_HEAD]
        ; bne t0, t1, >some
        ; .u32 WFI
        ; csrsi sstatus, SIE as _
        ; j <again
        ; some:
        ; csrsi sstatus, SIE as _
        ; andi t1, t0, 0xff
        ; add t1, t1, gp
        ; lbu a0, [t1, global::RX_RING]
        ; addi t0, t0, 1
        ; sd t0, [gp, global::RX_TAIL]
        ; ret
    );

    // Read a line into LINE, echoing it; Backspace takes a character back, Ctrl-c and Ctrl-u all.
    asm!(g ; ->read_line:);
    g.enter();
    let rub = g.string("\x08 \x08");
    asm!(g
        ; li.12 s0, 0
        ; next:
        ; call ->getc
        ; mv s1, a0
        ; li.12 t0, 13
        ; beq s1, t0, >done
        ; li.12 t0, 10
        ; beq s1, t0, >done
        ; li.12 t0, 8
        ; beq s1, t0, >rubout
        ; li.12 t0, 127
        ; beq s1, t0, >rubout
        ; li.12 t0, 3
        ; beq s1, t0, >kill
        ; li.12 t0, 21
        ; beq s1, t0, >kill
        ; li.12 t0, 32
        ; bltu s1, t0, <next
        ; li.12 t0, global::LINE_BYTES - 1
        ; bgeu s0, t0, <next
        ; add t0, gp, s0
        ; sb s1, [t0, global::LINE]
        ; addi s0, s0, 1
        ; mv a0, s1
        ; call ->putc
        ; j <next
        ; rubout:
        ; beqz s0, <next
        ; addi s0, s0, -1
        ; la a0, =>rub
        ; call ->puts
        ; j <next
        ; kill:
        ; beqz s0, <next
        ; addi s0, s0, -1
        ; la a0, =>rub
        ; call ->puts
        ; j <kill
        ; done:
        ; add t0, gp, s0
        ; sb zero, [t0, global::LINE]
        ; li.12 a0, 10
        ; call ->putc
    );
    g.leave();

    // Read a decimal number at a0: a0 = its value, a1 = what follows it and blanks, a2 = its
    // digits.
    asm!(g
        ; ->parse_number:
        ; mv a1, a0
        ; li.12 a0, 0
        ; li.12 a2, 0
        ; li.12 t2, 10
        ; digit:
        ; lbu t0, [a1]
        ; addi t0, t0, -48
        ; bgeu t0, t2, >blanks
        ; mul a0, a0, t2
        ; add a0, a0, t0
        ; addi a1, a1, 1
        ; addi a2, a2, 1
        ; j <digit
        ; blanks:
        ; lbu t0, [a1]
        ; addi t0, t0, -32
        ; bnez t0, >done
        ; addi a1, a1, 1
        ; j <blanks
        ; done:
        ; ret
    );
}
