//! Where QEMU is, for the tests that compare with it.

use std::process::Command;

/// The oldest release whose `virt` machine and CPU models are those that ours stands in for.
const OLDEST: u32 = 10;

/// A command that runs QEMU; `None`, said on standard error, where it is missing or too old.
pub fn qemu() -> Option<Command> {
    let program = "qemu-system-riscv64";
    let Ok(version) = Command::new(program).arg("--version").output() else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let major = version
        .split_once("version ")
        .and_then(|(_, rest)| rest.split('.').next()?.parse::<u32>().ok());
    if major.is_none_or(|major| major < OLDEST) {
        eprintln!("skipped: {program} is older than {OLDEST}.0: {}", version.trim());
        return None;
    }
    Some(Command::new(program))
}
