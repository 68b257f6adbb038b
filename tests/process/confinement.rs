//! What the process keeps to: the sandbox, another root and user, locked memory; and options from
//! files.

use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::harness::{Machine, machine};

/// A paused machine with a monitor.
const MONITOR: &str = "-S -display none -serial null -qmp unix:qmp,server=on,wait=off";

/// A line of the process's status in the kernel.
fn status(machine: &Machine, name: &str) -> String {
    let path = format!("/proc/{}/status", machine.pid().as_raw_nonzero());
    let text = std::fs::read_to_string(path).expect("a status");
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("{name} in {text}")).trim().to_owned()
}

#[test]
fn the_sandbox() {
    let free = machine(&format!("-sandbox off {MONITOR}")).start();
    free.qmp("qmp");
    assert_eq!(status(&free, "Seccomp"), "0");
    let command = json!({"execute": "migrate", "arguments": {"uri": "exec:cat > stream"}});
    for (words, refused) in [
        ("on", false),
        ("on,obsolete=allow,elevateprivileges=children,resourcecontrol=deny", false),
        ("on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", true),
    ] {
        let mut confined = machine(&format!("-sandbox {words} {MONITOR}")).start();
        let mut qmp = confined.qmp("qmp");
        assert_eq!(status(&confined, "Seccomp"), "2", "{words}");
        assert_eq!(status(&confined, "NoNewPrivs"), "1", "{words}");
        let answer = qmp.ask(&command);
        match refused {
            false => assert_eq!(answer, json!({"return": {}}), "{words}"),
            true => {
                let reason = answer["error"]["desc"].as_str().expect("a reason");
                assert!(reason.contains("Operation not permitted"), "{reason}");
            }
        }
        qmp.send("{'execute': 'quit'}");
        qmp.ended();
        assert_eq!(confined.exit_code(), 0, "{words}: {}", confined.errors());
    }
}

#[test]
fn another_root_and_user() {
    let words = format!("-run-with chroot=.,user=4242:4243 {MONITOR}");
    if !rustix::process::geteuid().is_root() {
        // Who may not do this is told so.
        let (code, _, errors) = machine(&words).run();
        assert_eq!(
            (code, errors.as_str()),
            (1, "understudy: chroot failed: Operation not permitted\n")
        );
        return;
    }
    let confined = machine(&words).start();
    let mut qmp = confined.qmp("qmp");
    let root = format!("/proc/{}/root", confined.pid().as_raw_nonzero());
    let here = std::fs::metadata(confined.path(".")).expect("a directory");
    let there = std::fs::metadata(root).expect("a root");
    assert_eq!((here.dev(), here.ino()), (there.dev(), there.ino()));
    assert_eq!(status(&confined, "Uid"), "4242\t4242\t4242\t4242");
    assert_eq!(status(&confined, "Gid"), "4243\t4243\t4243\t4243");
    assert_eq!(status(&confined, "Groups"), "4243");
    assert_eq!(qmp.status(), "prelaunch");
}

#[test]
fn locked_memory() {
    let locked = machine(&format!("-m 16M -overcommit mem-lock=on-fault {MONITOR}")).start();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    locked.qmp("qmp");
    let size = status(&locked, "VmLck");
    let number = size.split(' ').next().and_then(|number| number.parse::<u64>().ok());
    assert!(number.expect("a number") > 16 << 10, "{size}");
}

/// A configuration file makes the machine that the same options make, and `-set` changes it.
#[test]
fn options_from_a_file() {
    let config = b"# A machine.\n[machine]\n  type = \"virt\"\n\n[memory]\n  size = \"48\"\n\
        [smp-opts]\n  cpus = \"2\"\n[name]\n  guest = \"a, b\"\n\
        [chardev \"ring\"]\n  backend = \"ringbuf\"\n  size = \"1024\"\n\
        [object]\n  qom-type = \"rng-builtin\"\n  id = \"noise\"\n\
        [device \"random\"]\n  driver = \"virtio-rng-device\"\n  rng = \"noise\"\n";
    let words = format!("-readconfig file -set device.random.max-bytes=512 {MONITOR}");
    let configured = machine(&words).file("file", config).start();
    let mut qmp = configured.qmp("qmp");
    let mut human = |line: &str| {
        let text = qmp.execute_with("human-monitor-command", json!({"command-line": line}));
        text.as_str().expect("a text").to_owned()
    };
    assert_eq!(human("info name"), "a, b\r\n");
    assert!(human("info chardev").contains("ring: filename=ringbuf\r\n"));
    assert_eq!(human("info cpus").lines().count(), 2);
    let tree = human("info qtree");
    assert!(tree.contains("id \"random\""), "{tree}");
    assert!(tree.contains("max-bytes = 512"), "{tree}");
    let map = human("info mtree");
    assert!(map.contains("0000000080000000-0000000082ffffff (prio 0, ram)"), "{map}");

    for (words, file, line) in [
        (
            "-readconfig missing",
            "",
            ": -readconfig missing: Could not open 'missing': No such file or directory",
        ),
        ("-readconfig file", "[memory]\n\nsize = \"x\"\n", ":file:3: Parameter 'size' expects a"),
        ("-readconfig file", "[device \"d\"]\n", ":file:1: Parameter 'driver' is missing"),
        ("-readconfig file", "[nosuch]\n", ": -readconfig file: There is no option group 'nosuch'"),
        ("-readconfig file", "size = \"1\"\n", ": -readconfig file: no group defined"),
        ("-set device.d.x=1", "", ": -set device.d.x=1: there is no device \"d\" defined"),
    ] {
        let (code, output, errors) = machine(words).file("file", file.as_bytes()).run();
        assert_eq!((code, output.as_str()), (1, ""), "{words}");
        assert!(errors.starts_with(&format!("understudy{line}")), "{errors}");
    }
}
