//! Trace events.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::{Services, SwitchTrace};
use crate::trace::{self, UnknownEvent};

impl From<UnknownEvent> for QmpError {
    fn from(unknown: UnknownEvent) -> Self {
        Self::generic(unknown.to_string())
    }
}

/// QAPI `TraceEventState`; every event can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TraceEventState {
    Disabled,
    Enabled,
}

/// QAPI `TraceEventInfo`.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct TraceEventInfo {
    pub name: &'static str,
    pub state: TraceEventState,
}

/// `trace-event-get-state`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct TraceEventGetState {
    pub name: String,
}

impl Command for TraceEventGetState {
    const NAME: &'static str = "trace-event-get-state";
    type Return = Vec<TraceEventInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<TraceEventInfo>, QmpError> {
        let info = |(name, on)| TraceEventInfo {
            name,
            state: if on { TraceEventState::Enabled } else { TraceEventState::Disabled },
        };
        // The last one is first in QEMU's list.
        Ok(trace::states(&self.name)?.into_iter().rev().map(info).collect())
    }
}

/// `trace-event-set-state`. No event is unavailable, so there is none to ignore.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceEventSetState {
    pub name: String,
    pub enable: bool,
    pub ignore_unavailable: Option<bool>,
}

impl Command for TraceEventSetState {
    const NAME: &'static str = "trace-event-set-state";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        trace::switch(&self.name, self.enable)?;
        services.link.trace.send(SwitchTrace);
        Ok(Empty {})
    }
}
