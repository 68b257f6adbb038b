//! Character devices: adding, changing and removing them, ring buffers and breaks.

use std::sync::Arc;

use super::command::{Call, IDENTIFIERS};
use crate::chardev::spec::ChardevSpec;
use crate::cli::{self, OptionError};
use crate::qmp::command::Command;
use crate::qmp::commands::chardev::{
    ChardevRemove, ChardevSendBreak, QueryChardev, QueryChardevBackends, RingbufRead, RingbufWrite,
};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

type Outcome = Result<(), QmpError>;

/// Labels of all character devices.
pub(super) async fn labels(services: &Arc<Services>) -> Vec<String> {
    let devices = QueryChardev {}.run(services).await.unwrap_or_default();
    devices.into_iter().map(|device| device.label).collect()
}

/// Labels of ring buffers.
pub(super) async fn rings(services: &Arc<Services>) -> Vec<String> {
    let devices = QueryChardev {}.run(services).await.unwrap_or_default();
    let rings = devices.into_iter().filter(|device| device.filename == "ringbuf");
    rings.map(|device| device.label).collect()
}

/// The kinds that there are.
pub(super) async fn kinds(services: &Arc<Services>) -> Vec<String> {
    let kinds = QueryChardevBackends {}.run(services).await.unwrap_or_default();
    kinds.into_iter().map(|kind| kind.name.to_owned()).collect()
}

fn text(call: &Call, name: &str) -> String {
    call.arguments.text(name).unwrap_or_default().to_owned()
}

pub(super) async fn ringbuf_write(call: &mut Call) -> Outcome {
    let (device, data) = (text(call, "device"), text(call, "data"));
    RingbufWrite { device, data, format: None }.run(&call.services).await.map(drop)
}

pub(super) async fn ringbuf_read(call: &mut Call) -> Outcome {
    let device = text(call, "device");
    let size = call.arguments.number("size").unwrap_or_default();
    let data = RingbufRead { device, size, format: None }.run(&call.services).await?;
    for c in data.chars() {
        match c {
            '\\' => call.out.push_str("\\\\"),
            '\n' | ' '..='\u{7e}' | '\u{80}'.. => call.out.push(c),
            _ => call.out.push_str(&format!("\\u{:04X}", u32::from(c))),
        }
    }
    call.out.push('\n');
    Ok(())
}

pub(super) async fn chardev_send_break(call: &mut Call) -> Outcome {
    let id = text(call, "id");
    ChardevSendBreak { id }.run(&call.services).await.map(drop)
}

/// What is wrong with the grammar is told apart from what is wrong with the device.
fn options(call: &mut Call, id: Option<&str>) -> Result<ChardevSpec, QmpError> {
    cli::chardev_of_monitor(&text(call, "args"), id).map_err(|error| match error {
        OptionError::ExpectsIdentifier { .. } => {
            call.out.push_str("Parameter 'id' expects an identifier\n");
            call.out.push_str(IDENTIFIERS);
            QmpError::generic("Parsing chardev args failed")
        }
        OptionError::ExpectsSize { name } => {
            call.out.push_str(&format!(
                "Parameter '{name}' expects a non-negative number below 2^64\nOptional suffix k, \
                 M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, \
                 respectively.\n"
            ));
            QmpError::generic("Parsing chardev args failed")
        }
        OptionError::InvalidParameter { .. }
        | OptionError::ExpectsNumber { .. }
        | OptionError::ExpectsOnOff { .. }
        | OptionError::OutOfRange { .. } => {
            call.out.push_str(&format!("{error}\n"));
            QmpError::generic("Parsing chardev args failed")
        }
        other => QmpError::generic(other.to_string()),
    })
}

pub(super) async fn chardev_add(call: &mut Call) -> Outcome {
    if matches!(text(call, "args").as_str(), "help" | "?") {
        call.out.push_str(&cli::chardev_kinds());
        return Ok(());
    }
    let spec = options(call, None)?;
    let added = call.services.chardevs().add(&spec).await?;
    if let Some(name) = added.pty() {
        let line = format!("char device redirected to {name} (label {})\n", added.id);
        call.out.push_str(&line);
    }
    Ok(())
}

pub(super) async fn chardev_change(call: &mut Call) -> Outcome {
    let id = text(call, "id");
    let spec = options(call, Some(&id))?;
    let chardevs = call.services.chardevs();
    if chardevs.change(&id, || Ok(spec.clone())).await?.is_none() {
        let failed = |error| QmpError::generic(format!("Failed to add chardev '{id}': {error}"));
        chardevs.add(&spec).await.map_err(failed)?;
    }
    Ok(())
}

pub(super) async fn chardev_remove(call: &mut Call) -> Outcome {
    let id = text(call, "id");
    ChardevRemove { id }.run(&call.services).await.map(drop)
}
