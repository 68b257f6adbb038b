//! Stands for both migration actors.

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient};
use understudy::machine::dirty_rate::DirtyRate;
use understudy::migration::message::{
    CancelMigration, ContinueMigration, CutMigration, MigrationEvent, PauseMigration, Ping,
    RecoverIncoming, Side, StartIncoming, StartMigration, StartPostcopy, UpdateParameters,
    UpdateSettings,
};
use understudy::migration::status::{ErrorDesc, MigrationState};
use understudy::qmp::migration::MigrationLink;
use understudy::qmp::monitor::{ConnectMigration, Monitor};

/// Both migration actors at once; it does what it was told to do.
pub struct Puppet {
    pub side: Side,
    pub monitor: Recipient<MigrationEvent>,
    /// Told when it is started, before and after the answer.
    pub before: Vec<MigrationEvent>,
    pub after: Vec<MigrationEvent>,
    pub answer: Result<(), ErrorDesc>,
    /// Answers nothing but the start.
    pub deaf: bool,
    /// What it has been asked.
    pub asked: Vec<String>,
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
    pub fn perform(self, monitor: &Addr<Monitor>) -> Addr<Self> {
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

    pub fn tell(&self, mut event: MigrationEvent) {
        if let MigrationEvent::State { side, .. } = &mut event {
            *side = self.side;
        }
        self.monitor.do_send(event);
    }

    pub fn begin(&mut self, ctx: &mut Context<Self>) -> Result<(), ErrorDesc> {
        std::mem::take(&mut self.before).into_iter().for_each(|event| self.tell(event));
        ctx.notify(After);
        self.answer.clone()
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct After;

impl Handler<After> for Puppet {
    type Result = ();
    fn handle(&mut self, _: After, _: &mut Self::Context) {
        std::mem::take(&mut self.after).into_iter().for_each(|event| self.tell(event));
    }
}

pub type Strings = Box<dyn FnOnce(&mut Puppet, &mut Context<Puppet>) + Send>;

/// Pull its strings.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Pull(Strings);

impl Handler<Pull> for Puppet {
    type Result = ();
    fn handle(&mut self, message: Pull, ctx: &mut Self::Context) {
        (message.0)(self, ctx);
    }
}

pub async fn pull(puppet: &Addr<Puppet>, string: impl FnOnce(&mut Puppet) + Send + 'static) {
    puppet.send(Pull(Box::new(|puppet, _| string(puppet)))).await.unwrap();
}

pub async fn kill(puppet: &Addr<Puppet>) {
    let death = Pull(Box::new(|_, ctx| ctx.terminate()));
    let _ = puppet.send(death).await;
    while puppet.connected() {
        tokio::task::yield_now().await;
    }
}

pub async fn asked(puppet: &Addr<Puppet>) -> Vec<String> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    pull(puppet, |puppet| drop(sender.send(std::mem::take(&mut puppet.asked)))).await;
    receiver.await.unwrap()
}

pub type Answer<T> = actix::ResponseFuture<T>;

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
    CutMigration => (), |_puppet, _, _ctx| ();
    UpdateParameters => (), |_puppet, _, _ctx| ();
    Ping => (), |_puppet, _, _ctx| ();
}

impl Handler<UpdateSettings> for Puppet {
    type Result = ();

    /// Comes with every change of a setting, whatever a test is about.
    fn handle(&mut self, _: UpdateSettings, _: &mut Self::Context) {}
}

pub fn entered(state: MigrationState) -> MigrationEvent {
    MigrationEvent::State { side: Side::Source, state, progress: Box::default() }
}

pub fn failed(sentence: &str) -> MigrationEvent {
    entered(MigrationState::Failed(ErrorDesc::new(sentence)))
}
