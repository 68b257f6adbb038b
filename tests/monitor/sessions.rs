//! A session whose monitor is the test: what is executed when, and what becomes of a client whose
//! monitor dies.

use actix::{Actor, ActorContext, Addr, Context, Handler, Message, ResponseFuture};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use understudy::chardev::message::CharEvent;
use understudy::qmp::error::QmpError;
use understudy::qmp::monitor::{Execute, Register, Subscribe};
use understudy::qmp::session::{self, MonitorLink};

use crate::harness::Terminal;

/// A command that is being executed, and where its outcome goes.
struct Executing {
    command: String,
    out_of_band: bool,
    outcome: oneshot::Sender<Result<Value, QmpError>>,
}

struct MockMonitor(mpsc::UnboundedSender<Executing>);

impl Actor for MockMonitor {
    type Context = Context<Self>;
}

impl Handler<Execute> for MockMonitor {
    type Result = ResponseFuture<Result<Value, QmpError>>;

    fn handle(&mut self, execute: Execute, _: &mut Self::Context) -> Self::Result {
        let (outcome, waiting) = oneshot::channel();
        let Execute { command, out_of_band, .. } = execute;
        self.0.send(Executing { command, out_of_band, outcome }).unwrap();
        Box::pin(async { waiting.await.unwrap_or_else(|_| Ok(json!("given up"))) })
    }
}

impl Handler<Subscribe> for MockMonitor {
    type Result = ();
    fn handle(&mut self, _: Subscribe, _: &mut Self::Context) {}
}

impl Handler<Register> for MockMonitor {
    type Result = ();
    fn handle(&mut self, _: Register, _: &mut Self::Context) {}
}

#[derive(Message)]
#[rtype(result = "()")]
struct Die;

impl Handler<Die> for MockMonitor {
    type Result = ();
    fn handle(&mut self, _: Die, ctx: &mut Self::Context) {
        ctx.terminate();
    }
}

/// A client past its negotiation, and its monitor.
struct Bench {
    monitor: Addr<MockMonitor>,
    executing: mpsc::UnboundedReceiver<Executing>,
    client: Terminal,
}

impl Bench {
    async fn new(capabilities: &str) -> Self {
        let (sender, executing) = mpsc::unbounded_channel();
        let monitor = MockMonitor(sender).start();
        let link = MonitorLink {
            execute: monitor.clone().recipient(),
            subscribe: monitor.clone().recipient(),
            register: monitor.clone().recipient(),
        };
        let (backend, mut client) = Terminal::new();
        session::attach(backend, link, false);
        client.event(CharEvent::Opened).await;
        client.line().await;
        let negotiation =
            format!("{{'execute':'qmp_capabilities','arguments':{{'enable':[{capabilities}]}}}}");
        client.type_bytes(negotiation.as_bytes()).await;
        assert_eq!(client.line().await, r#"{"return": {}}"#);
        Self { monitor, executing, client }
    }

    async fn send(&self, how: &str, command: &str) {
        let line = format!("{{'{how}':'{command}','id':'{command}'}}\n");
        self.client.type_bytes(line.as_bytes()).await;
    }

    async fn next(&mut self) -> Executing {
        let next = tokio::time::timeout(std::time::Duration::from_secs(5), self.executing.recv());
        next.await.expect("a command is executed").unwrap()
    }

    /// Nothing more is executed for now.
    async fn quiet(&mut self) {
        assert_eq!(self.client.rest().await, b"");
        if let Ok(executing) = self.executing.try_recv() {
            panic!("{} is executed", executing.command);
        }
    }

    async fn finish(&mut self, executing: Executing) {
        executing.outcome.send(Ok(json!({}))).unwrap();
        let expected = format!(r#"{{"return": {{}}, "id": "{}"}}"#, executing.command);
        assert_eq!(self.client.line().await, expected);
    }
}

/// What overtakes what; and beyond eight that wait nothing is read, out of band or not.
#[actix::test]
async fn out_of_band() {
    let mut bench = Bench::new("'oob'").await;
    bench.send("execute", "slow").await;
    let slow = bench.next().await;
    bench.send("execute", "q1").await;
    bench.client.type_bytes(b"{'id':'malformed'}\n").await;
    bench.quiet().await;
    bench.send("exec-oob", "now").await;
    let now = bench.next().await;
    assert!(now.out_of_band && !slow.out_of_band);
    bench.finish(now).await;
    bench.finish(slow).await;
    let queued = bench.next().await;
    bench.finish(queued).await;
    // Even what is malformed fails in its turn.
    let malformed = bench.client.line().await;
    assert!(malformed.contains(r#""id": "malformed", "error""#), "{malformed}");

    bench.send("execute", "first").await;
    let first = bench.next().await;
    for n in 0..8 {
        bench.send("execute", &format!("w{n}")).await;
    }
    bench.send("exec-oob", "late").await;
    bench.quiet().await;
    bench.finish(first).await;
    // There is room for one more, so it is read, and not kept waiting by those before it.
    let (one, other) = (bench.next().await, bench.next().await);
    let (late, w0) = if one.out_of_band { (one, other) } else { (other, one) };
    assert_eq!((late.command.as_str(), w0.command.as_str()), ("late", "w0"));
    bench.finish(late).await;
    bench.finish(w0).await;
    for n in 1..8 {
        let next = bench.next().await;
        assert_eq!(next.command, format!("w{n}"));
        bench.finish(next).await;
    }
}

/// Without the capability nothing overtakes anything.
#[actix::test]
async fn in_band_only() {
    let mut bench = Bench::new("").await;
    bench.send("execute", "slow").await;
    let slow = bench.next().await;
    bench.send("exec-oob", "now").await;
    bench.send("execute", "next").await;
    bench.quiet().await;
    bench.finish(slow).await;
    let refused = bench.client.line().await;
    assert!(refused.contains("QMP input member 'exec-oob' is unexpected"), "{refused}");
    let next = bench.next().await;
    bench.finish(next).await;
}

#[actix::test]
async fn a_monitor_that_dies() {
    let mut bench = Bench::new("").await;
    bench.send("execute", "slow").await;
    let slow = bench.next().await;
    bench.monitor.send(Die).await.unwrap();
    // What it had begun comes to its end; nothing else does.
    bench.finish(slow).await;
    for command in ["another", "and another"] {
        bench.send("execute", command).await;
        let reply = bench.client.line().await;
        assert!(reply.contains("The monitor has failed"), "{reply}");
    }
}
