//! What programs and people ask of a machine, against QEMU's answers of the same questions
//! (transcript B1): equal value by value, but for what is listed here.

use serde_json::{Value, json};
use understudy::qmp::command;

use crate::harness::{Machine, machine};

/// Commands about things that this emulator does not have.
const NOT_HERE: &[&str] = &[
    "balloon",
    "change-vnc-password",
    "query-acpi-ospm-status",
    "query-audiodevs",
    "query-balloon",
    "query-block-exports",
    "query-block-jobs",
    "query-colo-status",
    "query-cryptodev",
    "query-display-options",
    "query-mice",
    "query-pci",
    "query-pr-managers",
    "query-replay",
    "query-rx-filter",
    "query-spice",
    "query-vm-generation-id",
    "query-vnc",
    "query-vnc-servers",
    "query-xen-replication-status",
    "set_password",
];

/// Commands whose answers differ, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("query-block", "another image"),
    ("query-blockstats", "another image"),
    ("query-chardev", "other sockets, and no parallel port"),
    ("query-chardev-backends", "fewer of them"),
    ("query-cpu-definitions", "fewer of them"),
    ("query-cpus-fast", "other threads"),
    ("query-named-block-nodes", "another image"),
    ("query-stats-schemas", "there are no cryptographic devices"),
    ("query-tpm-models", "there are none"),
    ("query-version", "another package"),
];

/// Items of `info` about things that this emulator does not have.
const ITEMS_NOT_HERE: &[&str] = &[
    "balloon",
    "block-jobs",
    "capture",
    "mice",
    "network",
    "pci",
    "replay",
    "snapshots",
    "spice",
    "sync-profile",
    "usb",
    "vm-generation-id",
    "vnc",
];

/// Lines of the human monitor whose answers differ, how ours begin, and why.
const DIFFERENT_LINES: &[(&str, &str, &str)] = &[
    ("info version", "10.0.2understudy ", "another package"),
    ("info cpus", "* CPU #0: thread_id=", "other threads"),
    ("info block", "", "there are no drives in this machine"),
    ("info blockstats", "", "there are no drives in this machine"),
    ("info chardev", "compat_monitor1: filename=unix:hmp,server=on\r\n", "other sockets"),
    ("info jit", "Accelerator settings:\r\n", "another translator"),
    (
        "info roms",
        "addr=0000000000001000 size=0x000028 mem=rom name=\"mrom.reset\"\r\n",
        "no kernel",
    ),
    (
        "info migrate",
        "capabilities: xbzrle: off ",
        "our layout, which begins with the capabilities",
    ),
    ("info migrate -a", "capabilities: xbzrle: off ", "the flag of later versions"),
    ("info ramblock", "              Block Name    PSize  ", "no display and no ACPI tables"),
    ("info registers", "\r\nCPU#0\r\n pc       ", "another program runs"),
    ("info virtio", "", "there are no such devices in this machine"),
    ("?", "announce_self ", "in our own words"),
    ("? stop", "stop|s  -- ", "in our own words"),
    ("help migrate", "migrate [-d] [-r] uri -- ", "in our own words"),
    ("help info migrate", "info migrate ", "in our own words"),
];

/// The machine of the transcript, but for its image and its kernel.
fn oracles_machine() -> Machine {
    machine(
        "-M virt -m 256M -smp 2 -display none -serial null -bios none \
         -name guest=oracle,process=orc -uuid 12345678-1234-1234-1234-123456789abc \
         -object memory-backend-ram,id=m0,size=16M -qmp unix:qmp,server=on,wait=off \
         -monitor unix:hmp,server=on,wait=off",
    )
    .start()
}

#[test]
fn answers_are_qemus() {
    let mut machine = oracles_machine();
    let mut qmp = machine.qmp("qmp");
    let mut lines = include_str!("data/queries.txt").lines().skip(1);
    while let (Some(asked), Some(answer)) = (lines.next(), lines.next()) {
        let question: Value = serde_json::from_str(&asked["C: ".len()..]).expect("a question");
        let name = question["execute"].as_str().expect("a command");
        let reply = qmp.ask(&question);
        if DIFFERENT.iter().any(|(known, _)| *known == name) {
            assert!(reply.get("return").is_some(), "{name}: {reply}");
        } else if NOT_HERE.contains(&name) {
            assert!(command::find(name).is_err(), "{name} is there by now");
            assert_eq!(reply["error"]["class"], "CommandNotFound", "{name}");
        } else {
            let expected: Value = serde_json::from_str(&answer["S: ".len()..]).expect("an answer");
            assert_eq!(reply, expected, "{name}");
        }
    }
    qmp.execute("quit");
    assert_eq!(machine.exit_code(), 0);
}

/// Compare an answer of the human monitor, without its prompt, with QEMU's.
fn compare(asked: &str, answer: &str, expected: &str) {
    if let Some((_, beginning, why)) = DIFFERENT_LINES.iter().find(|(line, ..)| *line == asked) {
        assert!(answer.starts_with(beginning), "{asked} ({why}): {answer}");
        assert!(!answer.starts_with("unknown"), "{asked} ({why}): {answer}");
    } else if asked.strip_prefix("info ").is_some_and(|item| ITEMS_NOT_HERE.contains(&item)) {
        assert_eq!(answer, format!("unknown command: '{asked}'\r\n"));
    } else {
        assert_eq!(answer, expected, "{asked}");
    }
}

#[test]
fn answers_to_people_are_qemus() {
    const PROMPT: &str = "(qemu) ";
    let machine = oracles_machine();
    let mut qmp = machine.qmp("qmp");
    let mut hmp = machine.connect("hmp");
    hmp.expect(PROMPT);
    let mut lines = include_str!("data/human_queries.txt").lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(asked) = line.strip_prefix("C:[hmp] ") {
            let mut expected = String::new();
            while let Some(said) = lines.next_if(|line| line.starts_with("S:[hmp] ")) {
                expected += &format!("{}\r\n", &said["S:[hmp] ".len()..]);
            }
            hmp.send(format!("{asked}\n"));
            let said = hmp.expect(PROMPT);
            let (_echo, answer) = said.split_once("\r\n").expect("an echo");
            let answer = answer.strip_suffix(PROMPT).expect("a prompt");
            compare(asked, answer, &expected);
        } else if let Some(asked) = line.strip_prefix("C: ") {
            let question: Value = serde_json::from_str(asked).expect("a question");
            let line = question["arguments"]["command-line"].as_str().expect("a line");
            let expected = lines.next().and_then(|line| line.strip_prefix("S: "));
            let expected = expected.and_then(|answer| serde_json::from_str(answer).ok());
            let expected = expected.unwrap_or_else(|| json!({"return": "of another machine"}));
            let answer = qmp.ask(&question);
            let text = |reply: &Value| reply["return"].as_str().map(str::to_owned);
            compare(line, &text(&answer).expect("a text"), &text(&expected).expect("a text"));
        } else {
            assert!(line.starts_with('#'), "{line}");
        }
    }
}
