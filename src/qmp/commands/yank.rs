//! `yank`: cut connections that hang, so that whoever waits on them goes on.

use std::sync::Arc;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::migration::cache::MigrationCache;
use crate::migration::message::{CutMigration, Side};
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// QAPI `YankInstance`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename = "union type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum YankInstance {
    /// There is none: block nodes here have no connections.
    BlockNode {
        node_name: String,
    },
    Chardev {
        id: String,
    },
    Migration {},
}

impl Serialize for YankInstance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, member) = match self {
            Self::BlockNode { node_name } => ("block-node", Some(("node-name", node_name))),
            Self::Chardev { id } => ("chardev", Some(("id", id))),
            Self::Migration {} => ("migration", None),
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", kind)?;
        if let Some((name, value)) = member {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// What can be yanked at present.
fn instances(services: &Services) -> Vec<YankInstance> {
    let sockets = services.info.chardevs.sockets();
    let mut all: Vec<_> =
        sockets.into_iter().map(|socket| YankInstance::Chardev { id: socket.id }).collect();
    if services.migration.cache(MigrationCache::busy).is_some() {
        all.push(YankInstance::Migration {});
    }
    all
}

/// `query-yank`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryYank {}

impl Command for QueryYank {
    const NAME: &'static str = "query-yank";
    const OUT_OF_BAND: bool = true;
    type Return = Vec<YankInstance>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<YankInstance>, QmpError> {
        Ok(instances(services))
    }
}

/// `yank`: all of them, or none if there is one that does not exist.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Yank {
    pub instances: Vec<YankInstance>,
}

impl Command for Yank {
    const NAME: &'static str = "yank";
    const OUT_OF_BAND: bool = true;
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let there = instances(services);
        if !self.instances.iter().all(|instance| there.contains(instance)) {
            return Err(QmpError::device_not_found("Instance not found"));
        }
        for instance in self.instances {
            match instance {
                YankInstance::BlockNode { .. } => {}
                YankInstance::Chardev { id } => {
                    if let Some(chardev) = services.info.chardevs.get(&id) {
                        chardev.hang_up();
                    }
                }
                YankInstance::Migration {} => cut_migration(services)?,
            }
        }
        Ok(Empty {})
    }
}

/// Nobody waits for it: the way out of a hang does not hang.
fn cut_migration(services: &Services) -> Result<(), QmpError> {
    let link = services.migration.link()?;
    match services.migration.cache(MigrationCache::busy) {
        Some(Side::Source) => link.cut.do_send(CutMigration),
        Some(Side::Destination) => link.cut_incoming.do_send(CutMigration),
        None => {}
    }
    Ok(())
}
