//! The command set: each command is a serde type with a handler, and one registry lists them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::commands::{
    backends, block, chardev, command_line, cpu_models, descriptors, device_tree, devices,
    dirty_rate, dump, human, introspect, jobs, machine, memory, migration, migration_settings,
    migration_start, objects, preconfig, printed, qom, stats, status, tpm, trace, virtio, yank,
};
use super::error::QmpError;
use super::link::Services;
use super::schema::{Schema, TypeName};
use super::visit;

/// A QMP command; the type's fields are its arguments.
pub trait Command: DeserializeOwned + JsonSchema + 'static {
    const NAME: &'static str;
    /// May be executed out of band.
    const OUT_OF_BAND: bool = false;
    type Return: Serialize + JsonSchema;

    fn run(self, services: &Arc<Services>) -> impl Future<Output = Result<Self::Return, QmpError>>;
}

/// The reply `{}`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Empty {}

/// A command's execution.
pub type Execution = Pin<Box<dyn Future<Output = Result<Value, QmpError>>>>;

/// A command as the registry holds it.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    pub out_of_band: bool,
    /// Check the arguments and run.
    pub start: fn(Map<String, Value>, Arc<Services>) -> Execution,
    /// The types of the arguments and of the reply.
    pub describe: fn(&mut Schema) -> (TypeName, TypeName),
}

fn entry<C: Command>() -> Entry {
    Entry { name: C::NAME, out_of_band: C::OUT_OF_BAND, start: start::<C>, describe: describe::<C> }
}

fn describe<C: Command>(schema: &mut Schema) -> (TypeName, TypeName) {
    (schema.received::<C>(), schema.sent::<C::Return>())
}

fn start<C: Command>(arguments: Map<String, Value>, services: Arc<Services>) -> Execution {
    Box::pin(async move {
        let command: C = visit::arguments(arguments)?;
        let reply = command.run(&services).await?;
        serde_json::to_value(reply).map_err(|error| QmpError::generic(error.to_string()))
    })
}

