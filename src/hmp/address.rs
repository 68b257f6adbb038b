//! Where memory is: `gva2gpa`, `gpa2hva`; and what is in it, in one number: `sum`.

use std::fmt::Write;

use super::command::Call;
use crate::machine::message::{LocateMemory, MemoryPlace, ReadMemory, TranslateVirtual};
use crate::qmp::error::QmpError;

type Outcome = Result<(), QmpError>;

/// Bytes of memory that are summed up at a time.
const CHUNK: u64 = 64 << 10;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

fn number(call: &Call, name: &str) -> u64 {
    call.arguments.number(name).unwrap_or_default() as u64
}

pub(super) async fn gva2gpa(call: &mut Call) -> Outcome {
    if !call.has_cpu().await? {
        call.out.push_str("No cpu\n");
        return Ok(());
    }
    let (cpu, addr) = (call.state.cpu, number(call, "addr"));
    let peer = &call.services.link.translate;
    let found = call.services.ask(peer, "a translation", TranslateVirtual { cpu, addr }).await?;
    let _ = match found {
        None => writeln!(call.out, "Unmapped"),
        // Zero has no prefix.
        Some(0) => writeln!(call.out, "gpa: 0"),
        Some(physical) => writeln!(call.out, "gpa: {physical:#x}"),
    };
    Ok(())
}

pub(super) async fn gpa2hva(call: &mut Call) -> Outcome {
    let addr = number(call, "addr");
    let peer = &call.services.link.locate_memory;
    let place = call.services.ask(peer, "the memory map", LocateMemory { addr }).await?;
    let _ = match place {
        MemoryPlace::Nowhere => {
            writeln!(call.out, "No memory is mapped at address {addr:#x}")
        }
        MemoryPlace::NotRam => writeln!(call.out, "Memory at address {addr:#x} is not RAM"),
        MemoryPlace::Ram { region, host } => {
            writeln!(call.out, "Host virtual address for {addr:#x} ({region}) is {host:#x}")
        }
    };
    Ok(())
}

/// The sum that the Unix command of this name made first. What is not RAM counts as zeros.
pub(super) async fn sum(call: &mut Call) -> Outcome {
    let (cpu, mut addr) = (call.state.cpu, number(call, "start"));
    let mut left = number(call, "size");
    let mut sum: u16 = 0;
    while left > 0 {
        let len = left.min(CHUNK - addr % CHUNK);
        let bytes = call.read(ReadMemory { cpu, addr, len, physical: true }).await?;
        match bytes {
            Some(bytes) => {
                for byte in bytes {
                    sum = sum.rotate_right(1).wrapping_add(u16::from(byte));
                }
            }
            None => sum = sum.rotate_right((len % 16) as u32),
        }
        addr = addr.wrapping_add(len);
        left -= len;
    }
    let _ = writeln!(call.out, "{sum:05}");
    Ok(())
}
