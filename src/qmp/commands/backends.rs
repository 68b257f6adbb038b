//! What objects stand behind the machine: its memory and its I/O threads.

use std::convert::Infallible;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::objects::iothread::IoThreadInfo;
use crate::objects::memory::Memdev;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// `query-memdev`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryMemdev {}

impl Command for QueryMemdev {
    const NAME: &'static str = "query-memdev";
    type Return = Vec<Memdev>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<Memdev>, QmpError> {
        Ok(services.info.objects.memdevs())
    }
}

/// QAPI `MemoryDeviceInfo`: neither `virt` nor `none` has a place for a memory device, so there is
/// never one.
#[derive(Debug, Clone, Copy, Serialize, schemars::JsonSchema)]
pub struct MemoryDeviceInfo {
    #[serde(skip)]
    pub never: Infallible,
}

/// `query-memory-devices`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryMemoryDevices {}

impl Command for QueryMemoryDevices {
    const NAME: &'static str = "query-memory-devices";
    type Return = Vec<MemoryDeviceInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<MemoryDeviceInfo>, QmpError> {
        Ok(Vec::new())
    }
}

/// QAPI `MemoryInfo`. Without memory devices there is no `plugged-memory`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryInfo {
    pub base_memory: u64,
}

/// `query-memory-size-summary`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryMemorySizeSummary {}

impl Command for QueryMemorySizeSummary {
    const NAME: &'static str = "query-memory-size-summary";
    type Return = MemoryInfo;

    async fn run(self, services: &Arc<Services>) -> Result<MemoryInfo, QmpError> {
        Ok(MemoryInfo { base_memory: services.info.ram_size })
    }
}

/// `query-iothreads`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryIothreads {}

impl Command for QueryIothreads {
    const NAME: &'static str = "query-iothreads";
    type Return = Vec<IoThreadInfo>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<IoThreadInfo>, QmpError> {
        Ok(services.info.objects.iothreads())
    }
}
