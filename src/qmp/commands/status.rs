//! The run state.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::dump::not_dumping;
use crate::machine::message as vm;
use crate::machine::spec::WatchdogAction;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// QAPI `StatusInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct StatusInfo {
    pub status: vm::RunState,
    pub running: bool,
}

/// `query-status`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryStatus {}

impl Command for QueryStatus {
    const NAME: &'static str = "query-status";
    type Return = StatusInfo;

    async fn run(self, services: &Arc<Services>) -> Result<StatusInfo, QmpError> {
        let peer = &services.link.query_status;
        let status = services.ask(peer, Self::NAME, vm::QueryStatus).await?;
        Ok(StatusInfo { status: status.state, running: status.running() })
    }
}

/// `stop`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Stop {}

impl Command for Stop {
    const NAME: &'static str = "stop";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        not_dumping(services)?;
        services.ask(&services.link.stop, Self::NAME, vm::Stop).await?;
        Ok(Empty {})
    }
}

/// `cont`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Cont {}

impl Command for Cont {
    const NAME: &'static str = "cont";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        not_dumping(services)?;
        services.ask(&services.link.cont, Self::NAME, vm::Cont).await?;
        Ok(Empty {})
    }
}

/// `system_reset`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct SystemReset {}

impl Command for SystemReset {
    const NAME: &'static str = "system_reset";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let request = vm::RequestReset { cause: vm::ShutdownCause::HostQmpSystemReset };
        services.ask(&services.link.reset, Self::NAME, request).await?;
        Ok(Empty {})
    }
}

/// `system_powerdown`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct SystemPowerdown {}

impl Command for SystemPowerdown {
    const NAME: &'static str = "system_powerdown";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        services.ask(&services.link.powerdown, Self::NAME, vm::RequestPowerdown).await?;
        Ok(Empty {})
    }
}

/// `quit`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Quit {}

impl Command for Quit {
    const NAME: &'static str = "quit";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let cause = vm::ShutdownCause::HostQmpQuit;
        let request = vm::RequestShutdown { cause, exit_code: 0 };
        services.ask(&services.link.shutdown, Self::NAME, request).await?;
        Ok(Empty {})
    }
}

/// `set-action`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct SetAction {
    reboot: Option<vm::RebootAction>,
    shutdown: Option<vm::ShutdownAction>,
    panic: Option<vm::PanicAction>,
    watchdog: Option<WatchdogAction>,
}

impl Command for SetAction {
    const NAME: &'static str = "set-action";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let Self { reboot, shutdown, panic, watchdog } = self;
        let request = vm::SetAction { reboot, shutdown, panic, watchdog };
        services.ask(&services.link.set_action, Self::NAME, request).await?;
        Ok(Empty {})
    }
}

/// `watchdog-set-action`: for when there is a watchdog.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct WatchdogSetAction {
    pub action: WatchdogAction,
}

impl Command for WatchdogSetAction {
    const NAME: &'static str = "watchdog-set-action";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let request = vm::SetAction { watchdog: Some(self.action), ..Default::default() };
        services.ask(&services.link.set_action, Self::NAME, request).await?;
        Ok(Empty {})
    }
}

/// `inject-nmi`: nothing on these boards takes one.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct InjectNmi {}

impl Command for InjectNmi {
    const NAME: &'static str = "inject-nmi";
    type Return = Empty;

    async fn run(self, _: &Arc<Services>) -> Result<Empty, QmpError> {
        Err(QmpError::generic("machine does not provide NMIs"))
    }
}

/// `system_wakeup`: no guest of these boards can be woken up, as `query-current-machine` says.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct SystemWakeup {}

impl Command for SystemWakeup {
    const NAME: &'static str = "system_wakeup";
    type Return = Empty;

    async fn run(self, _: &Arc<Services>) -> Result<Empty, QmpError> {
        Err(QmpError::generic("wake-up from suspend is not supported by this guest"))
    }
}
