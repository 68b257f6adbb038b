//! Negotiation, version and the list of commands.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::qmp::command::{Command, Empty, REGISTRY};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;
use crate::qmp::schema::{SCHEMA, SchemaInfo};

/// QAPI `QMPCapability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QmpCapability {
    Oob,
}

/// `qmp_capabilities`. A session carries it out itself while it negotiates; afterwards it comes
/// here.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QmpCapabilities {
    pub enable: Option<Vec<QmpCapability>>,
}

impl Command for QmpCapabilities {
    const NAME: &'static str = "qmp_capabilities";
    type Return = Empty;

    async fn run(self, _: &Arc<Services>) -> Result<Empty, QmpError> {
        Err(QmpError::not_found("Capabilities negotiation is already complete, command ignored"))
    }
}

/// QAPI `VersionTriple`.
#[derive(Debug, Clone, Copy, Serialize, schemars::JsonSchema)]
pub struct VersionTriple {
    pub major: u32,
    pub minor: u32,
    pub micro: u32,
}

/// QAPI `VersionInfo`.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct VersionInfo {
    pub qemu: VersionTriple,
    pub package: &'static str,
}

/// The version of QEMU that clients may take us for, and our own as its package.
pub const VERSION: VersionInfo = VersionInfo {
    qemu: VersionTriple { major: 10, minor: 0, micro: 2 },
    package: concat!("understudy ", env!("CARGO_PKG_VERSION")),
};

impl std::fmt::Display for VersionTriple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// `query-version`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryVersion {}

impl Command for QueryVersion {
    const NAME: &'static str = "query-version";
    type Return = VersionInfo;

    async fn run(self, _: &Arc<Services>) -> Result<VersionInfo, QmpError> {
        Ok(VERSION)
    }
}

/// QAPI `CommandInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct CommandInfo {
    pub name: &'static str,
}

/// `query-commands`, answered from the registry.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryCommands {}

impl Command for QueryCommands {
    const NAME: &'static str = "query-commands";
    type Return = Vec<CommandInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<CommandInfo>, QmpError> {
        Ok(REGISTRY.iter().map(|entry| CommandInfo { name: entry.name }).collect())
    }
}

/// `query-qmp-schema`, made from the types of the commands and events.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryQmpSchema {}

impl Command for QueryQmpSchema {
    const NAME: &'static str = "query-qmp-schema";
    type Return = Vec<SchemaInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<SchemaInfo>, QmpError> {
        Ok(SCHEMA.clone())
    }
}
