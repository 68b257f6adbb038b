//! Entry, the device tree, and traps.

use dynasmrt::{DynasmApi, DynasmLabelApi};

use super::asm::*;
use crate::machine::memory_map::{UART, UART_IRQ};

/// Registers that a trap saves: `ra`, `t0`-`t6`, `a0`-`a7`.
const SAVED: [u8; 16] = [1, 5, 6, 7, 28, 29, 30, 31, 10, 11, 12, 13, 14, 15, 16, 17];

pub(super) fn emit(g: &mut Guest) {
    start(g);
    read_tree(g);
    trap(g);
}

/// `a0` = hart, `a1` = device tree.
fn start(g: &mut Guest) {
    asm!(g
        ; la gp, ->globals
        ; li.32 t1, BSS_BYTES as _
        ; add t1, gp, t1
        ; mv t0, gp
        ; clear:
        ; sd zero, [t0]
        ; addi t0, t0, 8
        ; bltu t0, t1, <clear
        ; sd a0, [gp, global::BOOT_HART]
        ; sd a1, [gp, global::FDT]
        // Its stack is the last one: `harts` gives the others theirs from the first on.
        ; mv sp, t1
        ; la t0, ->trap
        ; csrw stvec, t0
        ; call ->read_tree
        ; call ->console_init
        ; csrsi sstatus, SIE as _
        ; call ->greet
        ; tail ->prompt
    );
}

/// Walk the tree's structure block: `s0` = cursor, `s1` = strings, `s2` = kind of the node that
/// the cursor is in (0 other, 1 memory, 2 hart).
fn read_tree(g: &mut Guest) {
    let [memory, hart] = ["memory@", "cpu@"].map(|s| g.string(s));
    let [isa, reg, timebase] = ["riscv,isa", "reg", "timebase-frequency"].map(|s| g.string(s));
    asm!(g ; ->read_tree:);
    g.enter();
    asm!(g
        ; ld s3, [gp, global::FDT]
        ; addi a0, s3, 8
        ; call ->be32
        ; add s0, s3, a0
        ; addi a0, s3, 12
        ; call ->be32
        ; add s1, s3, a0
        ; li.12 s2, 0
        ; token:
        ; mv a0, s0
        ; call ->be32
        ; addi s0, s0, 4
        ; li.12 t0, 1
        ; beq a0, t0, >begin
        ; li.12 t0, 2
        ; beq a0, t0, >end
        ; li.12 t0, 3
        ; beq a0, t0, >property
        ; li.12 t0, 4
        ; beq a0, t0, <token
        // FDT_END, or not a tree.
        ; j >done

        ; end:
        ; li.12 s2, 0
        ; j <token

        ; begin:
        ; li.12 s2, 0
        ; mv a0, s0
        ; la a1, =>memory
        ; call ->has_prefix
        ; beqz a0, >not_memory
        ; li.12 s2, 1
        ; not_memory:
        ; mv a0, s0
        ; la a1, =>hart
        ; call ->has_prefix
        ; beqz a0, >skip_name
        ; li.12 s2, 2
        ; ld t0, [gp, global::HARTS]
        ; addi t0, t0, 1
        ; sd t0, [gp, global::HARTS]
        ; skip_name:
        ; lbu t0, [s0]
        ; addi s0, s0, 1
        ; bnez t0, <skip_name
        ; addi s0, s0, 3
        ; andi s0, s0, -4
        ; j <token

        // s4 = length, s5 = name, s6 = value
        ; property:
        ; mv a0, s0
        ; call ->be32
        ; mv s4, a0
        ; addi a0, s0, 4
        ; call ->be32
        ; add s5, s1, a0
        ; addi s6, s0, 8
        ; add s0, s6, s4
        ; addi s0, s0, 3
        ; andi s0, s0, -4
        ; mv a0, s5
        ; la a1, =>timebase
        ; call ->equal
        ; beqz a0, >not_timebase
        ; mv a0, s6
        ; call ->be32
        ; sd a0, [gp, global::TIMEBASE]
        ; not_timebase:
        ; li.12 t0, 1
        ; bne s2, t0, >not_memory_reg
        ; mv a0, s5
        ; la a1, =>reg
        ; call ->equal
        ; beqz a0, >not_memory_reg
        ; mv a0, s6
        ; call ->be64
        ; sd a0, [gp, global::MEMORY]
        ; addi a0, s6, 8
        ; call ->be64
        ; sd a0, [gp, global::MEMORY_SIZE]
        ; not_memory_reg:
        ; li.12 t0, 2
        ; bne s2, t0, >other
        ; mv a0, s5
        ; la a1, =>isa
        ; call ->equal
        ; beqz a0, >other
        ; sd s6, [gp, global::ISA]
        ; other:
        ; j <token
        ; done:
    );
    g.leave();

    // a0 = the big-endian word at a0
    asm!(g
        ; ->be32:
        ; lbu t0, [a0]
        ; lbu t1, [a0, 1]
        ; lbu t2, [a0, 2]
        ; lbu a0, [a0, 3]
        ; slli t0, t0, 24
        ; slli t1, t1, 16
        ; slli t2, t2, 8
        ; or a0, a0, t0
        ; or a0, a0, t1
        ; or a0, a0, t2
        ; ret

        // a0 = the big-endian doubleword at a0
        ; ->be64:
        ; mv t4, ra
        ; mv t3, a0
        ; call ->be32
        ; slli t5, a0, 32
        ; addi a0, t3, 4
        ; call ->be32
        ; or a0, a0, t5
        ; jr t4

        // a0 = 1 when the string at a0 begins with the one at a1
        ; ->has_prefix:
        ; next:
        ; lbu t1, [a1]
        ; beqz t1, >yes
        ; lbu t0, [a0]
        ; addi a0, a0, 1
        ; addi a1, a1, 1
        ; beq t0, t1, <next
        ; li.12 a0, 0
        ; ret
        ; yes:
        ; li.12 a0, 1
        ; ret

        // a0 = 1 when the strings at a0 and a1 are equal
        ; ->equal:
        ; next:
        ; lbu t0, [a0]
        ; lbu t1, [a1]
        ; addi a0, a0, 1
        ; addi a1, a1, 1
        ; bne t0, t1, >no
        ; bnez t0, <next
        ; li.12 a0, 1
        ; ret
        ; no:
        ; li.12 a0, 0
        ; ret
    );
}

