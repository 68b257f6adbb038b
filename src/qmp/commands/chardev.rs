//! Character devices: what they are, the contents of ring buffers, breaks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::base64;
use crate::chardev::Chardev;
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
        let devices = services.info.chardevs.iter().flat_map(|chardev| {
            let filename = chardev.filename.lock().clone();
            let frontend_open = chardev.has_front_end();
            let one = |frontend_open, filename, label: String| ChardevInfo {
                frontend_open,
                filename,
                label,
            };
            // The device under a multiplexer that came with it is one of its own.
            match chardev.is_multiplexed() {
                true => vec![
                    one(frontend_open, "mux".to_owned(), chardev.id.clone()),
                    one(true, filename, format!("{}-base", chardev.id)),
                ],
                false => vec![one(frontend_open, filename, chardev.id.clone())],
            }
        });
        Ok(devices.collect())
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

fn find<'a>(services: &'a Services, label: &str) -> Option<&'a Chardev> {
    services.info.chardevs.iter().find(|chardev| chardev.id == label)
}

fn ring<'a>(
    services: &'a Services,
    label: &str,
) -> Result<&'a crate::chardev::ring::Ring, QmpError> {
    let chardev = find(services, label)
        .ok_or_else(|| QmpError::generic(format!("Device '{label}' not found")))?;
    let not_one = || QmpError::generic(format!("{label} is not a ringbuf device"));
    chardev.ring.as_ref().ok_or_else(not_one)
}

/// `ringbuf-write`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct RingbufWrite {
    pub device: String,
    pub data: String,
    #[serde(default)]
    pub format: DataFormat,
}

impl Command for RingbufWrite {
    const NAME: &'static str = "ringbuf-write";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let ring = ring(services, &self.device)?;
        let invalid = || QmpError::generic("Base64 data contains invalid characters");
        match self.format {
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
    #[serde(default)]
    pub format: DataFormat,
}

impl Command for RingbufRead {
    const NAME: &'static str = "ringbuf-read";
    type Return = String;

    async fn run(self, services: &Arc<Services>) -> Result<String, QmpError> {
        let ring = ring(services, &self.device)?;
        let size = usize::try_from(self.size).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| QmpError::generic("size must be greater than zero"))?;
        let bytes = ring.read(size);
        Ok(match self.format {
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
        let chardev = find(services, &self.id)
            .ok_or_else(|| QmpError::generic(format!("Chardev '{}' not found", self.id)))?;
        chardev.send_break();
        Ok(Empty {})
    }
}
