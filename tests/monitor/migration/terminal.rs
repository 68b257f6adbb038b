//! The human monitor: transcripts, the wait for a migration, figures.

use actix::Addr;
use serde_json::json;
use understudy::chardev::message::CharEvent;
use understudy::hmp;
use understudy::machine::message::RunState;
use understudy::migration::message::{MigrationEvent, Progress, RamStats, Side};
use understudy::migration::status::{ErrorDesc, MigrationState};
use understudy::qmp::monitor::Monitor;

use super::puppet::{Puppet, asked, entered, failed, kill, pull};
use super::{hmp_line, qmp, query, until_status};
use crate::harness::{MockVm, Terminal, monitor};

/// The transcript of a failure that comes after the answer, on a monitor that waits and does not.
#[actix::test]
async fn a_refused_connection_in_hmp() {
    const REFUSED: &str = "Error connecting to socket: Connection refused";
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let refuse = |puppet: &mut Puppet| {
        puppet.before = vec![entered(MigrationState::Setup)];
        puppet.after = vec![failed(REFUSED)];
    };
    let mut puppet = Puppet::new(&monitor);
    refuse(&mut puppet);
    let puppet = puppet.perform(&monitor);
    let mut terminal = opened(&monitor).await;
    terminal.type_bytes(b"migrate -d tcp:localhost:9001\n").await;
    let expected = format!("{}\r\n(qemu) ", echo("migrate -d tcp:localhost:9001"));
    assert_eq!(terminal.until("\r\n(qemu) ").await, expected);
    until_status(&monitor, "failed").await;
    terminal.type_bytes(b"info migrate\n").await;
    let shown = terminal.until("milliseconds\r\n(qemu) ").await;
    let (echoed, shown) = shown.split_once("\r\n").unwrap();
    assert_eq!(echoed, echo("info migrate"));
    let (capabilities, shown) = shown.split_once("\r\n").unwrap();
    assert!(capabilities.starts_with("capabilities: xbzrle: off rdma-pin-all: off auto"));
    assert!(capabilities.ends_with(" dirty-limit: off mapped-ram: off"), "{capabilities:?}");
    assert_eq!(
        shown,
        format!("Migration status: failed ({REFUSED})\r\ntotal time: 0 milliseconds\r\n(qemu) ")
    );
    pull(&puppet, refuse).await;
    terminal.type_bytes(b"migrate tcp:localhost:9001\n").await;
    let expected = format!("{}\r\n{REFUSED}\r\n(qemu) ", echo("migrate tcp:localhost:9001"));
    assert_eq!(terminal.until("refused\r\n(qemu) ").await, expected);
    // A failure that is the answer is an error of the command; both ways, and repeated.
    for line in ["migrate fd:nosuch", "migrate -d fd:nosuch"] {
        const NO_FD: &str = "File descriptor named 'nosuch' has not been found";
        pull(&puppet, |puppet| {
            puppet.before = vec![entered(MigrationState::Setup), failed(NO_FD)];
            puppet.answer = Err(ErrorDesc::new(NO_FD));
        })
        .await;
        terminal.type_bytes(format!("{line}\n").as_bytes()).await;
        let expected = format!("{}\r\nError: {NO_FD}\r\n(qemu) ", echo(line));
        assert_eq!(terminal.until("found\r\n(qemu) ").await, expected);
        assert_eq!(query(&monitor).await, json!({"status": "failed", "error-desc": NO_FD}));
    }
}

/// A human monitor whose banner has been read.
async fn opened(monitor: &Addr<Monitor>) -> Terminal {
    let (backend, mut terminal) = Terminal::new();
    hmp::session::attach(backend, hmp::session::MonitorLink::to(monitor));
    terminal.event(CharEvent::Opened).await;
    terminal.until("(qemu) ").await;
    terminal
}

/// What comes back while a line is typed.
fn echo(line: &str) -> String {
    let shown = |end: usize| format!("{}{}\x1b[K", "\x1b[D".repeat(end - 1), &line[..end]);
    (1..=line.len()).map(shown).collect()
}

