//! The prompt: reads a line, finds the command, calls it with `a0` at its arguments.

use dynasmrt::{DynasmApi, DynasmLabelApi};

use super::asm::*;

/// Name, arguments, what it does, and the call.
type Command = (&'static str, &'static str, &'static str, fn(&mut Guest));

const COMMANDS: &[Command] = &[
    ("help", "", "this list", |g| asm!(g ; call ->help)),
    ("echo", "TEXT", "print the text", |g| asm!(g ; call ->echo)),
    ("primes", "[N]", "count the primes up to N and take the time", |g| asm!(g ; call ->primes)),
    ("tick", "[SECONDS]", "wait for the timer once a second", |g| asm!(g ; call ->tick)),
    (
        "dirty",
        "RATE [SECONDS [MIB]]",
        "write to memory at RATE MiB/s until a key, checking it",
        |g| asm!(g ; call ->dirty),
    ),
    ("harts", "", "start the other harts, let them count for a second", |g| asm!(g ; call ->harts)),
    ("reboot", "", "start over", |g| asm!(g ; call ->reboot)),
    ("poweroff", "", "end the machine", |g| asm!(g ; call ->poweroff)),
];

pub(super) fn emit(g: &mut Guest) {
    let sign = g.string("> ");
    asm!(g
        ; ->prompt:
        ; la a0, =>sign
        ; call ->puts
        ; call ->read_line
        ; lbu t0, [gp, global::LINE]
        ; beqz t0, ->prompt
    );
    for (name, _, _, call) in COMMANDS {
        let name = g.string(name);
        asm!(g
            ; addi a0, gp, global::LINE
            ; la a1, =>name
            ; call ->arguments
            ; beqz a0, >next
        );
        call(g);
        asm!(g
            ; j ->prompt
            ; next:
        );
    }
    g.print("unknown command; try 'help'\n");
    asm!(g
        ; j ->prompt

        // When the first word of the line at a0 is the string at a1: a0 = what follows it and
        // blanks; else a0 = 0.
        ; ->arguments:
        ; next:
        ; lbu t0, [a0]
        ; lbu t1, [a1]
        ; beqz t1, >end_of_name
        ; bne t0, t1, >no
        ; addi a0, a0, 1
        ; addi a1, a1, 1
        ; j <next
        ; end_of_name:
        ; beqz t0, >yes
        ; li.12 t1, 32
        ; bne t0, t1, >no
        ; addi a0, a0, 1
        ; lbu t0, [a0]
        ; beq t0, t1, <end_of_name
        ; yes:
        ; ret
        ; no:
        ; li.12 a0, 0
        ; ret
    );

    let list: String = COMMANDS
        .iter()
        .map(|(name, arguments, what, _)| {
            format!("  {:<28} {what}\n", format!("{name} {arguments}"))
        })
        .collect();
    asm!(g ; ->help:);
    g.enter();
    g.print(&list);
    g.leave();
}
