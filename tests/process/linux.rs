//! Debian's kernel and busybox at work: computing, its devices, its firmware, its panic.

use std::path::Path;
use std::time::Duration;

use crate::harness::debian::{PROMPT, Shell, guest, linux, sha256};

const OPENSBI: &str = "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin";

/// Bytes in a block that goes through the serial port; more than every queue on the way.
const LARGE: usize = 400_000;

/// Bytes without a pattern, the same in every run (xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Lines of text without a pattern.
fn text(length: usize) -> Vec<u8> {
    let mut text: Vec<u8> = noise(length).into_iter().map(|byte| b'!' + byte % 90).collect();
    for byte in text.iter_mut().skip(63).step_by(64) {
        *byte = b'\n';
    }
    text.push(b'\n');
    text
}

fn computes(shell: &mut Shell<'_>) {
    for (command, answer) in [
        ("echo $((6 * 7)) $((1 << 40)) $((-7 / 2))", "42 1099511627776 -3\n"),
        // Forks: as children, in a pipeline, in the background.
        ("for i in $(seq 30); do (exit $i); [ $? = $i ] || echo $i; done; echo done", "done\n"),
        ("seq 1000 | grep 7 | sort -rn | tail -n 1", "7\n"),
        (
            "(for i in 1 2 3 4; do (sleep 0.1; echo $i >>f) & done; wait); sort f | tr -d '\\n'",
            "1234",
        ),
        // Signals, to the shell itself and to a child.
        ("trap 'echo caught' USR1; kill -USR1 $$; trap - USR1", "caught\n"),
        ("(sleep 1000 & kill -TERM $!; wait $!; echo $?) 2>/dev/null", "143\n"),
        ("sh -c 'kill -SEGV $$'; echo $?", "Segmentation fault\n139\n"),
        // Floating point.
        (
            "awk 'BEGIN { x = 1; for (i = 0; i < 6; i++) x = (x + 2 / x) / 2; printf \"%.17g %.17g\\n\", x, 1 / 3 }'",
            "1.4142135623730949 0.33333333333333331\n",
        ),
        (
            "awk 'BEGIN { for (i = 1; i <= 20000; i++) s += 1 / (i * i); printf \"%.12f\\n\", s }'",
            "1.644884068098\n",
        ),
    ] {
        assert_eq!(shell.run(command), answer, "{command}");
    }
    // The terminal's own signal.
    shell.0.send("sleep 1000; echo not reached\n");
    // One that comes before the shell has started the command interrupts nothing.
    let mut interrupted = String::new();
    for _ in 0..60 {
        shell.0.send("\x03");
        interrupted += &String::from_utf8_lossy(&shell.0.within(Duration::from_secs(1)));
        if interrupted.contains(PROMPT) {
            break;
        }
    }
    assert!(interrupted.contains(PROMPT), "{interrupted}");
    assert!(!interrupted.contains("not reached"), "{interrupted}");
}

/// Not a byte is lost in either direction at full speed.
fn passes_bytes(shell: &mut Shell<'_>) {
    let block = text(LARGE);
    let sum = sha256(&block);
    shell.0.send("cat >block\n");
    shell.0.send(&block);
    shell.0.send("\x04");
    shell.0.expect(PROMPT);
    let stored = shell.run("sha256sum <block");
    assert_eq!(stored.split(' ').next(), Some(sum.as_str()), "{}", shell.run("wc block"));
    let shown = shell.run("cat block");
    assert_eq!(shown.len(), block.len());
    assert_eq!(sha256(shown.as_bytes()), sum);
}

