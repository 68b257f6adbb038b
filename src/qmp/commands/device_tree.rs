//! `dumpdtb`: the device tree, as the guest gets it, into a file.

use std::sync::Arc;

use serde::Deserialize;

use crate::machine::message::QueryTree;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::{QmpError, os_words};
use crate::qmp::link::Services;

/// `dumpdtb`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Dumpdtb {
    pub filename: String,
}

impl Command for Dumpdtb {
    const NAME: &'static str = "dumpdtb";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let tree = services.ask(&services.link.query_tree, "machine tree", QueryTree).await?;
        if tree.device_tree.is_empty() {
            return Err(QmpError::generic("This machine doesn't have an FDT"));
        }
        let written = tokio::fs::write(&self.filename, &tree.device_tree).await;
        written.map(|()| Empty {}).map_err(|error| {
            let (file, words) = (&self.filename, os_words(&error));
            QmpError::generic(format!("Error saving FDT to file {file}: {words}"))
        })
    }
}
