//! Objects by name.

use std::sync::Arc;

use super::command::Call;
use crate::objects::options::{ObjectOptions, TYPES};
use crate::qmp::command::Command as _;
use crate::qmp::commands::objects::{ObjectAdd, ObjectDel};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// Types of objects.
pub(super) async fn types(_: &Arc<Services>) -> Vec<String> {
    TYPES.iter().map(|name| (*name).to_owned()).collect()
}

/// Objects that there are.
pub(super) async fn ids(services: &Arc<Services>) -> Vec<String> {
    services.info.objects.ids()
}

pub(super) async fn object_add(call: &mut Call) -> Result<(), QmpError> {
    let options = ObjectOptions::parse(call.arguments.text("object").unwrap_or_default())?;
    ObjectAdd(options).run(&call.services).await.map(drop)
}

pub(super) async fn object_del(call: &mut Call) -> Result<(), QmpError> {
    let id = call.arguments.text("id").unwrap_or_default().to_owned();
    ObjectDel { id }.run(&call.services).await.map(drop)
}
