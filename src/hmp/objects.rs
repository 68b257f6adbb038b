//! Objects by name.

use super::command::Call;
use crate::objects::options::ObjectOptions;
use crate::qmp::command::Command as _;
use crate::qmp::commands::objects::{ObjectAdd, ObjectDel};
use crate::qmp::error::QmpError;

pub(super) async fn object_add(call: &mut Call) -> Result<(), QmpError> {
    let options = ObjectOptions::parse(call.arguments.text("object").unwrap_or_default())?;
    ObjectAdd(options).run(&call.services).await.map(drop)
}

pub(super) async fn object_del(call: &mut Call) -> Result<(), QmpError> {
    let id = call.arguments.text("id").unwrap_or_default().to_owned();
    ObjectDel { id }.run(&call.services).await.map(drop)
}
