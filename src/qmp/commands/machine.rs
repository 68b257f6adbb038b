//! What the machine is: name, UUID, CPUs, machine types.

use std::convert::Infallible;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cli::value::uuid_text;
use crate::machine::message as vm;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::{MachineType, Services};

/// QAPI `NameInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct NameInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `query-name`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryName {}

impl Command for QueryName {
    const NAME: &'static str = "query-name";
    type Return = NameInfo;

    async fn run(self, services: &Arc<Services>) -> Result<NameInfo, QmpError> {
        Ok(NameInfo { name: services.info.name.clone() })
    }
}

/// QAPI `UuidInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct UuidInfo {
    #[serde(rename = "UUID")]
    pub uuid: String,
}

/// `query-uuid`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryUuid {}

impl Command for QueryUuid {
    const NAME: &'static str = "query-uuid";
    type Return = UuidInfo;

    async fn run(self, services: &Arc<Services>) -> Result<UuidInfo, QmpError> {
        Ok(UuidInfo { uuid: uuid_text(&services.info.uuid) })
    }
}

/// QAPI `KvmInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct KvmInfo {
    pub enabled: bool,
    pub present: bool,
}

/// `query-kvm`: never, on this emulator.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryKvm {}

impl Command for QueryKvm {
    const NAME: &'static str = "query-kvm";
    type Return = KvmInfo;

    async fn run(self, _: &Arc<Services>) -> Result<KvmInfo, QmpError> {
        Ok(KvmInfo { enabled: false, present: false })
    }
}

/// QAPI `TargetInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct TargetInfo {
    pub arch: SysEmuTarget,
}

/// QAPI `SysEmuTarget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SysEmuTarget {
    Riscv64,
}

/// `query-target`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryTarget {}

impl Command for QueryTarget {
    const NAME: &'static str = "query-target";
    type Return = TargetInfo;

    async fn run(self, _: &Arc<Services>) -> Result<TargetInfo, QmpError> {
        Ok(TargetInfo { arch: SysEmuTarget::Riscv64 })
    }
}

/// `query-machines`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QueryMachines {
    /// Tell of properties that a machine's version decides.
    compat_props: Option<bool>,
}

impl Command for QueryMachines {
    const NAME: &'static str = "query-machines";
    type Return = Vec<MachineType>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<MachineType>, QmpError> {
        let mut machines = services.info.machines.clone();
        if self.compat_props == Some(true) {
            // There are no versions.
            machines.iter_mut().for_each(|machine| machine.compat_props = Some(Vec::new()));
        }
        Ok(machines)
    }
}

/// QAPI `CurrentMachineParams`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CurrentMachineParams {
    pub wakeup_suspend_support: bool,
}

/// `query-current-machine`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryCurrentMachine {}

impl Command for QueryCurrentMachine {
    const NAME: &'static str = "query-current-machine";
    type Return = CurrentMachineParams;

    async fn run(self, _: &Arc<Services>) -> Result<CurrentMachineParams, QmpError> {
        Ok(CurrentMachineParams { wakeup_suspend_support: false })
    }
}

/// QAPI `CpuInstanceProperties`, as far as `virt` has them.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CpuInstanceProperties {
    pub core_id: u32,
}

/// QAPI `CpuInfoFast`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CpuInfoFast {
    pub thread_id: u32,
    pub props: CpuInstanceProperties,
    pub qom_path: String,
    pub cpu_index: u32,
    pub target: SysEmuTarget,
}

/// `query-cpus-fast`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryCpusFast {}

impl Command for QueryCpusFast {
    const NAME: &'static str = "query-cpus-fast";
    type Return = Vec<CpuInfoFast>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<CpuInfoFast>, QmpError> {
        let cpus = services.ask(&services.link.query_cpus, Self::NAME, vm::QueryCpus).await?;
        // Without NUMA all harts are cores of one array, whatever their sockets.
        let describe = |cpu: vm::CpuInfo| CpuInfoFast {
            thread_id: cpu.thread_id,
            props: CpuInstanceProperties { core_id: cpu.index },
            qom_path: format!("/machine/soc0/harts[{}]", cpu.index),
            cpu_index: cpu.index,
            target: SysEmuTarget::Riscv64,
        };
        Ok(cpus.into_iter().map(describe).collect())
    }
}

/// QAPI `HotpluggableCPU`: all CPUs are there from the start.
#[derive(Debug, Clone, Copy, Serialize, schemars::JsonSchema)]
pub struct HotpluggableCpu {
    #[serde(skip)]
    pub never: Infallible,
}

/// `query-hotpluggable-cpus`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryHotpluggableCpus {}

impl Command for QueryHotpluggableCpus {
    const NAME: &'static str = "query-hotpluggable-cpus";
    type Return = Vec<HotpluggableCpu>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<HotpluggableCpu>, QmpError> {
        Err(QmpError::generic("machine does not support hot-plugging CPUs"))
    }
}
