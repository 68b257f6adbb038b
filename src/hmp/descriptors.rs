//! Descriptors that clients pass along with a command over a UNIX socket.

use super::command::Call;
use crate::qmp::command::Command as _;
use crate::qmp::commands::descriptors::{Closefd, Getfd};
use crate::qmp::error::QmpError;

fn name(call: &Call) -> String {
    call.arguments.text("fdname").unwrap_or_default().to_owned()
}

pub(super) async fn getfd(call: &mut Call) -> Result<(), QmpError> {
    Getfd { fdname: name(call) }.run(&call.services).await.map(drop)
}

pub(super) async fn closefd(call: &mut Call) -> Result<(), QmpError> {
    Closefd { fdname: name(call) }.run(&call.services).await.map(drop)
}
