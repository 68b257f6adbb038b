//! Streams that the destination refuses: its own sentence, and the source's, which with a return
//! path is the same.

use serde_json::json;

use crate::harness::machine;
use crate::side::Side;

const UNKNOWN: &str = "Make sure that your current VM setup matches your saved VM setup, including \
     any hotplugged devices";

#[test]
fn machines_that_differ() {
    let uuid = "11111111-2222-3333-4444-555555555555";
    let other = "22222222-2222-3333-4444-555555555555";
    for (here, there, cause) in [
        (
            "",
            "-m 128M",
            "Size mismatch: riscv_virt_board.ram: 0x4000000 != 0x8000000: Invalid argument (error \
             while loading state for instance 0x0 of device 'ram')"
                .to_owned(),
        ),
        (
            "-m 128M",
            "",
            "Size mismatch: riscv_virt_board.ram: 0x8000000 != 0x4000000: Invalid argument (error \
             while loading state for instance 0x0 of device 'ram')"
                .to_owned(),
        ),
        ("-smp 2", "", format!("Unknown savevm section or instance 'cpu_common' 1. {UNKNOWN}")),
        ("", "-smp 2", "Missing section footer for riscv_mtimer".to_owned()),
        (
            "-device virtio-rng-device",
            "",
            format!(
                "Unknown savevm section or instance \
                 'virtio-mmio@0000000010008000/virtio-rng' 0. {UNKNOWN}"
            ),
        ),
        // Refused before the source opens the return path.
        (
            &format!("-uuid {uuid}"),
            &format!("-uuid {other}"),
            format!("UUID received is {uuid} and local is {other}"),
        ),
    ] {
        let (mut source, mut destination) = (Side::source(here), Side::destination(there));
        for side in [&mut source, &mut destination] {
            side.switch("return-path", true);
        }
        source.switch("validate-uuid", true);
        let uri = destination.listen_tcp();
        source.migrate(&uri);
        source.states("failed");
        // It runs before anybody hears of the failure.
        assert_eq!(source.qmp.status(), "running");
        assert_eq!(source.fails(), format!("destination: {cause}"), "{here} to {there}");
        let expected = format!("load of migration failed: Invalid argument: {cause}");
        assert_eq!(destination.fails(), expected);
        assert_eq!(destination.qmp.status(), "inmigrate");
        source.lives();
        // Not in vain: it moves to one that is alike.
        let mut alike = Side::destination(here);
        alike.switch("return-path", true);
        let uri = alike.listen_tcp();
        source.migrate(&uri);
        source.reaches("completed");
        alike.reaches("completed");
        alike.lives();
    }
}

/// Without a return path the source sees no more than the end of the line; the reason is where the
/// destination is.
#[test]
fn told_to_nobody() {
    let (mut source, mut destination) = (Side::source(""), Side::destination("-m 128M"));
    source.run("dirty 64 1 16");
    // There is something left to send when the destination has gone.
    source.set(json!({"max-bandwidth": 4_000_000}));
    let uri = destination.listen_tcp();
    source.migrate(&uri);
    let said = source.fails();
    assert!(said.starts_with("Unable to write to socket: "), "{said}");
    let heard = destination.fails();
    assert!(
        heard.contains("Size mismatch: riscv_virt_board.ram: 0x4000000 != 0x8000000"),
        "{heard}"
    );
    source.lives();
}

/// With `exit-on-error`, as by default, the sentence goes to standard error and the exit code is 1.
#[test]
fn streams_that_are_none() {
    let mut source = Side::source("");
    source.migrate("file:saved");
    source.reaches("completed");
    let good = std::fs::read(source.machine.path("saved")).expect("the stream");
    let changed = |at: usize, bytes: &[u8]| {
        let mut stream = good.clone();
        stream[at..at + bytes.len()].copy_from_slice(bytes);
        stream
    };
    for (stream, sentence) in [
        (
            Vec::new(),
            "Input/output error: the stream ends after 0 bytes (no stream header)".to_owned(),
        ),
        (changed(0, b"QEVX"), "Invalid argument: Not a migration stream".into()),
        (
            changed(4, &[0, 0, 0, 4]),
            "Operation not supported: Unsupported migration stream version 4".into(),
        ),
        (
            changed(4, &[0, 0, 0, 2]),
            "Operation not supported: SaveVM v2 format is obsolete and don't work anymore".into(),
        ),
        (
            good[..1000].to_vec(),
            "Input/output error: the stream ends after 1000 bytes (error while loading state \
             section id 2(ram))"
                .into(),
        ),
        // QEMU loads it.
        (
            good[..good.len() - 1].to_vec(),
            format!("Input/output error: the stream ends after {} bytes", good.len() - 1),
        ),
    ] {
        let words = "-m 64M -display none -serial null -monitor none -incoming file:stream";
        let (code, _, errors) = machine(words).file("stream", &stream).run();
        assert_eq!(errors, format!("understudy: load of migration failed: {sentence}\n"));
        assert_eq!(code, 1);
    }
}

#[test]
fn addresses_that_cannot_be_listened_on() {
    let words = "-m 64M -display none -serial null -monitor none -incoming";
    for (uri, sentence) in [
        ("bogus:x", "unknown migration protocol: bogus:x"),
        ("tcp:127.0.0.1", "error parsing address '127.0.0.1'"),
        (
            "unix:/no/such/dir/s",
            "Failed to bind socket to /no/such/dir/s: No such file or directory",
        ),
        ("fd:nope", "Invalid file descriptor number 'nope'"),
        ("file:/no/such/file", "Could not open '/no/such/file': No such file or directory"),
        ("", "Parameter 'channel-type' is missing"),
        ("defer2", "Parameter 'channel-type' does not accept value 'defer2'"),
        ("{\"channel-type\":\"main\"}", "Parameter 'addr' is missing"),
    ] {
        let (code, _, errors) = machine(words).word(uri).run();
        assert_eq!(errors, format!("understudy: -incoming {uri}: {sentence}\n"));
        assert_eq!(code, 1);
    }
    // QEMU waits for ever.
    let (code, _, errors) = machine(words).word("exec:echo why >&2; exit 3").run();
    let expected = "understudy: load of migration failed: Input/output error: exec: command exited \
                    with status 3: why (no stream header)\n";
    assert!(errors.ends_with(expected), "{errors}");
    assert_eq!(code, 1);
}
