//! Migration as the monitors see it: settings, the cache, and sources that fail, die or are silent.

use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient};
use serde_json::{Map, Value, json};
use understudy::actors::outlet::Outlet;
use understudy::chardev::message::CharEvent;
use understudy::hmp;
use understudy::machine::dirty_rate::DirtyRate;
use understudy::machine::message::RunState;
use understudy::migration::message::*;
use understudy::migration::status::{ErrorDesc, MigrationState};
use understudy::qmp::link::{MachineInfo, MachineLink};
use understudy::qmp::migration::MigrationLink;
use understudy::qmp::monitor::{ConnectMigration, Execute, ExecuteHuman, Monitor};
use understudy::qmp::session;

use crate::harness::{MockVm, Terminal, info, monitor};

/// Both migration actors at once; it does what it was told to do.
pub struct Puppet {
    side: Side,
    monitor: Recipient<MigrationEvent>,
    /// Told when it is started, before and after the answer.
    before: Vec<MigrationEvent>,
    after: Vec<MigrationEvent>,
    answer: Result<(), ErrorDesc>,
    /// Answers nothing but the start.
    deaf: bool,
    /// What it has been asked.
    asked: Vec<String>,
}

impl Actor for Puppet {
    type Context = Context<Self>;
}

impl Puppet {
    pub fn new(monitor: &Addr<Monitor>) -> Self {
        Self {
            side: Side::Source,
            monitor: monitor.clone().recipient(),
            before: vec![entered(MigrationState::Setup)],
            after: Vec::new(),
            answer: Ok(()),
            deaf: false,
            asked: Vec::new(),
        }
    }

    /// Be the actors of the monitor's machine.
    fn perform(self, monitor: &Addr<Monitor>) -> Addr<Self> {
        let puppet = self.start();
        monitor.do_send(ConnectMigration(MigrationLink::to(&puppet, &puppet)));
        puppet
    }

    /// The same, for a machine whose writes are measured by `measurer`.
    pub fn perform_beside(self, measurer: &Addr<DirtyRate>, monitor: &Addr<Monitor>) {
        let puppet = self.start();
        let link = MigrationLink::to(&puppet, &puppet).measured_by(measurer);
        monitor.do_send(ConnectMigration(link));
    }

    fn tell(&self, mut event: MigrationEvent) {
        if let MigrationEvent::State { side, .. } = &mut event {
            *side = self.side;
        }
        self.monitor.do_send(event);
    }

