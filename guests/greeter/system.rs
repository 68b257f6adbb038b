//! The greeting, and the commands that are one call: `echo`, `reboot`, `poweroff`.

use dynasmrt::{DynasmApi, DynasmLabelApi};

use super::asm::*;

pub(super) fn emit(g: &mut Guest) {
    greet(g);
    asm!(g ; ->echo:);
    g.enter();
    asm!(g
        ; call ->puts
        ; li.12 a0, 10
        ; call ->putc
    );
    g.leave();

    // `reset_type` of SBI: 0 shutdown, 1 cold reboot.
    asm!(g
        ; ->reboot:
        ; li.12 a0, 1
        ; j >reset
        ; ->poweroff:
        ; li.12 a0, 0
        ; reset:
        ; li.12 a1, 0
    );
    g.enter();
    g.sbi(sbi::SRST, 0);
    // It only comes back when it failed.
    g.print("the firmware refused\n");
    g.leave();
}

fn greet(g: &mut Guest) {
    asm!(g ; ->greet:);
    g.enter();
    g.print(
        "\nHello from the built-in guest, an S-mode program of understudy's own.\n\n  harts    ",
    );
    asm!(g
        ; ld a0, [gp, global::HARTS]
        ; call ->put_decimal
    );
    g.print(", started on hart ");
    asm!(g
        ; ld a0, [gp, global::BOOT_HART]
        ; call ->put_decimal
    );
    g.print("\n  memory   ");
    asm!(g
        ; ld a0, [gp, global::MEMORY_SIZE]
        ; srli a0, a0, 20
        ; call ->put_decimal
    );
    g.print(" MiB at ");
    asm!(g
        ; ld a0, [gp, global::MEMORY]
        ; call ->put_hex
    );
    g.print("\n  isa      ");
    asm!(g
        ; ld a0, [gp, global::ISA]
        ; beqz a0, >unknown
        ; call ->puts
        ; unknown:
    );
    g.print("\n  SBI      ");
    // get_spec_version: major in bits 30:24, minor below.
    g.sbi(sbi::BASE, 0);
    asm!(g
        ; mv s0, a1
        ; srli a0, s0, 24
        ; call ->put_decimal
        ; li.12 a0, 46
        ; call ->putc
        ; slli a0, s0, 40
        ; srli a0, a0, 40
        ; call ->put_decimal
    );
    g.print("\n\nType 'help' for what it can do; Ctrl-a c shows the monitor.\n");
    g.leave();
}
