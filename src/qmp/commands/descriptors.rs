//! Descriptors that clients pass along with a command over a UNIX socket.

use std::sync::Arc;

use serde::Deserialize;

use crate::net::descriptors::{Added, DescriptorError, SetInfo};
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

impl From<DescriptorError> for QmpError {
    fn from(error: DescriptorError) -> Self {
        Self::generic(error.to_string())
    }
}

/// `getfd`: keep what is passed under a name, for `migrate fd:NAME` and its like.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Getfd {
    pub fdname: String,
}

impl Command for Getfd {
    const NAME: &'static str = "getfd";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let fd = services.passed.take().ok_or(DescriptorError::NotPassed)?;
        services.passed.names.name(&self.fdname, fd)?;
        Ok(Empty {})
    }
}

/// `closefd`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Closefd {
    pub fdname: String,
}

impl Command for Closefd {
    const NAME: &'static str = "closefd";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        services.passed.names.close(&self.fdname)?;
        Ok(Empty {})
    }
}

/// `add-fd`: put what is passed into a set, for `/dev/fdset/N`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AddFd {
    pub fdset_id: Option<i64>,
    pub opaque: Option<String>,
}

impl Command for AddFd {
    const NAME: &'static str = "add-fd";
    type Return = Added;

    async fn run(self, services: &Arc<Services>) -> Result<Added, QmpError> {
        let fd = services.passed.take().ok_or(DescriptorError::NotPassed)?;
        Ok(services.info.descriptors.add(self.fdset_id, fd, self.opaque)?)
    }
}

/// `remove-fd`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RemoveFd {
    pub fdset_id: i64,
    pub fd: Option<i64>,
}

impl Command for RemoveFd {
    const NAME: &'static str = "remove-fd";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        services.info.descriptors.remove(self.fdset_id, self.fd)?;
        Ok(Empty {})
    }
}

/// `query-fdsets`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryFdsets {}

impl Command for QueryFdsets {
    const NAME: &'static str = "query-fdsets";
    type Return = Vec<SetInfo>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<SetInfo>, QmpError> {
        Ok(services.info.descriptors.sets())
    }
}
