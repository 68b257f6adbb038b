//! `-name process=,debug-threads=`: the names that the host shows, here and with QEMU.

mod oracle;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The names of the first thread and of those whose names begin alike with those of vCPUs.
fn names(mut emulator: Command, options: &[&str]) -> (String, BTreeSet<String>) {
    let mut child = emulator
        .args(["-M", "virt", "-smp", "2", "-display", "none", "-serial", "none", "-S"])
        .args(["-monitor", "none", "-bios", "none"])
        .args(options)
        .stdin(Stdio::null())
        .spawn()
        .expect("the emulator starts");
    let look = |id: u32| {
        let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
        let tasks = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        let all: Vec<String> = tasks
            .map(|task| read(format!("{}/comm", task.path().display())).trim_end().to_owned())
            .collect();
        let vcpus = all.iter().filter(|name| name.starts_with("CPU ")).cloned().collect();
        (all.len(), (read(format!("/proc/{id}/comm")).trim_end().to_owned(), vcpus))
    };
    // Until the threads are there and nothing changes any more.
    let started = Instant::now();
    let mut before = look(child.id());
    let mut alike = 0;
    while alike < 5 && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(60));
        let now = look(child.id());
        alike = if now == before && now.0 > 2 { alike + 1 } else { 0 };
        before = now;
    }
    child.kill().expect("it still runs");
    child.wait().expect("it ends");
    before.1
}

#[test]
fn the_host_shows_the_names_asked_for() {
    let vcpus: BTreeSet<String> = ["CPU 0/TCG".to_owned(), "CPU 1/TCG".to_owned()].into();
    for (options, process, named) in [
        (["-name", "guest=g,process=a-name-far-too-long"], "a-name-far-too-", false),
        (["-name", "g,process=short,debug-threads=on"], "short", true),
        (["-name", "g,process=short,debug-threads=off"], "short", false),
    ] {
        let expected = (process.to_owned(), if named { vcpus.clone() } else { BTreeSet::new() });
        let ours = Command::new(env!("CARGO_BIN_EXE_understudy"));
        assert_eq!(names(ours, &options), expected, "{options:?}");
        if let Some(qemu) = oracle::qemu() {
            assert_eq!(names(qemu, &options), expected, "QEMU, {options:?}");
        }
    }
}

/// What `-run-with async-teardown=on` leaves behind while the memory is given back.
#[test]
fn memory_is_given_back_by_another_process() {
    let ours = Command::new(env!("CARGO_BIN_EXE_understudy"));
    for mut emulator in [Some(ours), oracle::qemu()].into_iter().flatten() {
        let mut child = emulator
            .args("-M virt -display none -serial none -monitor stdio -sandbox on".split(' '))
            .args(["-run-with", "async-teardown=on"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the emulator starts");
        let name = format!("cleanup/{}", child.id());
        // The host cuts names off after fifteen bytes.
        let name = &name[..name.len().min(15)];
        let is_there = || {
            let processes = std::fs::read_dir("/proc").expect("processes").flatten();
            let mut names = processes.map(|process| process.path().join("comm"));
            names.any(|comm| std::fs::read_to_string(comm).is_ok_and(|c| c.trim_end() == name))
        };
        let within = |what: &str, condition: &dyn Fn() -> bool| {
            let started = Instant::now();
            while !condition() {
                assert!(started.elapsed() < Duration::from_secs(20), "{what}: {name}");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        within("it is not there", &is_there);
        let mut monitor = child.stdin.take().expect("a pipe");
        monitor.write_all(b"quit\n").expect("it reads");
        assert!(child.wait().expect("it ends").success());
        within("it is still there", &|| !is_there());
    }
}
