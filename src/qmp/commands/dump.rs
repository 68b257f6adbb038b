//! Dumps of guest memory.

use std::fs::File;
use std::io::Seek as _;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::machine::core_dump::{CoreFormat, DumpQueryResult, Filter, StartDump};
use crate::machine::message::{QueryStatus, RunState};
use crate::migration::cache::MigrationCache;
use crate::migration::message::Side;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::{QmpError, os_words};
use crate::qmp::link::Services;

/// What refuses migrations meanwhile.
pub const BLOCKER: &str = "Live migration disabled: dump-guest-memory in progress";

/// QAPI `DumpGuestMemoryFormat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DumpFormat {
    Elf,
    KdumpZlib,
    KdumpLzo,
    KdumpSnappy,
    KdumpRawZlib,
    KdumpRawLzo,
    KdumpRawSnappy,
    WinDmp,
}

impl DumpFormat {
    /// What is written, if that can be.
    fn core(self) -> Result<CoreFormat, QmpError> {
        let refused = |sentence: &str| Err(QmpError::generic(sentence));
        match self {
            Self::Elf => Ok(CoreFormat::Elf),
            Self::KdumpZlib => Ok(CoreFormat::Kdump { in_place: false }),
            Self::KdumpRawZlib => Ok(CoreFormat::Kdump { in_place: true }),
            Self::KdumpLzo | Self::KdumpRawLzo => refused("kdump-lzo is not available now"),
            Self::KdumpSnappy | Self::KdumpRawSnappy => {
                refused("kdump-snappy is not available now")
            }
            Self::WinDmp => refused("Windows dump is only available for x86-64"),
        }
    }
}

/// `dump-guest-memory`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct DumpGuestMemory {
    /// Addresses in the file are physical either way, as on QEMU: it does not walk this machine's
    /// page tables.
    pub paging: bool,
    pub protocol: String,
    pub detach: Option<bool>,
    pub begin: Option<i64>,
    pub length: Option<i64>,
    pub format: Option<DumpFormat>,
}

impl Command for DumpGuestMemory {
    const NAME: &'static str = "dump-guest-memory";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let status = services.ask(&services.link.query_status, Self::NAME, QueryStatus).await?;
        if status.state == RunState::Inmigrate {
            let sentence = "Dump not allowed during incoming migration.";
            return Err(QmpError::generic(sentence));
        }
        not_dumping(services)?;
        let (format, filter) = self.what()?;
        let mut to = open(services, &self.protocol).await?;
        if format == (CoreFormat::Kdump { in_place: true }) && to.stream_position().is_err() {
            return Err(QmpError::generic("kdump-raw formats require a seekable file"));
        }
        if services.migration.cache(MigrationCache::busy) == Some(Side::Source) {
            return Err(QmpError::generic(format!(
                "disallowing migration blocker (migration/snapshot in progress) for: {BLOCKER}"
            )));
        }
        let dumper = services.link.dumper.as_ref();
        let dumper = dumper.ok_or_else(|| QmpError::generic("This machine cannot be dumped"))?;
        if !services.info.dump.claim() {
            return Err(in_process());
        }
        let detach = self.detach.unwrap_or(false);
        // As long as it takes: whoever reads at the other end may be slow.
        match dumper.send(StartDump { to, format, filter, detach }).await {
            Ok(Ok(())) => Ok(Empty {}),
            Ok(Err(error)) => Err(QmpError::generic(error.to_string())),
            Err(_) => Err(QmpError::generic("The machine has failed (dump-guest-memory)")),
        }
    }
}

impl DumpGuestMemory {
    fn what(&self) -> Result<(CoreFormat, Option<Filter>), QmpError> {
        let Self { begin, length, format, .. } = self;
        let format = format.unwrap_or(DumpFormat::Elf);
        if format != DumpFormat::Elf && (self.paging || begin.is_some() || length.is_some()) {
            let sentence = "kdump-compressed format doesn't support paging or filter";
            return Err(QmpError::generic(sentence));
        }
        let missing = |name| Err(QmpError::generic(format!("Parameter '{name}' is missing")));
        let filter = match (*begin, *length) {
            (Some(begin), Some(length)) => Some(Filter { begin, length }),
            (Some(_), None) => return missing("length"),
            (None, Some(_)) => return missing("begin"),
            (None, None) => None,
        };
        Ok((format.core()?, filter))
    }
}

/// Refuse what has to wait for a dump's end.
pub fn not_dumping(services: &Services) -> Result<(), QmpError> {
    if services.info.dump.is_active() { Err(in_process()) } else { Ok(()) }
}

fn in_process() -> QmpError {
    QmpError::generic("There is a dump in process, please wait.")
}

async fn open(services: &Services, protocol: &str) -> Result<File, QmpError> {
    if let Some(name) = protocol.strip_prefix("fd:") {
        let not_found = || format!("File descriptor named '{name}' has not been found");
        let passed = services.passed.names.take(name);
        return passed.map(File::from).ok_or_else(|| QmpError::generic(not_found()));
    }
    let Some(path) = protocol.strip_prefix("file:").map(str::to_owned) else {
        let sentence = "parameter 'protocol' must start with 'file:' or 'fd:'";
        return Err(QmpError::generic(sentence));
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    if let Some(given) = services.info.descriptors.open(path.as_ref(), flags) {
        return Ok(given?.into());
    }
    // Opening a pipe takes until somebody reads.
    let opened = tokio::task::spawn_blocking(move || {
        rustix::fs::open(&path, flags, Mode::RUSR).map(File::from).map_err(|errno| {
            let reason = os_words(&errno.into());
            QmpError::generic(format!("Could not create '{path}': {reason}"))
        })
    });
    opened.await.unwrap_or_else(|panic| Err(QmpError::generic(panic.to_string())))
}

/// `query-dump`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryDump {}

impl Command for QueryDump {
    const NAME: &'static str = "query-dump";
    type Return = DumpQueryResult;

    async fn run(self, services: &Arc<Services>) -> Result<DumpQueryResult, QmpError> {
        Ok(services.info.dump.query())
    }
}

/// QAPI `DumpGuestMemoryCapability`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct DumpGuestMemoryCapability {
    pub formats: Vec<DumpFormat>,
}

/// `query-dump-guest-memory-capability`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryDumpGuestMemoryCapability {}

impl Command for QueryDumpGuestMemoryCapability {
    const NAME: &'static str = "query-dump-guest-memory-capability";
    type Return = DumpGuestMemoryCapability;

    async fn run(self, _: &Arc<Services>) -> Result<DumpGuestMemoryCapability, QmpError> {
        let formats = vec![DumpFormat::Elf, DumpFormat::KdumpZlib, DumpFormat::KdumpRawZlib];
        Ok(DumpGuestMemoryCapability { formats })
    }
}