#[test]
fn a_session() {
    let Some(guest) = guest() else { return };
    let read = noise(4 << 20);
    let setup = linux(
        guest,
        "-smp 2 -nographic -device virtio-rng-device \
         -drive file=read.img,format=raw,if=none,id=r,readonly=on \
         -device virtio-blk-device,drive=r,serial=read \
         -drive file=written.img,format=raw,if=none,id=w \
         -device virtio-blk-device,drive=w,serial=written",
        "",
    );
    let setup = setup.file("read.img", &read).file("written.img", &vec![0; 4 << 20]);
    let mut machine = setup.on_a_terminal().start();
    let written = machine.path("written.img");
    let mut shell = Shell::of(&mut machine.console);
    assert_eq!(shell.run("nproc"), "2\n");
    computes(&mut shell);
    passes_bytes(&mut shell);

    let disk = |name: &str| format!("$(grep -l '^{name}$' /sys/block/vd*/serial | cut -d / -f 4)");
    let hashed = shell.run(&format!("sha256sum </dev/{}", disk("read")));
    assert_eq!(hashed.split(' ').next(), Some(sha256(&read).as_str()));
    let refused = shell.run(&format!("echo x 2>&1 >/dev/{}; echo $?", disk("read")));
    assert!(refused.ends_with("1\n"), "{refused}");
    shell.run(&format!("cat block block | dd of=/dev/{} bs=64k conv=fsync", disk("written")));
    let block = text(LARGE);
    let on_disk = std::fs::read(&written).expect("the image");
    assert!(on_disk.starts_with(&[&block[..], &block[..]].concat()), "what was synced is there");

    assert_eq!(shell.run("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0\n");
    let draw = "head -c 32 /dev/hwrng | sha256sum";
    assert_ne!(shell.run(draw), shell.run(draw));

    // A break is the kernel's, with the key behind it.
    shell.0.send("\x01bh");
    shell.0.expect("sysrq: HELP");

    shell.0.send("reboot -f\n");
    let mut shell = Shell::of(shell.0);
    assert_eq!(shell.run("ls block 2>&1"), "ls: block: No such file or directory\n");
    shell.0.send("poweroff -f\n");
    shell.0.expect("reboot: Power down");
    assert_eq!(machine.exit_code(), 0, "{}", machine.errors());
    assert!(machine.terminal().is_as_before());
    assert_eq!(machine.errors(), "");
}

/// One hart and four, the serial port on a socket, which is faster than a terminal.
#[test]
fn a_session_over_a_socket() {
    let Some(guest) = guest() else { return };
    for harts in [1, 4] {
        let words =
            format!("-smp {harts} -display none -serial unix:serial,server=on -monitor none");
        let mut machine = linux(guest, &words, "").start();
        let mut serial = machine.connect("serial");
        let mut shell = Shell::of(&mut serial);
        assert_eq!(shell.run("nproc"), format!("{harts}\n"));
        computes(&mut shell);
        passes_bytes(&mut shell);
        shell.0.send("poweroff -f\n");
        shell.0.expect("reboot: Power down");
        assert_eq!(machine.exit_code(), 0);
    }
}

#[test]
fn on_opensbi() {
    let Some(guest) = guest() else { return };
    if !Path::new(OPENSBI).exists() {
        eprintln!("skipped: {OPENSBI} is missing (package opensbi)");
        return;
    }
    for harts in [1, 2, 4] {
        let words = format!("-smp {harts} -nographic -bios {OPENSBI}");
        let mut machine = linux(guest, &words, "-- sh -c nproc|sed${IFS}s/^/harts:/").start();
        machine.console.expect("OpenSBI v");
        machine.console.expect(&format!("harts:{harts}\r\n"));
        machine.console.expect("reboot: Power down");
        assert_eq!(machine.exit_code(), 0);
    }
}

/// With `panic=1` a kernel that panics reboots after a second, which ends the process.
#[test]
fn a_kernel_that_panics() {
    let Some(guest) = guest() else { return };
    let mut machine = linux(guest, "-nographic -no-reboot", "panic=1").on_a_terminal().start();
    let shell = Shell::of(&mut machine.console);
    shell.0.send("echo c >/proc/sysrq-trigger\n");
    shell.0.expect("Kernel panic - not syncing");
    assert_eq!(machine.exit_code(), 0);
    assert!(machine.terminal().is_as_before());
}
