//! `dumpdtb`: the machine's device tree into a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};
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
        let filename = self.filename;
        let write = move || replace(&filename, &tree.device_tree);
        let written = tokio::task::spawn_blocking(write).await;
        match written {
            Ok(Ok(())) => Ok(Empty {}),
            Ok(Err(sentence)) => Err(QmpError::generic(sentence)),
            Err(died) => Err(QmpError::generic(died.to_string())),
        }
    }
}

/// Write a file anew: it has either its old content or all of the new one.
fn replace(path: &str, bytes: &[u8]) -> Result<(), String> {
    let failed = |what: &str, error: &io::Error| {
        let reason = os_words(error);
        format!("Error saving FDT to file {path}: Failed to {what}: {reason}")
    };
    let (beside, file) = create_beside(path)
        .map_err(|(beside, error)| failed(&format!("create file “{beside}”"), &error))?;
    let written = write(file, bytes).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        // What cannot be removed either is left.
        let _ = std::fs::remove_file(&beside);
        failed(&format!("write file “{path}”"), &error)
    })
}

fn write(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// A new file next to `path`.
fn create_beside(path: &str) -> Result<(String, File), (String, io::Error)> {
    const TRIES: u32 = 100;
    let mut last = (path.to_owned(), io::ErrorKind::AlreadyExists.into());
    for _ in 0..TRIES {
        let mut random = [0; 6];
        if let Err(errno) = getrandom(&mut random, GetRandomFlags::empty()) {
            return Err((path.to_owned(), errno.into()));
        }
        let suffix: String = random.iter().map(|byte| char::from(b'A' + byte % 26)).collect();
        let name = format!("{path}.{suffix}");
        match OpenOptions::new().write(true).create_new(true).open(&name) {
            Ok(file) => return Ok((name, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = (name, error),
            Err(error) => return Err((name, error)),
        }
    }
    Err(last)
}
