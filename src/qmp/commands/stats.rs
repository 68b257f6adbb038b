//! Statistics as `query-stats` gives them. Both of QEMU's providers, KVM and cryptographic devices,
//! are things that this emulator does not have, so there is nothing that could be counted. What the
//! translator counts is what `info jit` shows.

use std::convert::Infallible;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// QAPI `StatsProvider`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StatsProvider {
    Kvm,
    Cryptodev,
}

/// QAPI `StatsRequest`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
pub struct StatsRequest {
    pub provider: StatsProvider,
    pub names: Option<Vec<String>>,
}

/// What every `StatsFilter` has.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
pub struct OfProviders {
    pub providers: Option<Vec<StatsRequest>>,
}

/// QAPI `StatsVCPUFilter`.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
pub struct OfVcpus {
    pub providers: Option<Vec<StatsRequest>>,
    pub vcpus: Option<Vec<String>>,
}

/// QAPI `StatsFilter`, by `StatsTarget`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename = "union target", rename_all = "kebab-case")]
pub enum StatsFilter {
    Vm(OfProviders),
    Vcpu(OfVcpus),
    Cryptodev(OfProviders),
}

/// QAPI `StatsResult`.
#[derive(Debug, Clone, Copy, Serialize, schemars::JsonSchema)]
pub struct StatsResult {
    #[serde(skip)]
    pub never: Infallible,
}

/// `query-stats`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct QueryStats(pub StatsFilter);

impl Command for QueryStats {
    const NAME: &'static str = "query-stats";
    type Return = Vec<StatsResult>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<StatsResult>, QmpError> {
        Ok(Vec::new())
    }
}

/// QAPI `StatsSchema`.
#[derive(Debug, Clone, Copy, Serialize, schemars::JsonSchema)]
pub struct StatsSchema {
    #[serde(skip)]
    pub never: Infallible,
}

/// `query-stats-schemas`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryStatsSchemas {
    pub provider: Option<StatsProvider>,
}

impl Command for QueryStatsSchemas {
    const NAME: &'static str = "query-stats-schemas";
    type Return = Vec<StatsSchema>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<StatsSchema>, QmpError> {
        Ok(Vec::new())
    }
}
