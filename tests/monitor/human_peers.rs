//! An HMP session whose monitor is slow, silent or dead: an error within the bound, never a hang.

use std::time::{Duration, Instant};

use actix::{Actor, Addr, Context, Handler, ResponseFuture};
use serde_json::Value;
use understudy::chardev::message::CharEvent;
use understudy::hmp::command::HumanReply;
use understudy::hmp::complete::Completions;
use understudy::hmp::session::{self, MonitorLink};
use understudy::qmp::error::QmpError;
use understudy::qmp::migration::Outlook;
use understudy::qmp::monitor::{
    AreYouThere, AwaitMigration, CompleteHuman, Execute, ExecuteHuman, Register,
};

use crate::harness::Terminal;

const BOUND: Duration = Duration::from_millis(40);

/// How a monitor behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Answers nothing.
    Silent,
    /// Takes its time, and says that it is there.
    Slow(Duration),
    /// Every command starts a migration that is to be waited for, and then nothing is answered.
    Migrating,
}

struct MockMonitor(Manner);

impl Actor for MockMonitor {
    type Context = Context<Self>;
}

impl MockMonitor {
    fn answer<T: 'static>(&self, answer: T) -> ResponseFuture<T> {
        match self.0 {
            Manner::Slow(time) => Box::pin(async move {
                tokio::time::sleep(time).await;
                answer
            }),
            _ => Box::pin(std::future::pending()),
        }
    }
}

impl Handler<Register> for MockMonitor {
    type Result = ();
    fn handle(&mut self, _: Register, _: &mut Self::Context) {}
}

impl Handler<ExecuteHuman> for MockMonitor {
    type Result = ResponseFuture<HumanReply>;
    fn handle(&mut self, message: ExecuteHuman, _: &mut Self::Context) -> Self::Result {
        let ExecuteHuman { line, state, .. } = message;
        let awaits_migration = self.0 == Manner::Migrating;
        let text = format!("{line} after {}\n", state.history.join(";"));
        let reply = HumanReply { text, state, ends: false, awaits_migration };
        match awaits_migration {
            true => Box::pin(async move { reply }),
            false => self.answer(reply),
        }
    }
}

impl Handler<CompleteHuman> for MockMonitor {
    type Result = ResponseFuture<Completions>;
    fn handle(&mut self, message: CompleteHuman, _: &mut Self::Context) -> Self::Result {
        self.answer(Completions { typed: message.line.len(), candidates: vec!["stop".into()] })
    }
}

impl Handler<Execute> for MockMonitor {
    type Result = ResponseFuture<Result<Value, QmpError>>;
    fn handle(&mut self, _: Execute, _: &mut Self::Context) -> Self::Result {
        self.answer(Ok(Value::Null))
    }
}

impl Handler<AwaitMigration> for MockMonitor {
    type Result = ResponseFuture<Outlook>;
    fn handle(&mut self, _: AwaitMigration, _: &mut Self::Context) -> Self::Result {
        self.answer(Outlook::Settled(None))
    }
}

impl Handler<AreYouThere> for MockMonitor {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, _: AreYouThere, _: &mut Self::Context) -> Self::Result {
        match self.0 {
            Manner::Slow(_) => Box::pin(async {}),
            _ => Box::pin(std::future::pending()),
        }
    }
}

fn link(monitor: &Addr<MockMonitor>) -> MonitorLink {
    MonitorLink {
        register: monitor.clone().recipient(),
        execute: monitor.clone().recipient(),
        complete: monitor.clone().recipient(),
        command: monitor.clone().recipient(),
        migration: monitor.clone().recipient(),
        alive: monitor.clone().recipient(),
        bound: BOUND,
    }
}

async fn session(link: MonitorLink) -> Terminal {
    let (backend, mut terminal) = Terminal::new();
    session::attach(backend, link);
    terminal.event(CharEvent::Opened).await;
    terminal.until("(qemu) ").await;
    terminal
}

#[actix::test]
async fn a_silent_monitor() {
    let mut terminal = session(link(&MockMonitor(Manner::Silent).start())).await;
    for _ in 0..2 {
        let begun = Instant::now();
        terminal.type_bytes(b"s\n").await;
        let text = terminal.until("(qemu) ").await;
        assert_eq!(text, "s\x1b[K\r\nError: The monitor does not answer\r\n(qemu) ");
        assert!(begun.elapsed() >= BOUND);
    }
    // Nothing is completed, and what was typed meanwhile is there.
    terminal.type_bytes(b"s\tt").await;
    assert_eq!(terminal.until("st\x1b[K").await, "s\x1b[K\x1b[Dst\x1b[K");
}

#[actix::test]
async fn a_slow_monitor() {
    let monitor = MockMonitor(Manner::Slow(BOUND * 4)).start();
    let mut terminal = session(link(&monitor)).await;
    terminal.type_bytes(b"a\nb\ns\t\n").await;
    let text = terminal.until("stop  after a;b;stop \r\n(qemu) ").await;
    let expected = "a\x1b[K\r\na after a\r\n(qemu) b\x1b[K\r\nb after a;b\r\n(qemu) \
                    s\x1b[K\x1b[Dstop \x1b[K\r\nstop  after a;b;stop \r\n(qemu) ";
    assert_eq!(text, expected);
}

#[actix::test]
async fn a_dead_monitor() {
    let monitor = MockMonitor(Manner::Silent).start();
    let (stopping, link) = (monitor.clone(), link(&monitor));
    let mut terminal = session(link).await;
    terminal.type_bytes(b"x\n").await;
    stopping.send(Stop).await.expect("it is told");
    let text = terminal.until("(qemu) ").await;
    assert_eq!(text, "x\x1b[K\r\nError: The monitor has failed\r\n(qemu) ");
    terminal.type_bytes(b"y\n").await;
    let text = terminal.until("(qemu) ").await;
    assert_eq!(text, "y\x1b[K\r\nError: The monitor has failed\r\n(qemu) ");
}

/// To a mock: die, with all that is under way.
#[derive(Debug, actix::Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Stop> for MockMonitor {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        actix::ActorContext::terminate(ctx);
    }
}

/// The one that waits for a migration is told as well.
#[actix::test]
async fn a_monitor_that_falls_silent_over_a_migration() {
    let mut terminal = session(link(&MockMonitor(Manner::Migrating).start())).await;
    terminal.type_bytes(b"m\n").await;
    let text = terminal.until("(qemu) ").await;
    assert_eq!(text, "m\x1b[K\r\nm after m\r\nError: The monitor does not answer\r\n(qemu) ");
}
