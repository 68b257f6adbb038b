//! Guest memory into files.

use std::sync::Arc;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::machine::QueryCpusFast;
use crate::machine::message as vm;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::{QmpError, os_words};
use crate::qmp::link::Services;

/// Bytes read from the guest at a time; a multiple of the page size.
const CHUNK: u64 = 64 << 10;

/// `memsave`: virtual memory.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Memsave {
    pub val: u64,
    pub size: u64,
    pub filename: String,
    pub cpu_index: Option<i64>,
}

impl Command for Memsave {
    const NAME: &'static str = "memsave";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let cpu = cpu_index(services, self.cpu_index).await?;
        Dump { cpu, space: vm::Space::Virtual, start: self.val, size: self.size }
            .write(services, Self::NAME, &self.filename)
            .await
    }
}

/// `pmemsave`: physical memory.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Pmemsave {
    pub val: u64,
    pub size: u64,
    pub filename: String,
}

impl Command for Pmemsave {
    const NAME: &'static str = "pmemsave";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        Dump { cpu: 0, space: vm::Space::PhysicalOrZeros, start: self.val, size: self.size }
            .write(services, Self::NAME, &self.filename)
            .await
    }
}

/// The vCPU that an optional `cpu-index` names; the first if absent.
pub async fn cpu_index(services: &Arc<Services>, index: Option<i64>) -> Result<u32, QmpError> {
    let Some(index) = index else { return Ok(0) };
    let cpus = QueryCpusFast {}.run(services).await?;
    // QEMU takes the lower half of the number.
    let found = cpus.iter().map(|cpu| cpu.cpu_index).find(|&cpu| cpu == index as u32);
    found.ok_or_else(QmpError::no_such_cpu)
}

struct Dump {
    cpu: u32,
    space: vm::Space,
    start: u64,
    size: u64,
}

impl Dump {
    async fn write(
        self,
        services: &Arc<Services>,
        what: &'static str,
        filename: &str,
    ) -> Result<Empty, QmpError> {
        let mut file = tokio::fs::File::create(filename).await.map_err(|error| {
            QmpError::generic(format!("Could not open '{filename}': {}", os_words(&error)))
        })?;
        let failed = |error: std::io::Error| {
            QmpError::generic(format!("Could not write to '{filename}': {}", os_words(&error)))
        };
        let (mut addr, mut left) = (self.start, self.size);
        while left > 0 {
            // Up to the next chunk boundary, so that a hole fails only what lies in it.
            let len = left.min(CHUNK - addr % CHUNK);
            let request = vm::ReadMemory { cpu: self.cpu, addr, len, space: self.space };
            let invalid = || {
                let Self { start, size, .. } = self;
                QmpError::generic(format!("Invalid addr 0x{start:016x}/size {size} specified"))
            };
            let bytes = services.try_read(what, request).await?.ok_or_else(invalid)?;
            file.write_all(&bytes).await.map_err(failed)?;
            left -= len;
            addr = addr.wrapping_add(len);
        }
        file.flush().await.map_err(failed)?;
        Ok(Empty {})
    }
}
