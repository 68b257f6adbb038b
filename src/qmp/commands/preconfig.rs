//! `-preconfig`: the machine waits for `x-exit-preconfig` before it starts, and until then only some
//! commands are permitted.

use std::sync::Arc;

use actix::Recipient;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::machine::vm::PowerOn;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// QAPI's commands with `allow-preconfig`, as far as there are any here.
const PERMITTED: [&str; 24] = [
    "object-add",
    "object-del",
    "qmp_capabilities",
    "qom-get",
    "qom-list",
    "qom-list-properties",
    "qom-list-types",
    "qom-set",
    "query-block",
    "query-blockstats",
    "query-chardev",
    "query-command-line-options",
    "query-commands",
    "query-hotpluggable-cpus",
    "query-iothreads",
    "query-memdev",
    "query-name",
    "query-named-block-nodes",
    "query-qmp-schema",
    "query-status",
    "query-uuid",
    "query-version",
    "quit",
    "set-action",
];

/// A start that a client will ask for.
#[derive(Debug, Clone)]
struct Start {
    vm: Recipient<PowerOn>,
    how: PowerOn,
}

/// Whether the machine waits to be started, shared by all monitors.
#[derive(Debug, Clone, Default)]
pub struct Preconfig(Arc<Mutex<Option<Start>>>);

impl Preconfig {
    /// It waits.
    pub fn waiting(vm: Recipient<PowerOn>, how: PowerOn) -> Self {
        Self(Arc::new(Mutex::new(Some(Start { vm, how }))))
    }

    /// Whether the machine is still to be started.
    pub fn is_waiting(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Whether a command may be executed now.
    pub fn permit(&self, command: &str) -> Result<(), QmpError> {
        if !self.is_waiting() || command == XExitPreconfig::NAME || PERMITTED.contains(&command) {
            return Ok(());
        }
        Err(QmpError::generic(format!(
            "The command '{command}' is permitted only after machine initialization has completed"
        )))
    }
}

/// `x-exit-preconfig`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct XExitPreconfig {}

impl Command for XExitPreconfig {
    const NAME: &'static str = "x-exit-preconfig";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let start = services.info.preconfig.0.lock().take();
        let Some(Start { vm, how }) = start else {
            let sentence = "The command is permitted only before machine initialization";
            return Err(QmpError::generic(sentence));
        };
        services.ask(&vm, Self::NAME, how).await?;
        Ok(Empty {})
    }
}
