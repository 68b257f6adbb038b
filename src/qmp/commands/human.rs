//! `human-monitor-command`: a line of HMP, its output as a string.

use std::sync::Arc;

use serde::Deserialize;

use super::memory::cpu_index;
use crate::hmp;
use crate::hmp::command::Terminal;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::{MonitorDescriptors, Services};

/// `human-monitor-command`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HumanMonitorCommand {
    command_line: String,
    cpu_index: Option<i64>,
}

impl Command for HumanMonitorCommand {
    const NAME: &'static str = "human-monitor-command";
    type Return = String;

    async fn run(self, services: &Arc<Services>) -> Result<String, QmpError> {
        let cpu = cpu_index(services, self.cpu_index).await?;
        let state = hmp::state::HmpState { cpu, ..Default::default() };
        // A monitor for one line: it has no descriptors.
        let services =
            Arc::new(Services { passed: MonitorDescriptors::default(), ..(**services).clone() });
        let reply =
            hmp::command::execute(&services, state, &self.command_line, Terminal::CannotWait).await;
        Ok(reply.text.replace('\n', "\r\n"))
    }
}