fn trap(g: &mut Guest) {
    asm!(g
        ; .align 4
        ; ->trap:
        ; addi sp, sp, -128
    );
    for (i, register) in SAVED.into_iter().enumerate() {
        asm!(g ; sd X(register), [sp, 8 * i as i32]);
    }
    asm!(g
        ; csrr t0, scause
        ; bltz t0, >interrupt
        ; j ->exception
        ; interrupt:
        ; andi t0, t0, 0xf
        ; li.12 t1, 5
        ; beq t0, t1, >timer
        // External: the PLIC says which; 0 when another hart took it.
        ; ld t0, [gp, global::PLIC_CLAIM]
        ; lw t1, [t0]
        ; beqz t1, >done
        ; li.12 t2, UART_IRQ as _
        ; bne t1, t2, >complete
        ; li.32 t3, UART.base as _
        ; ld t4, [gp, global::RX_HEAD]
        ; receive:
        ; lbu t5, [t3, 5]
        ; andi t5, t5, 1
        ; beqz t5, >received
        ; lbu t5, [t3]
        ; andi t6, t4, 0xff
        ; add t6, t6, gp
        ; sb t5, [t6, global::RX_RING]
        ; addi t4, t4, 1
        ; j <receive
        ; received:
        ; sd t4, [gp, global::RX_HEAD]
        ; complete:
        ; sw t1, [t0]
        ; j >done
        // Whoever waits for the timer looks at the time; here it is only switched off.
        ; timer:
        ; li.12 a0, -1
    );
    g.sbi(sbi::TIME, 0);
    asm!(g ; done:);
    for (i, register) in SAVED.into_iter().enumerate() {
        asm!(g ; ld X(register), [sp, 8 * i as i32]);
    }
    asm!(g
        ; addi sp, sp, 128
        ; .u32 SRET

        ; ->exception:
    );
    for (name, csr) in [("\ntrap: scause ", 0x142), (", sepc ", 0x141), (", stval ", 0x143)] {
        g.print(name);
        asm!(g
            ; csrr a0, csr
            ; call ->put_hex
        );
    }
    g.print("\n");
    asm!(g
        // Shutdown, for system failure.
        ; li.12 a0, 0
        ; li.12 a1, 1
    );
    g.sbi(sbi::SRST, 0);
    asm!(g
        ; halt:
        ; .u32 WFI
        ; j <halt
    );
}
