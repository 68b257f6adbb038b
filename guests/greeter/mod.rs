//! The guest that runs when understudy is started without arguments: an S-mode program with a
//! prompt, assembled by dynasm when it is asked for. It drives the machine's real devices (UART by
//! PLIC interrupts, timer and harts through SBI), so what it shows is the machine.
//!
//! Each file is one concern; each `emit` function appends its code. Registers follow the psABI,
//! with two additions: `gp` points to the globals in every hart, and commands may use every `s`
//! register, since the prompt keeps nothing in them.

#![allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "dynasm's expansion converts each operand, also where it has the right type already"
)]

mod asm;
mod boot;
mod console;
mod dirty;
mod harts;
mod prompt;
mod system;
mod timing;

use asm::Guest;

/// The guest as a raw binary, to be loaded as a kernel: it runs at any 4-byte-aligned address, and
/// uses `BSS_BYTES` (`asm`) behind its end as working memory, which it clears itself.
pub fn image() -> Vec<u8> {
    let mut guest = Guest::new();
    boot::emit(&mut guest);
    console::emit(&mut guest);
    timing::emit(&mut guest);
    system::emit(&mut guest);
    dirty::emit(&mut guest);
    harts::emit(&mut guest);
    prompt::emit(&mut guest);
    guest.finish()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    fn qemu_is_installed() -> bool {
        let version = Command::new("qemu-system-riscv64").arg("--version").output();
        version.is_ok_and(|v| v.status.success())
    }

    /// Every command on QEMU, whose machine ours is to be.
    #[test]
    fn runs_on_qemu() {
        if !qemu_is_installed() {
            eprintln!("skipped: qemu-system-riscv64 is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("guest.bin");
        std::fs::write(&file, super::image()).unwrap();
        let mut qemu = Command::new("timeout")
            .args(["60", "qemu-system-riscv64", "-M", "virt", "-m", "128M", "-smp", "3"])
            .args(["-nographic", "-kernel"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = qemu.stdin.take().unwrap();
        let mut output = qemu.stdout.take().unwrap();
        let mut seen = Vec::new();
        let mut wait_for = |text: &str| {
            let start = seen.len();
            let mut byte = [0];
            while !seen[start..].ends_with(text.as_bytes()) {
                if output.read(&mut byte).unwrap() == 0 {
                    panic!("no {text:?} in:\n{}", String::from_utf8_lossy(&seen));
                }
                seen.push(byte[0]);
            }
            String::from_utf8_lossy(&seen[start..]).into_owned()
        };
        let greeting = wait_for("\r\n> ");
        for part in ["harts    3", "128 MiB at 0x80000000", "rv64ima"] {
            assert!(greeting.contains(part), "{part:?} in {greeting}");
        }
        for (command, answers) in [
            ("echo two  words", &["two  words\r\n"][..]),
            ("primes 1000", &["168 primes up to 1000 in ", " ms"]),
            ("tick 2", &["tick 1\r\n", "tick 2\r\n"]),
            ("dirty 64 1 4", &["1024 pages checked, 0 errors"]),
            ("harts", &["2 harts started", "hart ", "counted to "]),
            ("helpx", &["unknown command"]),
            ("dirty", &["usage: dirty"]),
            ("help", &["poweroff"]),
        ] {
            writeln!(input, "{command}").unwrap();
            let answer = wait_for("\r\n> ");
            for part in answers {
                assert!(answer.contains(part), "{part:?} in {answer}");
            }
        }
        writeln!(input, "reboot").unwrap();
        assert!(wait_for("\r\n> ").contains("harts    3"));
        writeln!(input, "poweroff").unwrap();
        assert!(qemu.wait().unwrap().success());
    }
}
