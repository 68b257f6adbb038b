//! A machine that is dead or deaf gives the client an error within the bound, never a hang.

use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler};
use understudy::actors::outlet::Outlet;
use understudy::chardev::message::CharEvent;
use understudy::hmp;
use understudy::machine::message::{QueryStatus, Status, VmError};
use understudy::qmp::error::QmpError;
use understudy::qmp::link::MachineLink;
use understudy::qmp::monitor::{Drain, Execute, ExecuteHuman, Monitor};
use understudy::qmp::session;

use crate::harness::{MockVm, Terminal, info, monitor};

fn query_status() -> Execute {
    let command = "query-status".into();
    Execute {
        command,
        arguments: Default::default(),
        out_of_band: false,
        passed: Default::default(),
    }
}

#[actix::test]
async fn a_deaf_machine() {
    let (_vm, monitor) = monitor(MockVm { deaf: true, ..Default::default() });
    let begun = Instant::now();
    let error = monitor.send(query_status()).await.unwrap().unwrap_err();
    assert_eq!(error, QmpError::generic("The machine does not answer (query-status)"));
    assert!(begun.elapsed() < Duration::from_secs(2));
    let state = Default::default();
    let reply = monitor
        .send(ExecuteHuman { line: "info status".into(), state, passed: Default::default() })
        .await
        .unwrap();
    assert_eq!(reply.text, "Error: The machine does not answer (query-status)\n");
    // Others are served meanwhile.
    let waiting = monitor.send(query_status());
    let version = Execute { command: "query-version".into(), ..query_status() };
    let answered = monitor.send(version);
    tokio::select! {
        _ = waiting => panic!("the deaf machine answered first"),
        reply = answered => assert!(reply.unwrap().is_ok()),
    }
}

/// Dies of the question; what it had under way dies with it.
struct Mortal;

impl Actor for Mortal {
    type Context = Context<Self>;
}

impl Handler<QueryStatus> for Mortal {
    type Result = actix::ResponseActFuture<Self, Result<Status, VmError>>;
    fn handle(&mut self, _: QueryStatus, ctx: &mut Self::Context) -> Self::Result {
        actix::ActorContext::terminate(ctx);
        Box::pin(actix::fut::wrap_future(std::future::pending()))
    }
}

#[actix::test]
async fn a_dying_machine() {
    let vm = MockVm::default().start();
    let mortal = Mortal.start();
    let mut link = MachineLink::to(&vm, Outlet::Unconnected);
    link.query_status = mortal.recipient();
    let monitor = Monitor::start_bounded(link, info(), Duration::from_secs(60));
    for _ in 0..2 {
        let error = monitor.send(query_status()).await.unwrap().unwrap_err();
        assert_eq!(error, QmpError::generic("The machine has failed (query-status)"));
    }
}

/// A client that quits gets its reply before the process may end.
#[actix::test]
async fn draining_waits_for_the_reply() {
    let (_vm, monitor) = monitor(MockVm::default());
    let (backend, mut qmp) = Terminal::new();
    session::attach(backend, monitor.clone(), false);
    qmp.event(CharEvent::Opened).await;
    qmp.type_bytes(b"{'execute':'qmp_capabilities'}").await;
    qmp.line().await;
    qmp.line().await;
    qmp.type_bytes(b"{'execute':'quit'}").await;
    tokio::task::yield_now().await;
    monitor.send(Drain).await.unwrap();
    let written = qmp.written_so_far();
    assert!(written.ends_with(b"{\"return\": {}}\r\n"), "{}", written.escape_ascii());
}

/// `Drain` waits for output that is on its way, but not for a client that never reads.
#[actix::test]
async fn draining() {
    let (_vm, monitor) = monitor(MockVm::default());
    let (backend, mut qmp) = Terminal::new();
    session::attach(backend, monitor.clone(), false);
    let (backend, hmp) = Terminal::new();
    hmp::session::attach(backend, hmp::session::MonitorLink::to(&monitor));
    hmp.event(CharEvent::Opened).await;
    monitor.send(Drain).await.unwrap();
    qmp.stuck(true).await;
    qmp.event(CharEvent::Opened).await;
    qmp.line().await;
    let begun = Instant::now();
    monitor.send(Drain).await.unwrap();
    assert!((0.9..3.0).contains(&begun.elapsed().as_secs_f64()));
    let drained = monitor.send(Drain);
    qmp.stuck(false).await;
    let begun = Instant::now();
    drained.await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500));
}
