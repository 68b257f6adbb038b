//! The human monitor byte for byte: on a socket, a pseudo-terminal and the process's terminal, as
//! recorded on QEMU 10.0.2; what `info migrate` says before there is a migration (in our layout);
//! and help, in our words.

use std::collections::HashSet;
use std::fs::File;

use crate::harness::machine;
use crate::harness::stream::Stream;

const BANNER: &str = "QEMU 10.0.2 monitor - type 'help' for more information";
const PROMPT: &str = "(qemu) ";

/// A transcript's text as bytes.
fn bytes_of(line: &str) -> Vec<u8> {
    let line =
        [("«", "\x1b[D"), ("¶", "\x1b[K"), ("⏎", "\r\n"), ("␍", "\r"), ("␊", "\n"), ("⇥", "\t")]
            .into_iter()
            .fold(line.to_owned(), |line, (sign, bytes)| line.replace(sign, bytes));
    let mut out = Vec::new();
    let mut rest = line.as_str();
    while let Some((before, after)) = rest.split_once("\\x") {
        out.extend_from_slice(before.as_bytes());
        let (digits, after) = after.split_at(2);
        out.push(u8::from_str_radix(digits, 16).expect("a byte"));
        rest = after;
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

fn play(stream: &mut Stream, transcript: &str) {
    for (number, line) in (1..).zip(transcript.lines()) {
        if let Some(keys) = line.strip_prefix("C: ") {
            stream.send(bytes_of(keys));
        } else if let Some(expected) = line.strip_prefix("S: ") {
            let expected = bytes_of(expected);
            let found = stream.expect_text(|text| text.len() >= expected.len());
            let found = found.as_bytes().escape_ascii().to_string();
            assert_eq!(found, expected.escape_ascii().to_string(), "line {number}");
        } else {
            assert!(line.starts_with('#'), "line {number}: {line}");
        }
    }
}

#[test]
fn on_a_socket_and_on_a_pseudo_terminal() {
    let words = "-M virt -m 128M -display none -serial null -qmp unix:qmp,server=on,wait=off \
                 -monitor unix:hmp,server=on,wait=off -monitor pty";
    let machine = machine(words).start();
    let chardevs = machine.qmp("qmp").execute("query-chardev");
    let names = chardevs.as_array().expect("a list").iter();
    let names: Vec<_> =
        names.filter_map(|c| c["filename"].as_str()?.strip_prefix("pty:")).collect();
    let [name] = names[..] else { panic!("{names:?}") };
    let device = File::options().read(true).write(true).open(name).expect("its other side");
    for mut stream in [machine.connect("hmp"), Stream::on("pty", device)] {
        let greeting = stream.expect(PROMPT);
        assert_eq!(greeting, format!("{BANNER}\r\n{PROMPT}"));
        play(&mut stream, include_str!("data/keys_socket.txt"));
    }
}

/// Transcript D32. Behind the monitor's own carriage return stands the terminal's.
#[test]
fn on_the_terminal() {
    let words = "-M virt -m 128M -display none -serial null -monitor stdio";
    let mut machine = machine(words).on_a_terminal().start();
    assert_eq!(machine.console.expect(PROMPT), format!("{BANNER}\r\r\n{PROMPT}"));
    play(&mut machine.console, include_str!("data/keys_terminal.txt"));
    // Ctrl-c is a signal here.
    machine.console.send("\x03");
    assert_eq!(machine.exit_code(), 0);
    assert_eq!(machine.errors(), "understudy: terminating on signal 2\n");
    assert!(machine.terminal().is_as_before());
}

/// A human monitor, line by line.
struct Lines(Stream);

impl Lines {
    /// What a line prints, without its echo and the next prompt.
    fn say(&mut self, line: &str) -> String {
        self.0.send(format!("{line}\n"));
        let text = self.0.expect(PROMPT);
        let (_, printed) = text.split_once("\r\n").expect("an echo");
        printed.strip_suffix(PROMPT).expect("a prompt").replace("\r\n", "\n")
    }
}

/// Transcript D30: every command and item is listed in order, and explained alone as in the list;
/// wrong uses are told in QEMU's words. The explanations are ours.
#[test]
fn help() {
    let words = "-M virt -m 128M -display none -serial null -monitor unix:hmp,server=on,wait=off";
    let machine = machine(words).start();
    let mut human = Lines(machine.connect("hmp"));
    human.0.expect(PROMPT);
    let commands = human.say("help");
    let items = human.say("info");
    assert_eq!(human.say("help info"), items);
    assert_eq!(human.say("? info"), items);
    let mut names = Vec::new();
    for line in commands.lines().chain(items.lines()) {
        let (usage, _) = line.split_once(" -- ").expect("an explanation");
        let info = usage.strip_prefix("info ").filter(|rest| !rest.starts_with('['));
        let name = info.unwrap_or(usage).split(' ').next().unwrap_or_default();
        let first = name.split('|').next().unwrap_or_default();
        if first != "info" && first != "log" {
            let asked = info.map_or(first.to_owned(), |_| format!("info {first}"));
            assert_eq!(human.say(&format!("help {asked}")), format!("{line}\n"), "{asked}");
        }
        names.push((info.is_some(), name.to_owned()));
    }
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(names, sorted);
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());

    for (line, printed) in [
        ("help nosuch", "unknown command: 'nosuch'\n"),
        ("help info nosuch", "unknown command: 'info nosuch'\n"),
        ("nosuch", "unknown command: 'nosuch'\n"),
        ("", ""),
        ("   ", ""),
        ("# comment", "unknown command: '#'\n"),
        ("migrate;info status", "unknown command: 'migrate;info'\n"),
        ("info  status", "VM status: running\n"),
        ("INFO status", "unknown command: 'INFO'\n"),
        (
            "info status extra",
            "status: extraneous characters at the end of line\n\
             Try \"help info status\" for more information\n",
        ),
        ("x", "unexpected end of expression\nTry \"help x\" for more information\n"),
        ("x 0", "0000000000000000: Cannot access memory\n"),
        ("print 1+1", "0x2\n"),
        ("p/x 255", "0xff\n"),
        (
            "stop extra",
            "stop|s: extraneous characters at the end of line\n\
             Try \"help stop\" for more information\n",
        ),
        (
            "object_add",
            "object_add: string expected\nTry \"help object_add\" for more information\n",
        ),
        ("object_add nosuch", "Error: Parameter 'qom-type' does not accept value 'nosuch'\n"),
        ("logfile", "logfile: filename expected\nTry \"help logfile\" for more information\n"),
        ("closefd x", "Error: File descriptor named 'x' not found\n"),
        ("getfd x", "Error: No file descriptor supplied via SCM_RIGHTS\n"),
        (
            "system_reset x",
            "system_reset: extraneous characters at the end of line\n\
             Try \"help system_reset\" for more information\n",
        ),
        ("cpu 0", ""),
        ("sum 0 1", "00000\n"),
        ("gva2gpa 0x80000000", "gpa: 0x80000000\n"),
        ("gpa2hva 0", "No memory is mapped at address 0x0\n"),
        ("gpa2hva 0x10000000", "Memory at address 0x10000000 is not RAM\n"),
        ("dumpdtb tree", "DTB dumped to 'tree'\n"),
        ("quitx", "unknown command: 'quitx'\n"),
    ] {
        assert_eq!(human.say(line), printed, "{line}");
    }
    let history = human.say("info history");
    assert!(history.ends_with(": 'quitx'\n63: 'info history'\n"), "{history}");
    let host = human.say("gpa2hva 0x80000000");
    let place = "Host virtual address for 0x80000000 (riscv_virt_board.ram) is 0x";
    assert!(host.starts_with(place), "{host}");
    let tree = std::fs::read(machine.path("tree")).expect("a device tree");
    assert_eq!(tree.get(..4), Some(&[0xd0, 0x0d, 0xfe, 0xed][..]));
    for (line, printed, state) in [
        ("one-insn-per-tb", "", "on"),
        ("one-insn-per-tb x", "unexpected option x\n", "on"),
        ("one-insn-per-tb off", "", "off"),
    ] {
        assert_eq!(human.say(line), printed, "{line}");
        let jit = human.say("info jit");
        assert!(jit.contains(&format!("one-insn-per-tb: {state}\n")), "{line}: {jit}");
    }
    // The log goes where it is sent from now on.
    assert_eq!(human.say("logfile log"), "");
    assert_eq!(human.say("log int,exec"), "");
    assert!(machine.path("log").exists());
    assert_eq!(human.say("log none"), "");
}

/// The grammar of arguments, sentences of refusals and what is shown of virtio devices; and what is
/// not to be had before the start of a machine that `-preconfig` holds back.
#[test]
fn lines_are_answered_as_by_qemu() {
    let words = "-M virt -m 128M -bios none -S -display none -nodefaults \
                 -device virtio-serial-device,id=vs -device virtconsole,chardev=c0,id=con0 \
                 -chardev null,id=c0 -monitor unix:hmp,server=on,wait=off";
    let mut parts = include_str!("data/human_lines.txt").split("# -preconfig");
    for also in ["", " -preconfig"] {
        let machine = machine(&format!("{words}{also}")).start();
        let mut human = Lines(machine.connect("hmp"));
        human.0.expect(PROMPT);
        let recorded = parts.next().expect("lines for it");
        for said in recorded.split("\n> ").skip(1) {
            let (line, printed) = said.split_once('\n').unwrap_or((said, ""));
            assert_eq!(human.say(line).trim_end(), printed.trim_end(), "{line}");
        }
        if also.is_empty() {
            let host = human.say("gpa2hpa 0x80000000");
            let place = "Host physical address for 0x80000000 (riscv_virt_board.ram) is 0x";
            assert!(host.starts_with(place), "{host}");
            // A device is read as a load would read it.
            let clock = human.say("xp/1xw 0x101000");
            assert!(clock.starts_with("0000000000101000: 0x"), "{clock}");
        }
    }
}

/// Transcript D26: a machine that has never migrated, over both monitors.
#[test]
fn a_fresh_machine_about_migration() {
    let words = "-M virt -m 128M -display none -serial null -qmp unix:qmp,server=on,wait=off \
                 -monitor unix:hmp,server=on,wait=off";
    let machine = machine(words).start();
    let mut qmp = machine.qmp("qmp");
    let mut human = Lines(machine.connect("hmp"));
    human.0.expect(PROMPT);
    assert_eq!(qmp.execute("query-migrate"), serde_json::json!({}));
    let capabilities = qmp.execute("query-migrate-capabilities");
    let list = human.say("info migrate_capabilities");
    let names: Vec<_> =
        list.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    let listed = capabilities.as_array().expect("a list").iter();
    assert_eq!(
        listed.map(|c| c["capability"].as_str().unwrap_or_default()).collect::<Vec<_>>(),
        names
    );
    assert!(list.lines().all(|line| line.ends_with(": off")), "{list}");
    // One line of them is ours; the rest of a fresh machine's is nothing.
    let info = human.say("info migrate");
    assert_eq!(info, format!("capabilities: {}\n", list.trim_end().replace('\n', " ")));
    assert_eq!(human.say("info migrate_parameters"), include_str!("data/migrate_parameters.txt"));
    let through_qmp = serde_json::json!({"command-line": "info migrate"});
    let text = qmp.execute_with("human-monitor-command", through_qmp);
    assert_eq!(text, info.replace('\n', "\r\n"));
}