    fn begin(&mut self, ctx: &mut Context<Self>) -> Result<(), ErrorDesc> {
        std::mem::take(&mut self.before).into_iter().for_each(|event| self.tell(event));
        ctx.notify(After);
        self.answer.clone()
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct After;

impl Handler<After> for Puppet {
    type Result = ();
    fn handle(&mut self, _: After, _: &mut Self::Context) {
        std::mem::take(&mut self.after).into_iter().for_each(|event| self.tell(event));
    }
}

type Strings = Box<dyn FnOnce(&mut Puppet, &mut Context<Puppet>) + Send>;

/// Pull its strings.
#[derive(Message)]
#[rtype(result = "()")]
struct Pull(Strings);

impl Handler<Pull> for Puppet {
    type Result = ();
    fn handle(&mut self, message: Pull, ctx: &mut Self::Context) {
        (message.0)(self, ctx);
    }
}

async fn pull(puppet: &Addr<Puppet>, string: impl FnOnce(&mut Puppet) + Send + 'static) {
    puppet.send(Pull(Box::new(|puppet, _| string(puppet)))).await.unwrap();
}

async fn kill(puppet: &Addr<Puppet>) {
    let death = Pull(Box::new(|_, ctx| ctx.terminate()));
    let _ = puppet.send(death).await;
    while puppet.connected() {
        tokio::task::yield_now().await;
    }
}

async fn asked(puppet: &Addr<Puppet>) -> Vec<String> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    pull(puppet, |puppet| drop(sender.send(std::mem::take(&mut puppet.asked)))).await;
    receiver.await.unwrap()
}

type Answer<T> = actix::ResponseFuture<T>;

macro_rules! plays {
    ($($message:ty => $result:ty, |$puppet:ident, $m:pat_param, $ctx:ident| $answer:expr;)*) => {
        $(impl Handler<$message> for Puppet {
            type Result = Answer<$result>;
            fn handle(&mut self, message: $message, $ctx: &mut Self::Context) -> Self::Result {
                let text = format!("{message:?}");
                self.asked.push(text);
                let ($puppet, $m) = (self, message);
                if $puppet.deaf && !stringify!($message).starts_with("Start") {
                    return Box::pin(std::future::pending());
                }
                let answer = $answer;
                Box::pin(async move { answer })
            }
        })*
    };
}

plays! {
    StartMigration => Result<(), ErrorDesc>, |puppet, _, ctx| puppet.begin(ctx);
    StartIncoming => Result<(), ErrorDesc>, |puppet, _, ctx| puppet.begin(ctx);
    RecoverIncoming => Result<(), ErrorDesc>, |puppet, _, _ctx| puppet.answer.clone();
    CancelMigration => Result<(), ErrorDesc>, |puppet, _, _ctx| {
        puppet.tell(entered(MigrationState::Cancelling));
        puppet.tell(entered(MigrationState::Cancelled(None)));
        Ok(())
    };
    ContinueMigration => Result<(), ErrorDesc>, |puppet, _, _ctx| puppet.answer.clone();
    StartPostcopy => Result<(), ErrorDesc>, |puppet, _, _ctx| puppet.answer.clone();
    PauseMigration => Result<(), ErrorDesc>, |puppet, _, _ctx| puppet.answer.clone();
    UpdateParameters => (), |_puppet, _, _ctx| ();
    Ping => (), |_puppet, _, _ctx| ();
}

impl Handler<UpdateSettings> for Puppet {
    type Result = ();