/// A migration that takes its time: the monitor shows how far it is, and Ctrl-C ends it.
#[actix::test]
async fn waiting_in_hmp() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let mut puppet = Puppet::new(&monitor);
    let ram = RamStats { total: 1000, remaining: 600, ..RamStats::default() };
    let progress = Progress { ram, ..Progress::default() };
    let active = MigrationEvent::State {
        side: Side::Source,
        state: MigrationState::Active,
        progress: Box::new(progress.clone()),
    };
    puppet.after = vec![active.clone()];
    let puppet = puppet.perform(&monitor);
    let mut terminal = opened(&monitor).await;
    terminal.type_bytes(b"migrate tcp:h:1\ninfo status\n").await;
    let shown = terminal.until("%\r").await;
    assert_eq!(shown, format!("{}\r\nCompleted 40 %\r", echo("migrate tcp:h:1")));
    // Others are served meanwhile.
    assert_eq!(hmp_line(&monitor, "info status").await, "VM status: running\n");
    terminal.type_bytes(b"\x03").await;
    // What was typed ahead comes after the end.
    let shown = terminal.until("VM status: running\r\n(qemu) ").await;
    assert!(shown.starts_with("\r\n(qemu) i\x1b[K"), "{shown:?}");
    assert!(asked(&puppet).await.contains(&"CancelMigration".to_owned()));
    assert_eq!(query(&monitor).await, json!({"status": "cancelled"}));
    // Another monitor ends it as well; with nothing shown yet, nothing is printed.
    pull(&puppet, |puppet| puppet.before = vec![entered(MigrationState::Setup)]).await;
    terminal.type_bytes(b"migrate tcp:h:1\n").await;
    until_status(&monitor, "setup").await;
    assert_eq!(hmp_line(&monitor, "migrate_cancel").await, "");
    let expected = format!("{}\r\n(qemu) ", echo("migrate tcp:h:1"));
    assert_eq!(terminal.until("\r\n(qemu) ").await, expected);
    // Success says nothing either.
    pull(&puppet, |puppet| {
        puppet.before = vec![entered(MigrationState::Setup)];
        puppet.after = vec![entered(MigrationState::Completed)];
    })
    .await;
    terminal.type_bytes(b"migrate tcp:h:1\n").await;
    assert_eq!(terminal.until("\r\n(qemu) ").await, expected);
    // A source that dies under a waiting monitor gives the prompt back.
    pull(&puppet, |puppet| puppet.before = vec![entered(MigrationState::Setup)]).await;
    terminal.type_bytes(b"migrate tcp:h:1\n").await;
    until_status(&monitor, "setup").await;
    kill(&puppet).await;
    let died = "The migration's actor has died: it takes no more messages";
    let shown = terminal.until("messages\r\n(qemu) ").await;
    assert!(shown.ends_with(&format!("\r\n{died}\r\n(qemu) ")), "{shown:?}");
}

#[actix::test]
async fn what_cannot_wait_goes_on_detached() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    Puppet::new(&monitor).perform(&monitor);
    let line = json!({"command-line": "migrate tcp:h:1"});
    let reply = qmp(&monitor, "human-monitor-command", line).await.unwrap();
    let said = "terminal does not allow synchronous migration, continuing detached\r\n";
    assert_eq!(reply, said);
    assert_eq!(query(&monitor).await, json!({"status": "setup"}));
}

/// Transcripts D16 and D17, in the issue's units.
#[actix::test]
async fn figures_in_hmp() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let ram = RamStats {
        transferred: 2_627_608,
        remaining: 332_845_056,
        total: 335_745_024,
        duplicate: 68,
        normal: 640,
        normal_bytes: 2_621_440,
        mbps: 21.01392,
        dirty_sync_count: 1,
        page_size: 4096,
        pages_per_second: 640,
        precopy_bytes: 2_627_273,
        ..RamStats::default()
    };
    let progress = Progress {
        ram,
        total_time: 1001,
        setup_time: 1,
        expected_downtime: Some(300),
        downtime: Some(9),
        cpu_throttle_percentage: Some(20),
        stalled: Some(750),
        ..Progress::default()
    };
    let at = |state| MigrationEvent::State {
        side: Side::Source,
        state,
        progress: Box::new(progress.clone()),
    };
    let mut puppet = Puppet::new(&monitor);
    puppet.after = vec![at(MigrationState::Active)];
    let puppet = puppet.perform(&monitor);
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    until_status(&monitor, "active").await;
    let figures = "transferred ram: 2566 kbytes\nthroughput: 21.01 mbps\n\
                   remaining ram: 325044 kbytes\ntotal ram: 327876 kbytes\n\
                   duplicate: 68 pages\nnormal: 640 pages\nnormal bytes: 2560 kbytes\n\
                   dirty sync count: 1\npage size: 4 kbytes\nmultifd bytes: 0 kbytes\n\
                   pages-per-second: 640\nprecopy ram: 2565 kbytes\n\
                   cpu throttle percentage: 20\n";
    let shown = hmp_line(&monitor, "info migrate").await;
    assert_eq!(
        shown.split_once('\n').unwrap().1,
        format!(
            "Migration status: active\ntotal time: 1001 milliseconds\n\
             expected downtime: 300 milliseconds\nsetup: 1 milliseconds\n\
             age of the last progress: 750 milliseconds\n{figures}"
        )
    );
    let completed = at(MigrationState::Completed);
    pull(&puppet, |puppet| puppet.tell(completed)).await;
    let shown = hmp_line(&monitor, "info migrate").await;
    assert_eq!(
        shown.split_once('\n').unwrap().1,
        format!(
            "Migration status: completed\ntotal time: 1001 milliseconds\n\
             downtime: 9 milliseconds\nsetup: 1 milliseconds\n{figures}"
        )
    );
}
