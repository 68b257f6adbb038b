//! Character devices: what they are, adding, changing and removing them, the contents of ring
//! buffers, breaks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::base64;
use crate::chardev::options::{ChardevBackend, KINDS};
use crate::chardev::ring::Ring;
use crate::chardev::{Chardev, ChardevError};
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// QAPI `ChardevInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ChardevInfo {
    pub frontend_open: bool,
    pub filename: String,
    pub label: String,
}

/// `query-chardev`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryChardev {}

impl Command for QueryChardev {
    const NAME: &'static str = "query-chardev";
    type Return = Vec<ChardevInfo>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<ChardevInfo>, QmpError> {
        let info = |chardev: &Chardev| ChardevInfo {
            frontend_open: chardev.is_front_end_open(),
            filename: chardev.filename.lock().clone(),
            label: chardev.id.clone(),
        };
        Ok(services.info.chardevs.list().iter().map(info).collect())
    }
}

/// QAPI `ChardevBackendInfo`.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct ChardevBackendInfo {
    pub name: &'static str,
}

/// `query-chardev-backends`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryChardevBackends {}

impl Command for QueryChardevBackends {
    const NAME: &'static str = "query-chardev-backends";
    type Return = Vec<ChardevBackendInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<ChardevBackendInfo>, QmpError> {
        Ok(KINDS.iter().map(|name| ChardevBackendInfo { name }).collect())
    }
}

/// QAPI `ChardevReturn`.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct ChardevReturn {
    /// The other side of a pseudo-terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<String>,
}

impl From<ChardevError> for QmpError {
    fn from(error: ChardevError) -> Self {
        Self::generic(error.to_string())
    }
}

/// `chardev-add`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct ChardevAdd {
    pub id: String,
    pub backend: ChardevBackend,
}

impl Command for ChardevAdd {
    const NAME: &'static str = "chardev-add";
    type Return = ChardevReturn;

    async fn run(self, services: &Arc<Services>) -> Result<ChardevReturn, QmpError> {
        let Self { id, backend } = self;
        let chardevs = services.chardevs();
        if chardevs.get(&id).is_some() {
            return Err(QmpError::generic(format!("Chardev with id '{id}' already exists")));
        }
        let failed = |error| QmpError::generic(format!("Failed to add chardev '{id}': {error}"));
        let spec = backend.into_spec(id.clone(), &services.info.objects).map_err(failed)?;
        Ok(ChardevReturn { pty: chardevs.add(&spec).await.map_err(failed)?.pty() })
    }
}

/// `chardev-change`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct ChardevChange {
    pub id: String,
    pub backend: ChardevBackend,
}

impl Command for ChardevChange {
    const NAME: &'static str = "chardev-change";
    type Return = ChardevReturn;

    async fn run(self, services: &Arc<Services>) -> Result<ChardevReturn, QmpError> {
        let Self { id, backend } = self;
        let spec = || backend.clone().into_spec(id.clone(), &services.info.objects);
        match services.chardevs().change(&id, spec).await? {
            Some(chardev) => Ok(ChardevReturn { pty: chardev.pty() }),
            None => ChardevAdd { id, backend }.run(services).await,
        }
    }
}

/// `chardev-remove`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct ChardevRemove {
    pub id: String,
}

impl Command for ChardevRemove {
    const NAME: &'static str = "chardev-remove";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        services.info.chardevs.remove(&self.id)?;
        Ok(Empty {})
    }
}

/// QAPI `DataFormat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    #[default]
    Utf8,
    Base64,
}

fn ring(services: &Services, label: &str) -> Result<Ring, QmpError> {
    let chardev = services.info.chardevs.get(label);
    let chardev =
        chardev.ok_or_else(|| QmpError::generic(format!("Device '{label}' not found")))?;
    let not_one = || QmpError::generic(format!("{label} is not a ringbuf device"));
    chardev.ring().ok_or_else(not_one)
}

/// `ringbuf-write`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct RingbufWrite {
    pub device: String,
    pub data: String,
    pub format: Option<DataFormat>,
}

impl Command for RingbufWrite {
    const NAME: &'static str = "ringbuf-write";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let ring = ring(services, &self.device)?;
        let invalid = || QmpError::generic("Base64 data contains invalid characters");
        match self.format.unwrap_or_default() {
            DataFormat::Utf8 => ring.write(self.data.as_bytes()),
            DataFormat::Base64 => ring.write(&base64::decode(&self.data).ok_or_else(invalid)?),
        }
        Ok(Empty {})
    }
}

/// `ringbuf-read`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct RingbufRead {
    pub device: String,
    pub size: i64,
    pub format: Option<DataFormat>,
}

impl Command for RingbufRead {
    const NAME: &'static str = "ringbuf-read";
    type Return = String;

    async fn run(self, services: &Arc<Services>) -> Result<String, QmpError> {
        let ring = ring(services, &self.device)?;
        let size = usize::try_from(self.size).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| QmpError::generic("size must be greater than zero"))?;
        let bytes = ring.read(size);
        Ok(match self.format.unwrap_or_default() {
            DataFormat::Utf8 => String::from_utf8_lossy(&bytes).into_owned(),
            DataFormat::Base64 => base64::encode(&bytes),
        })
    }
}

/// `chardev-send-break`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct ChardevSendBreak {
    pub id: String,
}

impl Command for ChardevSendBreak {
    const NAME: &'static str = "chardev-send-break";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let chardev = services.info.chardevs.get(&self.id);
        chardev.ok_or(ChardevError::NotFound(self.id))?.send_break();
        Ok(Empty {})
    }
}
