//! What monitors say of drives, here and on QEMU: the same drives, the same answers.

mod oracle;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const DRIVES: &[&str] = &[
    "-drive",
    "file=a.img,format=raw,if=none,id=d0,cache=none,werror=stop",
    "-device",
    "virtio-blk-device,drive=d0,id=vb0",
    "-blockdev",
    "driver=file,node-name=f1,filename=b.img",
    "-blockdev",
    "driver=raw,node-name=r1,file=f1,read-only=on",
    "-device",
    "virtio-blk-device,drive=r1,werror=report,rerror=report",
    "-drive",
    "file=c.img,format=raw,if=none,id=zz,readonly=on,cache=unsafe",
    "-drive",
    "file=d.img,format=raw,if=none,node-name=top,file.node-name=below,cache=writethrough",
    "-blockdev",
    r#"{"driver":"file","node-name":"alone","filename":"e.img"}"#,
    "-device",
    "virtio-blk-device,drive=alone,id=vb1",
    "-drive",
    "if=pflash,file=flash.img,format=raw",
];

fn human(line: &str) -> Value {
    json!({"execute": "human-monitor-command", "arguments": {"command-line": line}})
}

fn commands() -> Vec<Value> {
    let query = |name: &str| json!({"execute": name});
    let nodes = json!({"execute": "query-blockstats", "arguments": {"query-nodes": true}});
    let mut all = vec![
        query("query-block"),
        query("query-blockstats"),
        nodes,
        query("query-named-block-nodes"),
        json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}),
    ];
    all.extend(
        [
            "info block",
            "info block -v",
            "info block -n",
            "info block d0",
            "info block -v vb0",
            "info block f1",
            "info block -n -v below",
            "info block nosuch",
            "info blockstats",
            "info blockstats d0",
        ]
        .map(human),
    );
    all
}

/// The answers of a machine with these drives.
fn answers(mut emulator: Command, directory: &Path) -> Vec<Value> {
    emulator.current_dir(directory).args(["-M", "virt", "-display", "none", "-S", "-m", "128"]);
    emulator.args(["-serial", "null", "-monitor", "none", "-qmp", "stdio"]).args(DRIVES);
    let mut process =
        emulator.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut to = process.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
    let mut line = || -> Value {
        let line = lines.next().expect("a reply").expect("a line");
        serde_json::from_str(&line).expect("JSON")
    };
    line();
    let mut ask = |command: &Value| {
        writeln!(to, "{command}").expect("a pipe");
        line()["return"].take()
    };
    ask(&json!({"execute": "qmp_capabilities"}));
    let answers = commands().iter().map(&mut ask).collect();
    ask(&json!({"execute": "quit"}));
    assert!(process.wait().expect("it ends").success());
    answers
}

/// Without the floppy drive that QEMU gives every machine, and with nameless nodes called alike.
fn comparable(answer: Value) -> Value {
    match answer {
        Value::Array(all) => {
            let is_floppy = |entry: &Value| entry["device"] == "floppy0";
            all.into_iter().filter(|entry| !is_floppy(entry)).map(comparable).collect()
        }
        Value::Object(members) => {
            members.into_iter().map(|(name, value)| (name, comparable(value))).collect()
        }
        Value::String(text) => {
            let mut kept = String::new();
            // A drive's lines and the empty one after it.
            let mut skips = false;
            for line in text.split_inclusive('\n') {
                skips = line.starts_with("floppy0: ") || skips && line.starts_with("    ");
                if !skips {
                    kept.push_str(&nameless(line));
                }
            }
            // Where the floppy was, two empty lines are left.
            kept.replace("\n\r\n\r\n", "\n\r\n").trim_end().into()
        }
        other => other,
    }
}

/// `#block123` as `#block`.
fn nameless(line: &str) -> String {
    let mut parts = line.split("#block");
    let mut named = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        named.push_str("#block");
        named.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    named
}

/// A file that nobody may write to, not even root.
const NOT_WRITABLE: &str = "/sys/kernel/uevent_seqnum";

#[test]
fn an_image_that_may_not_be_written_to_is_no_disk() {
    if !Path::new(NOT_WRITABLE).exists() {
        return eprintln!("skipped: there is no {NOT_WRITABLE}");
    }
    let refusal = |mut emulator: Command, more: &str, device: &[&str]| {
        let drive = format!("file={NOT_WRITABLE},format=raw,if=none,id=x{more}");
        emulator.args(["-M", "virt", "-display", "none", "-S", "-serial", "null"]);
        emulator.args(["-monitor", "stdio", "-drive", &drive]).args(device);
        let output = emulator.stdin(Stdio::null()).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        errors.split_once(": ").map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    };
    let disk = ["-device", "virtio-blk-device,drive=x"];
    let ours = || Command::new(env!("CARGO_BIN_EXE_understudy"));
    for (more, device) in [("", &disk[..]), (",auto-read-only=off", &[])] {
        let said = refusal(ours(), more, device);
        let expected = format!("Could not open '{NOT_WRITABLE}': Permission denied\n");
        assert!(said.ends_with(&expected), "{more}: {said}");
        if let Some(qemu) = oracle::qemu() {
            assert_eq!(said, refusal(qemu, more, device), "{more}");
        }
    }
}

#[test]
fn drives_are_told_of_as_on_qemu() {
    let Some(qemu) = oracle::qemu() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    for (name, size) in
        [("a", 1 << 20), ("b", 3 << 20), ("c", 512), ("d", 40 << 10), ("e", 7 << 30)]
    {
        let image = std::fs::File::create(directory.path().join(format!("{name}.img")));
        image.and_then(|image| image.set_len(size)).expect("an image");
    }
    let flash = std::fs::File::create(directory.path().join("flash.img"));
    flash.and_then(|flash| flash.set_len(32 << 20)).expect("an image");
    std::fs::write(directory.path().join("d.img"), vec![7; 40 << 10]).expect("an image");

    let ours = answers(Command::new(env!("CARGO_BIN_EXE_understudy")), directory.path());
    let theirs = answers(qemu, directory.path());
    for ((command, ours), theirs) in commands().iter().zip(ours).zip(theirs) {
        assert_eq!(comparable(ours), comparable(theirs), "{command}");
    }
}
