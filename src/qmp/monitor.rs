//! The `Monitor` actor: executes commands for every session and hands the machine's events to
//! them. A reply never overtakes an event that was told before it: both go through this actor's
//! mailbox in order, and then through the session's.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture};
use serde_json::{Map, Value};

use super::command::{self, Entry};
use super::commands::migration_start;
use super::error::QmpError;
use super::event::{self, Event};
use super::link::{ANSWER_BOUND, MachineInfo, MachineLink, MonitorDescriptors, Services};
use super::migration::{Migration, MigrationLink, Outlook};
use super::throttle::{self, Kind, MeasureBy, SteppedIntervals, Throttle, Verdict};
use crate::actors::outlet::Outlet;
use crate::actors::timer::TimerFired;
use crate::hmp;
use crate::hmp::command::Terminal;
use crate::machine::message::{SubscribeEvents, VmEvent};
use crate::migration::cache::MigrationCache;
use crate::migration::capability::Capability;
use crate::migration::channel::Address;
use crate::migration::message::{MigrationEvent, Side};
use crate::migration::status::MigrationState;
use crate::trace;

/// How often somebody who waits for a migration hears how far it is.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long `Drain` waits for a client that does not read.
const DRAIN_BOUND: Duration = Duration::from_secs(1);

/// Session → monitor: execute a QMP command.
#[derive(Debug, Message)]
#[rtype(result = "Result<Value, QmpError>")]
pub struct Execute {
    pub command: String,
    pub arguments: Map<String, Value>,
    /// Came as `exec-oob`.
    pub out_of_band: bool,
    /// Of the monitor that it is from.
    pub passed: MonitorDescriptors,
}

/// HMP session → monitor: execute a line.
#[derive(Debug, Message)]
#[rtype(result = "hmp::command::HumanReply")]
pub struct ExecuteHuman {
    pub line: String,
    pub state: hmp::state::HmpState,
    /// Of the monitor that it is from.
    pub passed: MonitorDescriptors,
}

/// HMP session → monitor: what can the last word of this become?
#[derive(Debug, Message)]
#[rtype(result = "hmp::complete::Completions")]
pub struct CompleteHuman {
    /// The line up to the cursor.
    pub line: String,
}

/// HMP session → monitor: answered at once by one that is alive, whatever it is busy with.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct AreYouThere;

/// HMP session → monitor: how does the migration stand? Answered when it is over, and after a while
/// in any case.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Outlook")]
pub struct AwaitMigration;

/// Whoever starts the machine → monitor: wait for a migration here (`-incoming`).
#[derive(Debug, Message)]
#[rtype(result = "Result<(), QmpError>")]
pub struct Listen(pub Address);

/// Whoever builds the machine → monitor: the migration actors are there. What they tell goes to the
/// monitor as `MigrationEvent`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ConnectMigration(pub MigrationLink);

/// QMP session → monitor: send events here.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<Event>);

/// Any session → monitor: have this asked before the process ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Register(pub Recipient<FlushOutput>);

/// Monitor → session: answer when the command under way is answered and everything written is
/// with the back end's peer.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct FlushOutput;

/// Whoever ends the process → monitor: answered when every session has flushed, or after a bound.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// To itself: everything that was in the mailbox before this has been handled.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Settle;

/// The monitor.
#[derive(Debug)]
pub struct Monitor {
    services: Arc<Services>,
    listeners: Vec<Recipient<Event>>,
    sessions: Vec<Recipient<FlushOutput>>,
    throttle: Throttle,
    /// What measures intervals if the machine's clock is stepped; otherwise time does.
    stepped: Option<SteppedIntervals>,
}

impl Monitor {
    /// Start on the current arbiter.
    pub fn start(link: MachineLink, info: MachineInfo) -> Addr<Self> {
        Self::start_bounded(link, info, ANSWER_BOUND)
    }