    /// Comes with every change of a setting, whatever a test is about.
    fn handle(&mut self, _: UpdateSettings, _: &mut Self::Context) {}
}

fn entered(state: MigrationState) -> MigrationEvent {
    MigrationEvent::State { side: Side::Source, state, progress: Box::default() }
}

fn failed(sentence: &str) -> MigrationEvent {
    entered(MigrationState::Failed(ErrorDesc::new(sentence)))
}

/// Wait until `query-migrate` says so.
async fn until_status(monitor: &Addr<Monitor>, status: &str) -> Value {
    let begun = Instant::now();
    loop {
        let told = query(monitor).await;
        if told["status"] == status {
            return told;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{status}: {told}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn qmp(
    monitor: &Addr<Monitor>,
    command: &str,
    arguments: Value,
) -> Result<Value, String> {
    let Value::Object(arguments) = arguments else { panic!("{arguments}") };
    let command = command.to_owned();
    let request = Execute { command, arguments, out_of_band: false, passed: Default::default() };
    monitor.send(request).await.unwrap().map_err(|error| error.desc)
}

pub async fn hmp_line(monitor: &Addr<Monitor>, line: &str) -> String {
    let state = Default::default();
    monitor
        .send(ExecuteHuman { line: line.into(), state, passed: Default::default() })
        .await
        .unwrap()
        .text
}

async fn query(monitor: &Addr<Monitor>) -> Value {
    qmp(monitor, "query-migrate", json!({})).await.unwrap()
}

/// `case => answer`, one a line; what is marked `!` is ours and not QEMU's.
fn cases(table: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let (case, answer) = line.split_once(" => ").unwrap();
        (case, answer.strip_prefix("! ").unwrap_or(answer))
    })
}

#[actix::test]
async fn parameters_are_taken_and_refused_as_by_qemu() {
    let (_vm, monitor) = monitor(MockVm::default());
    for (case, expected) in cases(include_str!("data/migration_parameters.txt")) {
        let arguments = serde_json::from_str(case).unwrap();
        let answer = qmp(&monitor, "migrate-set-parameters", arguments).await;
        let said = answer.map_or_else(|sentence| sentence, |_| "ok".to_owned());
        assert_eq!(said, expected, "{case}");
    }
    let unknown = qmp(&monitor, "migrate-set-parameters", json!({"bogus": 1})).await;
    assert_eq!(unknown.unwrap_err(), "Parameter 'bogus' is unexpected");
}

#[actix::test]
async fn parameters_in_hmp() {
    let (_vm, monitor) = monitor(MockVm::default());
    for (case, expected) in cases(include_str!("data/migration_parameters_hmp.txt")) {
        let said = hmp_line(&monitor, &format!("migrate_set_parameter {case}")).await;
        let expected = match expected {
            "ok" => String::new(),
            lines => lines.replace('|', "\n") + "\n",
        };
        assert_eq!(said, expected, "{case}");
    }
    // What they have come to: transcript C6.
    let shown = hmp_line(&monitor, "info migrate_parameters").await;
    for line in [
        "cpu-throttle-tailslow: on",
        "tls-creds: 'tls0'",
        "max-bandwidth: 1610612736 bytes/second",
        "avail-switchover-bandwidth: 10485760 bytes/second",
        "downtime-limit: 0 ms",
        "x-checkpoint-delay: 5 ms",
        "multifd-compression: zlib",
        "zero-page-detection: none",
        "max-postcopy-bandwidth: 1",
        "direct-io: on",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in {shown}");
    }
    assert_eq!(shown.lines().count(), 25);
    let told = qmp(&monitor, "query-migrate-parameters", json!({})).await.unwrap();
    assert_eq!(told["xbzrle-cache-size"], 67_108_864);
    assert_eq!(told.as_object().map(Map::len), Some(28));
}

#[actix::test]
async fn capabilities() {
    let (_vm, monitor) = monitor(MockVm::default());
    let set =
        |list: Value| qmp(&monitor, "migrate-set-capabilities", json!({"capabilities": list}));
    let twice = json!([
        {"capability": "xbzrle", "state": true},
        {"capability": "xbzrle", "state": false},
    ]);
    assert_eq!(set(twice).await, Ok(json!({})));
    // One that is refused leaves all as they were.
    let conflict = json!([
        {"capability": "auto-converge", "state": true},
        {"capability": "xbzrle", "state": true},
        {"capability": "multifd", "state": true},
    ]);
    assert_eq!(set(conflict).await, Err("Multifd is not compatible with xbzrle".into()));
    let shown = hmp_line(&monitor, "info migrate_capabilities").await;
    assert_eq!(shown.lines().count(), 22);
    assert!(shown.lines().all(|line| line.ends_with(": off")), "{shown}");
    for (line, expected) in [
        ("migrate_set_capability events on", ""),
        (
            "migrate_set_capability zero-blocks on",
            "warning: zero-blocks capability is deprecated\n",
        ),
        ("migrate_set_capability bogus on", "Error: invalid parameter value: bogus\n"),
        (
            "migrate_set_capability events maybe",
            "Expected 'on' or 'off'\nTry \"help migrate_set_capability\" for more information\n",
        ),
        (
            "migrate_set_capability",
            "migrate_set_capability: string expected\n\
             Try \"help migrate_set_capability\" for more information\n",
        ),
    ] {
        assert_eq!(hmp_line(&monitor, line).await, expected, "{line}");
    }
    let list = qmp(&monitor, "query-migrate-capabilities", json!({})).await.unwrap();
    let on = list.as_array().unwrap().iter().filter(|status| status["state"] == true);
    let on: Vec<_> = on.map(|status| status["capability"].clone()).collect();
    assert_eq!(on, ["zero-blocks", "events"]);
}

/// Transcript C1b: commands that need a migration under way, without one.
#[actix::test]
async fn without_a_migration() {
    let (_vm, monitor) = monitor(MockVm::default());
    let postcopy = "Enable postcopy with migrate_set_capability before the start of migration";
    let pause = "migrate-pause is currently only supported during postcopy-active or postcopy-recover state";
    for (command, arguments, expected) in [
        ("migrate_cancel", json!({}), "ok"),
        (
            "migrate-continue",
            json!({"state": "pre-switchover"}),
            "Migration not in expected state: none",
        ),
        (
            "migrate-continue",
            json!({"state": "bogus"}),
            "Parameter 'state' does not accept value 'bogus'",
        ),
        ("migrate-continue", json!({}), "Parameter 'state' is missing"),
        ("migrate-start-postcopy", json!({}), postcopy),
        ("migrate-pause", json!({}), pause),
        ("announce-self", json!({"initial": 1, "max": 100, "rounds": 5, "step": 1}), "ok"),
        ("announce-self", json!({"initial": 1}), "Parameter 'max' is missing"),
    ] {
        let answer = qmp(&monitor, command, arguments.clone()).await;
        let said = answer.map_or_else(|sentence| sentence, |_| "ok".to_owned());
        assert_eq!(said, expected, "{command} {arguments}");
    }
    for (line, expected) in [
        ("migrate_cancel", "".to_owned()),
        (
            "migrate_cancel x",
            "migrate_cancel: extraneous characters at the end of line\n\
             Try \"help migrate_cancel\" for more information\n"
                .to_owned(),
        ),
        (
            "migrate_continue pre-switchover",
            "Error: Migration not in expected state: none\n".to_owned(),
        ),
        ("migrate_continue bogus", "Error: invalid parameter value: bogus\n".to_owned()),
        ("migrate_start_postcopy", format!("Error: {postcopy}\n")),
        ("migrate_pause", format!("Error: {pause}\n")),
        ("announce_self", "".to_owned()),
    ] {
        assert_eq!(hmp_line(&monitor, line).await, expected, "{line}");
    }
    assert_eq!(query(&monitor).await, json!({}));
    let expected = "capabilities: xbzrle: off rdma-pin-all: off auto-converge: off \
                    zero-blocks: off events: off postcopy-ram: off x-colo: off release-ram: off \
                    return-path: off pause-before-switchover: off multifd: off \
                    dirty-bitmaps: off postcopy-blocktime: off late-block-activate: off \
                    x-ignore-shared: off validate-uuid: off background-snapshot: off \
                    zero-copy-send: off postcopy-preempt: off switchover-ack: off \
                    dirty-limit: off mapped-ram: off\n";
    assert_eq!(hmp_line(&monitor, "info migrate").await, expected);
}

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
    hmp::session::attach(backend, monitor.clone());
    terminal.event(CharEvent::Opened).await;
    terminal.until("(qemu) ").await;
    terminal
}

/// What comes back while a line is typed.
fn echo(line: &str) -> String {
    let shown = |end: usize| format!("{}{}\x1b[K", "\x1b[D".repeat(end - 1), &line[..end]);
    (1..=line.len()).map(shown).collect()
}

/// What `query-migrate` says is known before the event, and the event before the next reply.
#[actix::test]
async fn a_failure_in_qmp() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let mut puppet = Puppet::new(&monitor);
    puppet.after = vec![
        MigrationEvent::Pass(1),
        failed("address resolution failed for myhost:9000: No address associated with hostname"),
    ];
    puppet.perform(&monitor);
    let (backend, mut client) = Terminal::new();
    session::attach(backend, monitor.clone(), false);
    client.event(CharEvent::Opened).await;
    client.line().await;
    for line in [
        r#"{"execute": "qmp_capabilities"}"#,
        r#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "events", "state": true}]}}"#,
    ] {
        client.type_bytes(line.as_bytes()).await;
        assert_eq!(client.line().await, r#"{"return": {}}"#);
    }
    client.type_bytes(br#"{"execute": "migrate", "arguments": {"uri": "tcp:myhost:9000"}}"#).await;
    let mut told = Vec::new();
    while told.len() < 4 {
        let mut line: Value = serde_json::from_str(&client.line().await).unwrap();
        line.as_object_mut().unwrap().shift_remove("timestamp");
        told.push(line);
    }
    let reply = told.iter().position(|line| *line == json!({"return": {}})).unwrap();
    assert!(reply >= 1, "the reply overtook the event: {told:?}");
    told.remove(reply);
    assert_eq!(
        told,
        [
            json!({"event": "MIGRATION", "data": {"status": "setup"}}),
            json!({"event": "MIGRATION_PASS", "data": {"pass": 1}}),
            json!({"event": "MIGRATION", "data": {"status": "failed"}}),
        ]
    );
    client.type_bytes(br#"{"execute": "query-migrate"}"#).await;
    assert_eq!(
        client.line().await,
        r#"{"return": {"status": "failed", "error-desc": "address resolution failed for myhost:9000: No address associated with hostname"}}"#
    );
}

/// Without the capability nothing is announced, and everything known all the same.
#[actix::test]
async fn events_are_switched_on() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let mut puppet = Puppet::new(&monitor);
    puppet.after = vec![entered(MigrationState::Active), MigrationEvent::Pass(1), failed("late")];
    puppet.perform(&monitor);
    let (backend, mut client) = Terminal::new();
    session::attach(backend, monitor.clone(), false);
    client.event(CharEvent::Opened).await;
    client.line().await;
    client.type_bytes(br#"{"execute": "qmp_capabilities"}"#).await;
    client.line().await;
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    until_status(&monitor, "failed").await;
    assert_eq!(client.rest().await, b"");
}

/// Whatever state the source has told last: once it is gone, the migration has failed.
#[actix::test]
async fn a_source_that_dies_anywhere() {
    use MigrationState::*;
    let gone = "The migration's actor has died: it takes no more messages";
    let path = [Setup, Active, PreSwitchover, Device, PostcopyActive, PostcopyRecover, Cancelling];
    for end in 0..=path.len() {
        let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
        let mut puppet = Puppet::new(&monitor);
        puppet.before = path[..end].iter().cloned().map(entered).collect();
        let puppet = puppet.perform(&monitor);
        qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
        kill(&puppet).await;
        let expected = json!({"status": "failed", "error-desc": gone});
        assert_eq!(query(&monitor).await, expected, "after {end} states");
        assert_eq!(query(&monitor).await, expected);
        let shown = hmp_line(&monitor, "info migrate").await;
        assert!(shown.ends_with(&format!(
            "Migration status: failed ({gone})\ntotal time: 0 milliseconds\n"
        )));
        let again = qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await;
        assert_eq!(again.unwrap_err(), gone);
    }
}

/// A source that answers nothing any more holds up nobody, and is found out.
#[actix::test]
async fn a_source_that_falls_silent() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let puppet = Puppet { deaf: true, ..Puppet::new(&monitor) };
    puppet.perform(&monitor);
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    let begun = Instant::now();
    assert_eq!(query(&monitor).await, json!({"status": "setup"}));
    assert!(begun.elapsed() < Duration::from_millis(150), "a question waited for the source");
    let told = until_status(&monitor, "failed").await;
    let silent = "The migration's actor has died: no answer within 200 ms";
    assert_eq!(told["error-desc"], silent);
    // The same where it is told something.
    let other = monitor_with_deaf_source().await;
    let answer = qmp(&other, "migrate_cancel", json!({})).await;
    assert_eq!(answer.unwrap_err(), silent);
    assert_eq!(query(&other).await["error-desc"], silent);
}

async fn monitor_with_deaf_source() -> Addr<Monitor> {
    let (_, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    Puppet { deaf: true, ..Puppet::new(&monitor) }.perform(&monitor);
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    monitor
}

/// What refuses `migrate` before anything happens, in QEMU's words and order.
#[actix::test]
async fn what_refuses_to_start() {
    let main = json!({"channel-type": "main", "addr":
        {"transport": "socket", "type": "inet", "host": "h", "port": "1"}});
    let exec = json!({"channel-type": "main", "addr": {"transport": "exec", "args": []}});
    let either = "need either 'uri' or 'channels' argument";
    let many = "Migration requires multi-channel URIs (e.g. tcp)";
    let seek = "Migration requires seekable transport (e.g. file)";
    let tcp = json!({"uri": "tcp:h:1"});
    let running = RunState::Running;
    for (state, capabilities, arguments, expected) in [
        (running, "", json!({}), either),
        (running, "", json!({"channels": []}), either),
        (running, "", json!({"uri": "tcp:h:1", "channels": [main]}), either),
        (running, "", json!({"uri": "bogus:x"}), "unknown migration protocol: bogus:x"),
        (running, "", json!({"uri": "tcp:127.0.0.1"}), "error parsing address '127.0.0.1'"),
        (running, "", json!({"uri": 1}), "Invalid parameter type for 'uri', expected: string"),
        (running, "", json!({"uri": "tcp:h:1", "blk": true}), "Parameter 'blk' is unexpected"),
        (
            running,
            "",
            json!({"channels": [main, main]}),
            "Channel list has more than one main entry",
        ),
        (
            running,
            "",
            json!({"channels": [exec]}),
            "Parameter 'args' expects a command and its arguments",
        ),
        (
            running,
            "",
            json!({"channels": [{"channel-type": "main"}]}),
            "Parameter 'channels[0].addr' is missing",
        ),
        (
            running,
            "",
            json!({"uri": "tcp:h:1", "resume": true}),
            "Cannot resume if there is no paused migration",
        ),
        (RunState::Inmigrate, "", tcp.clone(), "Guest is waiting for an incoming migration"),
        (RunState::Inmigrate, "", json!({"uri": "bogus:"}), "unknown migration protocol: bogus:"),
        (
            RunState::Postmigrate,
            "",
            tcp.clone(),
            "Can't migrate the vm that was paused due to previous migration",
        ),
        (running, "multifd", json!({"uri": "exec:cat"}), many),
        (running, "multifd", json!({"uri": "fd:x"}), many),
        (running, "multifd", json!({"uri": "file:/x"}), many),
        (running, "mapped-ram", json!({"uri": "exec:cat"}), seek),
        (running, "mapped-ram", tcp.clone(), seek),
        (running, "multifd mapped-ram", json!({"uri": "file:/x"}), "ok"),
        (running, "multifd", json!({"channels": [main]}), "ok"),
        (RunState::Prelaunch, "", tcp.clone(), "ok"),
    ] {
        let (_vm, monitor) = monitor(MockVm { state, ..Default::default() });
        let puppet = Puppet::new(&monitor).perform(&monitor);
        let on = capabilities.split_whitespace();
        let on: Vec<_> = on.map(|name| json!({"capability": name, "state": true})).collect();
        qmp(&monitor, "migrate-set-capabilities", json!({"capabilities": on})).await.unwrap();
        let answer = qmp(&monitor, "migrate", arguments.clone()).await;
        let said = answer.map_or_else(|sentence| sentence, |_| "ok".to_owned());
        assert_eq!(said, expected, "{state:?} {capabilities} {arguments}");
        let expected = if expected == "ok" { 1 } else { 0 };
        assert_eq!(asked(&puppet).await.len(), expected, "{arguments}");
        let status = query(&monitor).await;
        assert_eq!(status.get("status").is_some(), expected == 1, "{status}");
    }
}

#[actix::test]
async fn one_at_a_time() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let puppet = Puppet::new(&monitor).perform(&monitor);
    let start = || qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"}));
    let (one, other) = tokio::join!(start(), start());
    let busy = Err("There's a migration process in progress".to_owned());
    assert_eq!((one, other), (Ok(json!({})), busy.clone()));
    let set = json!({"capabilities": [{"capability": "xbzrle", "state": true}]});
    assert_eq!(qmp(&monitor, "migrate-set-capabilities", set).await, busy);
    // Parameters may change, and the source hears of it.
    qmp(&monitor, "migrate-set-parameters", json!({"max-bandwidth": 7})).await.unwrap();
    assert!(asked(&puppet).await.last().unwrap().contains("max_bandwidth: 7,"));
    assert_eq!(qmp(&monitor, "migrate_cancel", json!({})).await, Ok(json!({})));
    assert_eq!(query(&monitor).await, json!({"status": "cancelled"}));
    assert_eq!(asked(&puppet).await, ["CancelMigration"]);
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

#[actix::test]
async fn blockers() {
    let (vm, _) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let blocked = MachineInfo {
        blockers: ["The vmdk format", "non-migratable device: 0000:00:01.0/nvme"]
            .map(str::to_owned)
            .into(),
        only_migratable: true,
        ..info()
    };
    let link = MachineLink::to(&vm, Outlet::Unconnected);
    let monitor = Monitor::start_bounded(link, blocked, Duration::from_millis(200));
    Puppet::new(&monitor).perform(&monitor);
    let answer = qmp(&monitor, "migrate", json!({"uri": "exec:cat"})).await;
    assert_eq!(answer.unwrap_err(), "State blocked by non-migratable device '0000:00:01.0/nvme'");
    assert_eq!(query(&monitor).await["blocked-reasons"][0], "The vmdk format");
    let shown = hmp_line(&monitor, "info migrate -a").await;
    let after = shown.split_once("mapped-ram: off\n").unwrap().1;
    assert!(
        after.starts_with(
            "Outgoing migration blocked:\n  The vmdk format\n  \
             non-migratable device: 0000:00:01.0/nvme\nglobals:\nstore-global-state: on\n\
             only-migratable: on\n"
        ),
        "{after}"
    );
    assert!(after.ends_with("mode: normal\ndirect-io: off\n"), "{after}");
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

/// Transcript C8, and a second try after a failure to listen.
#[actix::test]
async fn arriving() {
    let (_vm, outside) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let unasked = "'-incoming' was not specified on the command line";
    let incoming = |uri: &str| json!({"uri": uri});
    let answer = qmp(&outside, "migrate-incoming", incoming("tcp:h:1")).await;
    assert_eq!(answer.unwrap_err(), unasked);
    let shown = hmp_line(&outside, "migrate_incoming tcp:h:1").await;
    assert_eq!(shown, format!("Error: {unasked}\n"));
    let recover = qmp(&outside, "migrate-recover", incoming("tcp:h:1")).await;
    assert_eq!(recover.unwrap_err(), "Migrate recover can only be run when postcopy is paused.");

    let (_vm, monitor) = monitor(MockVm { state: RunState::Inmigrate, ..Default::default() });
    let mut puppet = Puppet { side: Side::Destination, ..Puppet::new(&monitor) };
    let no_port = "Failed to find an available port: Address already in use";
    puppet.before.push(failed(no_port));
    puppet.answer = Err(ErrorDesc::new(no_port));
    let puppet = puppet.perform(&monitor);
    let main = json!({"channel-type": "main", "addr":
        {"transport": "socket", "type": "inet", "host": "h", "port": "1"}});
    for (arguments, expected) in [
        (json!({}), "need either 'uri' or 'channels' argument"),
        (incoming("bogus:x"), "unknown migration protocol: bogus:x"),
        (
            json!({"channels": [main, main]}),
            "Channel list must have only one entry, for type 'main'",
        ),
        (
            json!({"uri": "tcp:h:1", "exit-on-error": "x"}),
            "Invalid parameter type for 'exit-on-error', expected: boolean",
        ),
        (incoming("tcp:h:1"), no_port),
    ] {
        let answer = qmp(&monitor, "migrate-incoming", arguments.clone()).await;
        assert_eq!(answer.unwrap_err(), expected, "{arguments}");
    }
    assert_eq!(query(&monitor).await["error-desc"], no_port);
    let place = json!({"type": "inet", "host": "127.0.0.1", "port": "9", "ipv4": true});
    let told = place.clone();
    pull(&puppet, |puppet| {
        puppet.before = vec![entered(MigrationState::Setup), MigrationEvent::Listening(vec![told])];
        puppet.answer = Ok(());
    })
    .await;
    assert_eq!(qmp(&monitor, "migrate-incoming", incoming("tcp:h:0")).await, Ok(json!({})));
    assert_eq!(query(&monitor).await, json!({"status": "setup", "socket-address": [place]}));
    let shown = hmp_line(&monitor, "info migrate").await;
    assert!(shown.ends_with(
        "Migration status: setup\ntotal time: 0 milliseconds\n\
         socket address: [\n\ttcp:127.0.0.1:9\n]\n"
    ));
    let again = qmp(&monitor, "migrate-incoming", incoming("tcp:h:0")).await;
    assert_eq!(again.unwrap_err(), "The incoming migration has already been started");
    let set = |name| json!({"capabilities": [{"capability": name, "state": true}]});
    let late = qmp(&monitor, "migrate-set-capabilities", set("multifd")).await;
    assert_eq!(late.unwrap_err(), "Multifd must be set before incoming starts");
    assert_eq!(qmp(&monitor, "migrate-set-capabilities", set("xbzrle")).await, Ok(json!({})));
    let out = qmp(&monitor, "migrate", incoming("tcp:h:1")).await;
    assert_eq!(out.unwrap_err(), "Guest is waiting for an incoming migration");
    assert_eq!(qmp(&monitor, "migrate_cancel", json!({})).await, Ok(json!({})));

    // A postcopy that loses its connection is recovered at both ends.
    let lost = || entered(MigrationState::PostcopyPaused(ErrorDesc::new("lost")));
    pull(&puppet, move |puppet| puppet.tell(lost())).await;
    assert_eq!(qmp(&monitor, "migrate-recover", incoming("tcp:h:2")).await, Ok(json!({})));
    assert!(asked(&puppet).await.last().unwrap().starts_with("RecoverIncoming"));
}

#[actix::test]
async fn a_postcopy_is_steered() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let puppet = Puppet::new(&monitor).perform(&monitor);
    let set = json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]});
    qmp(&monitor, "migrate-set-capabilities", set).await.unwrap();
    let early = qmp(&monitor, "migrate-start-postcopy", json!({})).await;
    assert_eq!(early.unwrap_err(), "Postcopy must be started after migration has been started");
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    qmp(&monitor, "migrate-start-postcopy", json!({})).await.unwrap();
    pull(&puppet, |puppet| puppet.tell(entered(MigrationState::PostcopyActive))).await;
    let cancel = qmp(&monitor, "migrate_cancel", json!({})).await;
    assert_eq!(cancel.unwrap_err(), "Postcopy migration in progress, cannot cancel.");
    qmp(&monitor, "migrate-pause", json!({})).await.unwrap();
    let lost = entered(MigrationState::PostcopyPaused(ErrorDesc::new("lost")));
    pull(&puppet, |puppet| puppet.tell(lost)).await;
    assert_eq!(query(&monitor).await["error-desc"], "lost");
    let resume = json!({"uri": "tcp:h:2", "resume": true});
    qmp(&monitor, "migrate", resume).await.unwrap();
    pull(&puppet, |puppet| puppet.tell(entered(MigrationState::PreSwitchover))).await;
    qmp(&monitor, "migrate-continue", json!({"state": "pre-switchover"})).await.unwrap();
    let asked = asked(&puppet).await;
    let asked: Vec<_> = asked.iter().map(|text| text.split(' ').next().unwrap()).collect();
    assert_eq!(
        asked.iter().filter(|name| **name != "Ping").copied().collect::<Vec<_>>(),
        [
            "StartMigration",
            "StartPostcopy",
            "PauseMigration",
            "StartMigration",
            "ContinueMigration"
        ]
    );
}
