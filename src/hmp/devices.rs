//! Devices that come and go.

use std::sync::Arc;

use super::command::Call;
use crate::cli::opts::Opts;
use crate::machine::message::{PlugDevice, PropertyValue};
use crate::machine::models;
use crate::qmp::command::Command as _;
use crate::qmp::commands::devices::{self, DeviceDel};
use crate::qmp::commands::qom as object_model;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;
use crate::qom;

type Outcome = Result<(), QmpError>;

/// Models of devices.
pub(super) async fn models(_: &Arc<Services>) -> Vec<String> {
    models::models().map(|model| model.name.to_owned()).collect()
}

/// Devices that can be plugged out.
pub(super) async fn ids(services: &Arc<Services>) -> Vec<String> {
    let tree = object_model::tree(services);
    let Ok(devices) = tree.find("/machine/peripheral") else { return Vec::new() };
    let hotpluggable = |node: &qom::Node| node.value("hotpluggable") == Some(true.into());
    let devices = devices.node.children().filter(|(_, device)| hotpluggable(device));
    devices.map(|(name, _)| name.to_owned()).collect()
}

pub(super) async fn device_add(call: &mut Call) -> Outcome {
    let text = call.arguments.text("device").unwrap_or_default();
    let mut opts = Opts::parse(text, Some("driver"));
    let driver = opts.take("driver");
    if matches!(driver.as_deref(), Some("help" | "?")) {
        call.out.push_str(&qom::list(false));
        return Ok(());
    }
    let Some(driver) = driver else {
        return Err(QmpError::generic("Parameter 'driver' is missing"));
    };
    if opts.wants_help() {
        match qom::device_help(&driver) {
            Ok(help) => call.out.push_str(&help),
            Err(error) => call.out.push_str(&format!("{error}\n")),
        }
        return Ok(());
    }
    let (id, bus) = (opts.take("id"), opts.take("bus"));
    let properties = opts.items.into_iter();
    let properties = properties.map(|(name, text)| (name, PropertyValue::Text(text))).collect();
    devices::plug(&call.services, PlugDevice { driver, id, bus, properties }).await
}

pub(super) async fn device_del(call: &mut Call) -> Outcome {
    let id = call.arguments.text("id").unwrap_or_default().to_owned();
    DeviceDel { id }.run(&call.services).await.map(drop)
}