    /// Start with a bound of its own on the machine's answers.
    pub fn start_bounded(link: MachineLink, info: MachineInfo, bound: Duration) -> Addr<Self> {
        Self::create(|ctx| {
            let cache = MigrationCache::new(Arc::clone(&info.blockers));
            let me = ctx.address().recipient();
            let migration = Arc::new(Migration::new(info.migration.clone(), cache, me));
            let (link, info) = (Arc::new(link), Arc::new(info));
            let passed = MonitorDescriptors::default();
            let last_format = Arc::default();
            let services = Services { link, info, migration, last_format, passed, bound };
            Self {
                services: Arc::new(services),
                listeners: Vec::new(),
                sessions: Vec::new(),
                throttle: Throttle::default(),
                stepped: None,
            }
        })
    }
}

impl Actor for Monitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.services.link.subscribe.do_send(SubscribeEvents(ctx.address().recipient()));
    }
}

impl Handler<Execute> for Monitor {
    type Result = ResponseFuture<Result<Value, QmpError>>;

    fn handle(&mut self, message: Execute, ctx: &mut Self::Context) -> Self::Result {
        trace::handle_qmp_command(&message.command);
        let execution = match permitted(&message, &self.services) {
            Ok(entry) => (entry.start)(message.arguments, self.services_for(message.passed)),
            Err(error) => return Box::pin(async { Err(error) }),
        };
        let me = ctx.address();
        Box::pin(async move {
            let reply = execution.await;
            // An error means that this actor is stopping; the reply is still right.
            let _ = me.send(Settle).await;
            reply
        })
    }
}

fn permitted(message: &Execute, services: &Services) -> Result<&'static Entry, QmpError> {
    let entry = command::find(&message.command)?;
    if message.out_of_band && !entry.out_of_band {
        let name = entry.name;
        return Err(QmpError::generic(format!("The command {name} does not support OOB")));
    }
    services.info.preconfig.permit(entry.name)?;
    Ok(entry)
}

impl Handler<ExecuteHuman> for Monitor {
    type Result = ResponseFuture<hmp::command::HumanReply>;

    fn handle(&mut self, message: ExecuteHuman, _: &mut Self::Context) -> Self::Result {
        trace::handle_hmp_command(&message.line);
        let services = self.services_for(message.passed);
        Box::pin(async move {
            hmp::command::execute(&services, message.state, &message.line, Terminal::Waits).await
        })
    }
}

impl Handler<CompleteHuman> for Monitor {
    type Result = ResponseFuture<hmp::complete::Completions>;

    fn handle(&mut self, message: CompleteHuman, _: &mut Self::Context) -> Self::Result {
        let services = Arc::clone(&self.services);
        Box::pin(async move { hmp::complete::complete(&services, &message.line).await })
    }
}

impl Handler<AreYouThere> for Monitor {
    type Result = ();

    fn handle(&mut self, _: AreYouThere, _: &mut Self::Context) {}
}

impl Handler<AwaitMigration> for Monitor {
    type Result = ResponseFuture<Outlook>;

    fn handle(&mut self, _: AwaitMigration, _: &mut Self::Context) -> Self::Result {
        let services = Arc::clone(&self.services);
        Box::pin(async move {
            services.migration.check_actor(services.bound).await;
            services.migration.outlook(PROGRESS).await
        })
    }
}

impl Handler<Listen> for Monitor {
    type Result = ResponseFuture<Result<(), QmpError>>;

    fn handle(&mut self, Listen(address): Listen, _: &mut Self::Context) -> Self::Result {
        let services = Arc::clone(&self.services);
        Box::pin(async move { migration_start::listen(&services, address, true).await })
    }
}

impl Handler<ConnectMigration> for Monitor {
    type Result = ();

    fn handle(&mut self, message: ConnectMigration, _: &mut Self::Context) {
        self.services.migration.connect(message.0);
    }
}

impl Handler<MigrationEvent> for Monitor {
    type Result = ();

    /// The reason of a failure is in the log and in the cache before anybody hears of the failure.
    fn handle(&mut self, message: MigrationEvent, ctx: &mut Self::Context) {
        if let MigrationEvent::State { side, state, .. } = &message {
            trace::migrate_set_state(state.status());
            self.log_reason(*side, state);
        }
        let migration = &self.services.migration;
        migration.apply(&message);
        if migration.settings().capabilities.has(Capability::Events)
            && let Some(event) = event::of_migration(&message)
        {
            self.announce(event, ctx);
        }
    }
}

