//! Objects by name.

use std::sync::Arc;

use serde::Deserialize;

use crate::objects::ObjectError;
use crate::objects::options::ObjectOptions;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

impl From<ObjectError> for QmpError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Argument(error) => error,
            other => Self::generic(other.to_string()),
        }
    }
}

/// `object-add`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct ObjectAdd(pub ObjectOptions);

impl Command for ObjectAdd {
    const NAME: &'static str = "object-add";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        services.info.objects.add(self.0.into_spec()?).await?;
        Ok(Empty {})
    }
}

/// `object-del`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct ObjectDel {
    pub id: String,
}

impl Command for ObjectDel {
    const NAME: &'static str = "object-del";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        services.info.objects.del(&self.id)?;
        Ok(Empty {})
    }
}