/// Every command.
pub static REGISTRY: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    vec![
        entry::<introspect::QmpCapabilities>(),
        entry::<introspect::QueryCommands>(),
        entry::<introspect::QueryQmpSchema>(),
        entry::<introspect::QueryVersion>(),
        entry::<human::HumanMonitorCommand>(),
        entry::<block::QueryBlock>(),
        entry::<block::QueryBlockstats>(),
        entry::<block::QueryNamedBlockNodes>(),
        entry::<backends::QueryIothreads>(),
        entry::<backends::QueryMemdev>(),
        entry::<backends::QueryMemoryDevices>(),
        entry::<backends::QueryMemorySizeSummary>(),
        entry::<chardev::ChardevAdd>(),
        entry::<chardev::ChardevChange>(),
        entry::<chardev::ChardevRemove>(),
        entry::<chardev::ChardevSendBreak>(),
        entry::<chardev::QueryChardev>(),
        entry::<chardev::QueryChardevBackends>(),
        entry::<chardev::RingbufRead>(),
        entry::<chardev::RingbufWrite>(),
        entry::<cpu_models::QueryCpuDefinitions>(),
        entry::<cpu_models::QueryCpuModelExpansion>(),
        entry::<descriptors::AddFd>(),
        entry::<descriptors::Closefd>(),
        entry::<descriptors::Getfd>(),
        entry::<descriptors::QueryFdsets>(),
        entry::<descriptors::RemoveFd>(),
        entry::<devices::DeviceAdd>(),
        entry::<devices::DeviceDel>(),
        entry::<device_tree::Dumpdtb>(),
        entry::<dirty_rate::CalcDirtyRate>(),
        entry::<dirty_rate::CancelVcpuDirtyLimit>(),
        entry::<dirty_rate::QueryDirtyRate>(),
        entry::<dirty_rate::QueryVcpuDirtyLimit>(),
        entry::<dirty_rate::SetVcpuDirtyLimit>(),
        entry::<dump::DumpGuestMemory>(),
        entry::<dump::QueryDump>(),
        entry::<dump::QueryDumpGuestMemoryCapability>(),
        entry::<machine::QueryCpusFast>(),
        entry::<machine::QueryCurrentMachine>(),
        entry::<machine::QueryKvm>(),
        entry::<machine::QueryMachines>(),
        entry::<machine::QueryName>(),
        entry::<machine::QueryTarget>(),
        entry::<machine::QueryUuid>(),
        entry::<memory::Memsave>(),
        entry::<memory::Pmemsave>(),
        entry::<migration::AnnounceSelf>(),
        entry::<migration::MigrateCancel>(),
        entry::<migration::MigrateContinue>(),
        entry::<migration::MigratePause>(),
        entry::<migration::MigrateStartPostcopy>(),
        entry::<migration::QueryMigrate>(),
        entry::<migration::QueryMigrationThreads>(),
        entry::<migration_settings::MigrateSetCapabilities>(),
        entry::<migration_settings::MigrateSetParameters>(),
        entry::<migration_settings::QueryMigrateCapabilities>(),
        entry::<migration_settings::QueryMigrateParameters>(),
        entry::<migration_start::Migrate>(),
        entry::<migration_start::MigrateIncoming>(),
        entry::<migration_start::MigrateRecover>(),
        entry::<objects::ObjectAdd>(),
        entry::<objects::ObjectDel>(),
        entry::<preconfig::XExitPreconfig>(),
        entry::<qom::DeviceListProperties>(),
        entry::<qom::QomGet>(),
        entry::<qom::QomList>(),
        entry::<qom::QomListProperties>(),
        entry::<qom::QomListTypes>(),
        entry::<qom::QomSet>(),
        entry::<status::Cont>(),
        entry::<status::QueryStatus>(),
        entry::<status::Quit>(),
        entry::<status::SetAction>(),
        entry::<status::Stop>(),
        entry::<status::SystemPowerdown>(),
        entry::<command_line::QueryCommandLineOptions>(),
        entry::<jobs::JobCancel>(),
        entry::<jobs::JobComplete>(),
        entry::<jobs::JobDismiss>(),
        entry::<jobs::JobFinalize>(),
        entry::<jobs::JobPause>(),
        entry::<jobs::JobResume>(),
        entry::<jobs::QueryJobs>(),
        entry::<machine::QueryHotpluggableCpus>(),
        entry::<printed::XQueryInterruptControllers>(),
        entry::<printed::XQueryIrq>(),
        entry::<printed::XQueryJit>(),
        entry::<printed::XQueryNuma>(),
        entry::<printed::XQueryOpcount>(),
        entry::<printed::XQueryRamblock>(),
        entry::<printed::XQueryRoms>(),
        entry::<stats::QueryStats>(),
        entry::<stats::QueryStatsSchemas>(),
        entry::<status::InjectNmi>(),
        entry::<status::SystemWakeup>(),
        entry::<status::WatchdogSetAction>(),
        entry::<tpm::QueryTpm>(),
        entry::<tpm::QueryTpmModels>(),
        entry::<tpm::QueryTpmTypes>(),
        entry::<trace::TraceEventGetState>(),
        entry::<trace::TraceEventSetState>(),
        entry::<status::SystemReset>(),
        entry::<yank::QueryYank>(),
        entry::<yank::Yank>(),
        entry::<virtio::XQueryVirtio>(),
        entry::<virtio::XQueryVirtioQueueElement>(),
        entry::<virtio::XQueryVirtioQueueStatus>(),
        entry::<virtio::XQueryVirtioStatus>(),
        entry::<virtio::XQueryVirtioVhostQueueStatus>(),
    ]
});

/// The command of this name.
pub fn find(name: &str) -> Result<&'static Entry, QmpError> {
    let found = REGISTRY.iter().find(|entry| entry.name == name);
    found.ok_or_else(|| QmpError::not_found(format!("The command {name} has not been found")))
}
