//! Character devices: ring buffers and breaks.

use std::sync::Arc;

use super::command::Call;
use crate::qmp::command::Command;
use crate::qmp::commands::chardev::{
    ChardevSendBreak, DataFormat, QueryChardev, RingbufRead, RingbufWrite,
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

fn text(call: &Call, name: &str) -> String {
    call.arguments.text(name).unwrap_or_default().to_owned()
}

pub(super) async fn ringbuf_write(call: &mut Call) -> Outcome {
    let (device, data) = (text(call, "device"), text(call, "data"));
    RingbufWrite { device, data, format: DataFormat::Utf8 }.run(&call.services).await.map(drop)
}

pub(super) async fn ringbuf_read(call: &mut Call) -> Outcome {
    let device = text(call, "device");
    let size = call.arguments.number("size").unwrap_or_default();
    let data = RingbufRead { device, size, format: DataFormat::Utf8 }.run(&call.services).await?;
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
