//! `-incoming`, and what `-global` says of migrations.

use serde_json::{Map, Value};

use super::{CliError, OptionError, refused, value};
use crate::machine::spec::{GlobalSpec, Incoming, MachineSpec};
use crate::migration::capability::{Capabilities, Capability};
use crate::migration::channel::{Address, MigrationChannel};
use crate::migration::message::Settings;
use crate::migration::parameter_text;
use crate::qmp::commands::migration_settings::MigrateSetParameters;
use crate::qmp::error::QmpError;
use crate::qmp::visit;

/// The driver that `-global` means by migrations.
const DRIVER: &str = "migration";

/// `-incoming`: `defer`, a URI, or a `MigrationChannel` as JSON. Anything else is taken for the
/// beginning of a channel written with `=`, and refused as that.
pub fn incoming(text: &str, origin: &str) -> Result<Incoming, OptionError> {
    let address = match text {
        "defer" => return Ok(Incoming::Defer),
        json if json.starts_with('{') => match serde_json::from_str(json) {
            Ok(channel) => channel_address(channel)?,
            Err(error) => return refused(format!("JSON parse error, {error}")),
        },
        "" => channel_address(Map::new())?,
        word if !word.contains([':', '=']) => {
            channel_address(Map::from_iter([("channel-type".to_owned(), word.into())]))?
        }
        uri => Address::parse(uri).map_err(|error| OptionError::Refused(error.to_string()))?,
    };
    Ok(Incoming::At { address, origin: origin.into() })
}

fn channel_address(channel: Map<String, Value>) -> Result<Address, OptionError> {
    let channel = visit::arguments::<MigrationChannel>(channel);
    let channel = channel.map_err(|error| OptionError::Refused(error.desc))?;
    Address::main(vec![channel]).map_err(|error| OptionError::Refused(error.to_string()))
}

/// Take the settings of migrations out of the globals.
pub fn globals(spec: &mut MachineSpec) -> Result<(), CliError> {
    let (ours, others) =
        std::mem::take(&mut spec.globals).into_iter().partition(|global| global.driver == DRIVER);
    spec.globals = others;
    let ours: Vec<GlobalSpec> = ours;
    for GlobalSpec { property, value, .. } in &ours {
        let origin = format!("-global {DRIVER}.{property}={value}");
        set(&mut spec.migration, property, value).map_err(|error| {
            let applied = format!("can't apply global {DRIVER}.{property}={value}: {error}");
            OptionError::Refused(applied).at(&origin)
        })?;
    }
    let Settings { capabilities, parameters } = &spec.migration;
    let none = Capabilities::default();
    let checked = capabilities
        .check(none, parameters, false)
        .and_then(|()| parameters.check())
        .and_then(|()| capabilities.check_parameters(parameters));
    let origin = format!("-global {DRIVER}");
    checked.map_err(|reason| OptionError::Refused(reason.to_string()).at(&origin))
}

/// One property: a capability or a parameter, perhaps with the `x-` that QEMU puts before most.
fn set(settings: &mut Settings, property: &str, text: &str) -> Result<(), OptionError> {
    for name in [property, property.strip_prefix("x-").unwrap_or(property)] {
        if let Some(capability) = Capability::named(name) {
            settings.capabilities.set(capability, value::switch(property, text)?);
            return Ok(());
        }
        // The first line of the sentence; what follows it is advice for a monitor.
        let said = |error: QmpError| {
            let line = error.desc.lines().next().unwrap_or_default();
            OptionError::Refused(line.to_owned())
        };
        if let Some(value) = parameter_text::parse(name, text, 1).map_err(said)? {
            let given = Map::from_iter([(name.to_owned(), value)]);
            let given = visit::arguments::<MigrateSetParameters>(given).map_err(said)?;
            given.apply(&mut settings.parameters);
            return Ok(());
        }
    }
    Err(OptionError::PropertyNotFound { owner: DRIVER.into(), name: property.into() })
}
