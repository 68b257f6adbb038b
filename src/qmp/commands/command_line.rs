//! `query-command-line-options`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cli::parameters::{OPTIONS, Parameter, ParameterType};
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// QAPI `CommandLineParameterInfo`.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct CommandLineParameterInfo {
    pub name: &'static str,
    #[serde(rename = "type")]
    pub kind: ParameterType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<&'static str>,
}

/// QAPI `CommandLineOptionInfo`.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct CommandLineOptionInfo {
    pub option: &'static str,
    pub parameters: Vec<CommandLineParameterInfo>,
}

/// `query-command-line-options`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryCommandLineOptions {
    pub option: Option<String>,
}

fn info((option, parameters): &(&'static str, &'static [Parameter])) -> CommandLineOptionInfo {
    let parameter = |parameter: &Parameter| CommandLineParameterInfo {
        name: parameter.name,
        kind: parameter.kind,
        help: Some(parameter.help).filter(|help| !help.is_empty()),
    };
    CommandLineOptionInfo { option, parameters: parameters.iter().map(parameter).collect() }
}

impl Command for QueryCommandLineOptions {
    const NAME: &'static str = "query-command-line-options";
    type Return = Vec<CommandLineOptionInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<CommandLineOptionInfo>, QmpError> {
        let Some(wanted) = self.option else { return Ok(OPTIONS.iter().map(info).collect()) };
        match OPTIONS.iter().find(|(name, _)| *name == wanted) {
            Some(option) => Ok(vec![info(option)]),
            None => Err(QmpError::generic(format!("invalid option name: {wanted}"))),
        }
    }
}
