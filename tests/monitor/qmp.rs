//! QMP sessions: transcripts of QEMU replayed byte for byte, and what a client cannot do to us.

use serde_json::Value;
use understudy::chardev::message::CharEvent;
use understudy::machine::message::{RunState, ShutdownCause, VmEvent};
use understudy::qmp::session;

use crate::harness::{MockVm, Terminal, With, bytes_of, monitor};

/// The package that the transcripts were made with, and ours: the one difference allowed.
const THEIR_PACKAGE: &str = "Debian 1:10.0.2+ds-2+deb13u1~bpo12+1";
const OUR_PACKAGE: &str = concat!("understudy ", env!("CARGO_PKG_VERSION"));

/// A session over a mocked machine, its client connected.
async fn session(vm: MockVm, pretty: bool) -> (actix::Addr<MockVm>, Terminal) {
    let (vm, monitor) = monitor(vm);
    let (backend, terminal) = Terminal::new();
    session::attach(backend, monitor, pretty);
    terminal.event(CharEvent::Opened).await;
    (vm, terminal)
}

async fn negotiated(vm: MockVm) -> (actix::Addr<MockVm>, Terminal) {
    let (vm, mut terminal) = session(vm, false).await;
    terminal.line().await;
    terminal.type_bytes(b"{'execute': 'qmp_capabilities'}").await;
    assert_eq!(terminal.line().await, r#"{"return": {}}"#);
    (vm, terminal)
}

/// Replay a transcript: what the client sends, and every byte of what must come back.
async fn replay(transcript: &str) {
    let (_vm, mut terminal) = session(MockVm::default(), false).await;
    for (number, line) in transcript.lines().enumerate() {
        if let Some(sent) = line.strip_prefix("C: ") {
            let mut sent = bytes_of(sent);
            sent.push(b'\n');
            terminal.type_bytes(&sent).await;
        } else if let Some(expected) = line.strip_prefix("S: ") {
            let expected = expected.replace(THEIR_PACKAGE, OUR_PACKAGE);
            assert_eq!(terminal.line().await, expected, "transcript line {}", number + 1);
        } else if let Some(expected) = line.strip_prefix("*: ") {
            let mut event: Value = serde_json::from_str(&terminal.line().await).unwrap();
            let stamp = event.as_object_mut().unwrap().shift_remove("timestamp").unwrap();
            assert!(stamp["seconds"].as_u64().unwrap() > 1_600_000_000);
            assert!(stamp["microseconds"].as_u64().unwrap() < 1_000_000);
            assert_eq!(event, serde_json::from_str::<Value>(expected).unwrap());
        } else {
            assert!(line.starts_with('#'), "transcript line {}", number + 1);
        }
    }
    assert_eq!(terminal.rest().await.escape_ascii().to_string(), "");
}

#[actix::test]
async fn negotiation() {
    replay(include_str!("data/negotiation.txt")).await;
}

#[actix::test]
async fn out_of_band_not_enabled() {
    replay(include_str!("data/oob_not_enabled.txt")).await;
}

#[actix::test]
async fn malformed_input() {
    replay(include_str!("data/malformed.txt")).await;
}

#[actix::test]
async fn command_errors() {
    replay(include_str!("data/command_errors.txt")).await;
}

#[actix::test]
async fn pretty_is_indented_as_qemu_indents() {
    let (_vm, mut terminal) = session(MockVm::default(), true).await;
    let greeting = terminal.until("\r\n}\r\n").await;
    assert!(
        greeting.starts_with("{\r\n    \"QMP\": {\r\n        \"version\": {\r\n"),
        "{greeting}"
    );
    terminal.type_bytes(b"{'execute':'qmp_capabilities','id':[1,[],{},{'a':2}]}").await;
    let expected = "{\r\n    \"return\": {\r\n    },\r\n    \"id\": [\r\n        1,\r\n        [\r\n        ],\r\n        {\r\n        },\r\n        {\r\n            \"a\": 2\r\n        }\r\n    ]\r\n}\r\n";
    assert_eq!(terminal.until("\r\n}\r\n").await, expected);
}

/// Transcript B2: each command, the events it causes (which come first), and its reply.
#[actix::test]
async fn run_state_commands_and_their_events() {
    let vm = MockVm { state: RunState::Running, ..Default::default() };
    let (_vm, mut terminal) = negotiated(vm).await;
    let reset = r#""data": {"guest": false, "reason": "host-qmp-system-reset"}"#;
    for (command, event, reply) in [
        ("query-status", "", r#"{"status": "running", "running": true}"#),
        ("stop", r#""event": "STOP""#, "{}"),
        ("query-status", "", r#"{"status": "paused", "running": false}"#),
        ("stop", "", "{}"),
        ("cont", r#""event": "RESUME""#, "{}"),
        ("cont", "", "{}"),
        ("system_reset", reset, "{}"),
        ("stop", r#""event": "STOP""#, "{}"),
        ("system_reset", reset, "{}"),
        ("query-status", "", r#"{"status": "prelaunch", "running": false}"#),
        ("system_powerdown", r#""event": "POWERDOWN""#, "{}"),
        ("inject-nmi", "", "machine does not provide NMIs"),
        ("quit", r#""data": {"guest": false, "reason": "host-qmp-quit"}"#, "{}"),
    ] {
        terminal.type_bytes(format!("{{'execute':'{command}'}}").as_bytes()).await;
        if !event.is_empty() {
            let line = terminal.line().await;
            assert!(line.contains(event), "{command}: {line}");
        }
        let line = terminal.line().await;
        assert!(line.contains(reply) && !line.contains("event"), "{command}: {line}");
    }
}

#[actix::test]
async fn queries() {
    let (_vm, mut terminal) = negotiated(MockVm::default()).await;
    for (command, reply) in [
        ("query-uuid", r#"{"UUID": "00000000-0000-0000-0000-000000000000"}"#),
        ("query-kvm", r#"{"enabled": false, "present": false}"#),
        ("query-target", r#"{"arch": "riscv64"}"#),
        ("query-current-machine", r#"{"wakeup-suspend-support": false}"#),
        (
            "query-cpus-fast",
            r#"[{"thread-id": 100, "props": {"core-id": 0}, "qom-path": "/machine/soc0/harts[0]", "cpu-index": 0, "target": "riscv64"}, {"thread-id": 101, "props": {"core-id": 1}, "qom-path": "/machine/soc0/harts[1]", "cpu-index": 1, "target": "riscv64"}]"#,
        ),
        (
            "query-machines",
            r#"[{"hotpluggable-cpus": false, "name": "virt", "numa-mem-supported": false, "default-cpu-type": "rv64-riscv-cpu", "acpi": false, "is-default": true, "cpu-max": 512, "deprecated": false, "default-ram-id": "riscv_virt_board.ram"}]"#,
        ),
        ("query-chardev", "[]"),
    ] {
        terminal.type_bytes(format!("{{'execute':'{command}'}}").as_bytes()).await;
        assert_eq!(terminal.line().await, format!(r#"{{"return": {reply}}}"#));
    }
    terminal.type_bytes(b"{'execute':'query-commands'}").await;
    let reply: Value = serde_json::from_str(&terminal.line().await).unwrap();
    let names: Vec<_> = reply["return"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    for name in names {
        let unexpected = format!("{{'execute':{name},'arguments':{{'bogus-':1}}}}");
        terminal.type_bytes(unexpected.as_bytes()).await;
        let line = terminal.line().await;
        assert!(!line.contains("CommandNotFound"), "{name} is listed: {line}");
    }
}

#[actix::test]
async fn memory_is_saved() {
    let mut vm = MockVm::default();
    vm.ram.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
    let (_vm, mut terminal) = negotiated(vm).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    let file = path.to_str().unwrap();
    let save = |command: &str, val: u64, size: u64| {
        format!(
            "{{'execute':'{command}','arguments':{{'val':{val},'size':{size},'filename':'{file}'}}}}"
        )
    };
    terminal.type_bytes(save("pmemsave", 0x8000_0001, 60000).as_bytes()).await;
    assert_eq!(terminal.line().await, r#"{"return": {}}"#);
    let saved = std::fs::read(&path).unwrap();
    assert_eq!(saved.len(), 60000);
    assert!(saved.iter().enumerate().all(|(i, &byte)| byte == (i + 1) as u8));
    terminal.type_bytes(save("memsave", 0, 16).as_bytes()).await;
    assert!(terminal.line().await.contains("Invalid addr 0x0000000000000000/size 16 specified"));
}

/// A client that does not read is not served, and its window closes; the next one reads all.
#[actix::test]
async fn a_client_that_does_not_read_stops_being_served() {
    let (vm, mut slow) = negotiated(MockVm::default()).await;
    slow.stuck(true).await;
    let commands = "{'execute':'query-machines'}\n".repeat(20_000);
    slow.type_bytes(commands.as_bytes()).await;
    assert!(slow.waiting().await > commands.len() / 2, "credit was withheld");
    for _ in 0..20_000 {
        let tell = |vm: &mut MockVm| {
            (0..10).for_each(|_| vm.tell(VmEvent::Reset { cause: ShutdownCause::GuestReset }));
        };
        vm.send(With(Box::new(tell))).await.unwrap();
    }
    slow.stuck(false).await;
    let (mut replies, mut events) = (0, 0);
    while replies < 20_000 {
        match slow.line().await.contains("RESET") {
            true => events += 1,
            false => replies += 1,
        }
    }
    // 1 MiB of events at about 130 bytes each.
    assert!((1000..20_000).contains(&events), "{events} events were kept");
}

/// What an earlier client left behind is not seen by the next.
#[actix::test]
async fn a_new_connection_starts_anew() {
    let (vm, mut terminal) = negotiated(MockVm::default()).await;
    vm.send(With(Box::new(|vm| vm.deaf = true))).await.unwrap();
    terminal.type_bytes(b"{'execute':'query-status','id':1}{'unfinished").await;
    terminal.rest().await;
    terminal.event(CharEvent::Closed).await;
    terminal.event(CharEvent::Opened).await;
    assert!(terminal.line().await.starts_with(r#"{"QMP""#));
    vm.send(With(Box::new(|vm| vm.tell(VmEvent::Stop)))).await.unwrap();
    terminal.type_bytes(b"{'execute':'query-name'}").await;
    let reply = terminal.line().await;
    assert!(reply.contains("Expecting capabilities negotiation"), "{reply}");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(terminal.rest().await, b"");
}
