//! `i` and `o`: I/O ports. These boards have a space of 64 KiB for them and nothing in it, so what is
//! read has every bit set, and what is written is lost.

use std::fmt::Write;

use super::command::Call;
use crate::qmp::error::QmpError;

type Outcome = Result<(), QmpError>;

/// Ports of the space.
const PORTS: u64 = 0x1_0000;

fn number(call: &Call, name: &str) -> Option<u64> {
    call.arguments.number(name).map(|number| number as u64)
}

pub(super) async fn read(call: &mut Call) -> Outcome {
    let size = call.arguments.format("fmt").size;
    let (suffix, bits): (_, u64) = match size {
        2 => ('w', 16),
        4 => ('l', 32),
        _ => ('b', 8),
    };
    // An index is written to the port before the one that is read.
    let port = number(call, "addr").unwrap_or_default();
    let port = port.wrapping_add(u64::from(number(call, "index").is_some())) % PORTS;
    // Beyond the last port there is not even a space, and what is read is zero.
    let bits = bits.min(8 * (PORTS - port));
    let (value, width) = (u32::MAX >> (32 - bits), usize::from(size) * 2);
    // Writing to a String cannot fail.
    let _ = writeln!(call.out, "port{suffix}[0x{port:04x}] = 0x{value:0width$x}");
    Ok(())
}

pub(super) async fn write(_: &mut Call) -> Outcome {
    Ok(())
}
