//! What programs ask of a machine, against QEMU's answers of the same questions (transcript B1):
//! equal value by value, but for what is listed here.

use serde_json::Value;
use understudy::qmp::command;

use crate::harness::machine;

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
    "query-dump",
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
    "query-yank",
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

#[test]
fn answers_are_qemus() {
    let mut machine = machine(
        "-M virt -m 256M -smp 2 -display none -serial null -bios none \
         -name guest=oracle,process=orc -uuid 12345678-1234-1234-1234-123456789abc \
         -object memory-backend-ram,id=m0,size=16M -qmp unix:qmp,server=on,wait=off",
    )
    .start();
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