impl Monitor {
    /// For a command from the monitor of these descriptors.
    fn services_for(&self, passed: MonitorDescriptors) -> Arc<Services> {
        Arc::new(Services { passed, ..(*self.services).clone() })
    }

    fn log_reason(&self, side: Side, state: &MigrationState) {
        let Some(reason) = state.reason() else { return };
        // A line of ours in the middle of a monitor's screen helps nobody: it shows the reason
        // itself, on request. A destination may be about to end, and nobody could ask.
        let would_disturb = side == Side::Source
            && self.services.info.terminal_monitor
            && std::io::stderr().is_terminal();
        match would_disturb {
            false => tracing::error!("{reason}"),
            true => tracing::info!("{reason}"),
        }
    }

    /// Tell every session of it, unless it is one of too many.
    fn announce(&mut self, event: Event, ctx: &mut Context<Self>) {
        match self.throttle.judge(event) {
            Verdict::Send(event) => self.tell(&event),
            Verdict::SendAndWait(event, kind) => {
                self.tell(&event);
                self.limit(kind, ctx);
            }
            Verdict::Keep => {}
        }
    }

    /// An interval begins.
    fn limit(&mut self, kind: Kind, ctx: &mut Context<Self>) {
        if let Some(stepped) = &mut self.stepped {
            stepped.begin(kind);
            return;
        }
        ctx.run_later(throttle::INTERVAL, |monitor, ctx| monitor.interval_over(kind, ctx));
    }

    /// At the end of an interval, tell what has come meanwhile.
    fn interval_over(&mut self, kind: Kind, ctx: &mut Context<Self>) {
        if let Some(event) = self.throttle.elapsed(&kind) {
            self.tell(&event);
            self.limit(kind, ctx);
        }
    }

    fn tell(&mut self, event: &Event) {
        trace::monitor_protocol_event_emit(event.0["event"].as_str().unwrap_or_default());
        self.listeners.retain(Recipient::connected);
        for listener in &self.listeners {
            listener.do_send(event.clone());
        }
    }
}

impl Handler<MeasureBy> for Monitor {
    type Result = ();

    fn handle(&mut self, MeasureBy(clock): MeasureBy, ctx: &mut Self::Context) {
        let fired = Outlet::Mailbox(ctx.address().recipient());
        match clock.timers.register_outside(fired) {
            Ok(line) => self.stepped = Some(SteppedIntervals::new(clock, line)),
            Err(error) => tracing::error!("rate limits of events: {error}"),
        }
    }
}

impl Handler<TimerFired> for Monitor {
    type Result = ();

    fn handle(&mut self, _: TimerFired, ctx: &mut Self::Context) {
        let over = self.stepped.as_mut().map(SteppedIntervals::over).unwrap_or_default();
        over.into_iter().for_each(|kind| self.interval_over(kind, ctx));
    }
}

impl Handler<Settle> for Monitor {
    type Result = ();

    fn handle(&mut self, _: Settle, _: &mut Self::Context) {}
}

impl Handler<Subscribe> for Monitor {
    type Result = ();

    fn handle(&mut self, message: Subscribe, _: &mut Self::Context) {
        self.listeners.retain(Recipient::connected);
        self.listeners.push(message.0);
    }
}

impl Handler<Register> for Monitor {
    type Result = ();

    fn handle(&mut self, message: Register, _: &mut Self::Context) {
        self.sessions.retain(Recipient::connected);
        self.sessions.push(message.0);
    }
}

impl Handler<VmEvent> for Monitor {
    type Result = ();

    fn handle(&mut self, message: VmEvent, ctx: &mut Self::Context) {
        if let VmEvent::DeviceFailed { name, reason } = &message {
            tracing::error!("{name} has failed: {reason}");
        }
        if let Some(event) = event::of(&message) {
            self.announce(event, ctx);
        }
    }
}

impl Handler<Drain> for Monitor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        let waiting: Vec<_> = self.sessions.iter().map(|s| s.send(FlushOutput)).collect();
        Box::pin(async move {
            let all = async {
                for session in waiting {
                    // A session that is gone has nothing left to write.
                    let _ = session.await;
                }
            };
            // A client that does not read does not keep the process alive.
            let _ = tokio::time::timeout(DRAIN_BOUND, all).await;
        })
    }
}
