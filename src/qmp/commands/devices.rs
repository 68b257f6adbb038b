//! Devices that come and go.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::qom;
use crate::machine::hotplug::HotplugError;
use crate::machine::message::{PlugDevice, PropertyValue, UnplugDevice};
use crate::migration::message::Side;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::json;
use crate::qmp::link::Services;
use crate::qom::types::DEVICE;

impl From<HotplugError> for QmpError {
    fn from(error: HotplugError) -> Self {
        match error {
            HotplugError::NotFound(_) => Self::device_not_found(error.to_string()),
            HotplugError::Property(_) | HotplugError::Refused(_) => {
                Self::generic(error.to_string())
            }
        }
    }
}

/// Plug a device in.
pub async fn plug(services: &Services, request: PlugDevice) -> Result<(), QmpError> {
    if services.migration.cache(|cache| cache.busy() == Some(Side::Source)) {
        return Err(QmpError::generic("device_add not allowed while migrating"));
    }
    let answer = services.answer(services.hotplug()?.plug(), DeviceAdd::NAME, request).await?;
    answer.map_err(QmpError::from)
}

/// What introspection tells of the arguments of `device_add`; the device has more.
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "only described")]
struct DeviceAddArguments {
    driver: String,
    bus: Option<String>,
    id: Option<String>,
}

/// `device_add`. Which arguments there are is the device's to say.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct DeviceAdd(Map<String, Value>);

impl schemars::JsonSchema for DeviceAdd {
    fn schema_name() -> Cow<'static, str> {
        DeviceAddArguments::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        DeviceAddArguments::json_schema(generator)
    }
}

impl Command for DeviceAdd {
    const NAME: &'static str = "device_add";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        // What is not text counts as if it were not there.
        let text = |name: &str| self.0.get(name).and_then(Value::as_str).map(str::to_owned);
        let Some(driver) = text("driver") else {
            return Err(QmpError::generic("Parameter 'driver' is missing"));
        };
        let members = json::members(&self.0).into_iter();
        let properties = members
            .filter(|(name, _)| !matches!(name.as_str(), "driver" | "bus" | "id"))
            .map(|(name, value)| (name.clone(), PropertyValue::Json(value.clone())))
            .collect();
        let request = PlugDevice { driver, id: text("id"), bus: text("bus"), properties };
        plug(services, request).await?;
        Ok(Empty {})
    }
}

/// `device_del`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct DeviceDel {
    pub id: String,
}

impl Command for DeviceDel {
    const NAME: &'static str = "device_del";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let id = self.id;
        let request = UnplugDevice { id: id.clone() };
        let answer = services.answer(services.hotplug()?.unplug(), Self::NAME, request).await?;
        match answer {
            Err(HotplugError::NotFound(_)) => Err(why_not(services, &id)),
            answer => answer.map(|()| Empty {}).map_err(QmpError::from),
        }
    }
}

/// Why what is called so cannot be unplugged.
fn why_not(services: &Services, id: &str) -> QmpError {
    let path = match id.starts_with('/') {
        true => id.to_owned(),
        false => format!("/machine/peripheral/{id}"),
    };
    let Ok(found) = qom::tree(services).find(&path) else {
        return HotplugError::NotFound(id.to_owned()).into();
    };
    if !found.node.of().is(DEVICE) {
        return QmpError::generic(format!("{id} is not a device"));
    }
    let bus = found.node.value("parent_bus");
    let bus = bus.and_then(|path| Some(path.as_str()?.rsplit('/').next()?.to_owned()));
    QmpError::generic(match bus.as_deref() {
        None | Some("") => {
            format!("Device '{}' does not support hotplugging", found.node.type_name())
        }
        Some("sysbus") => "Bus 'main-system-bus' does not support hotplugging".to_owned(),
        Some(bus) => format!("Bus '{bus}' does not support hotplugging"),
    })
}
