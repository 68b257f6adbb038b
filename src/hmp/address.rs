//! Where memory is: `gva2gpa`, `gpa2hva`, `gpa2hpa`; and what is in it, in one number: `sum`.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::command::Call;
use crate::machine::memory::PAGE_SIZE;
use crate::machine::message::{LocateMemory, MemoryPlace, ReadMemory, Space, TranslateVirtual};
use crate::qmp::error::{QmpError, os_words};

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
        MemoryPlace::Ram { region, host } => {
            writeln!(call.out, "Host virtual address for {addr:#x} ({region}) is {host:#x}")
        }
        nowhere => {
            nothing(&mut call.out, addr, &nowhere);
            return Ok(());
        }
    };
    Ok(())
}

/// Why the emulator has no memory for an address.
fn nothing(out: &mut String, addr: u64, place: &MemoryPlace) {
    let _ = match place {
        MemoryPlace::Nowhere => writeln!(out, "No memory is mapped at address {addr:#x}"),
        _ => writeln!(out, "Memory at address {addr:#x} is not RAM"),
    };
}

pub(super) async fn gpa2hpa(call: &mut Call) -> Outcome {
    let (cpu, addr) = (call.state.cpu, number(call, "addr"));
    let peer = &call.services.link.locate_memory;
    let place = call.services.ask(peer, "the memory map", LocateMemory { addr }).await?;
    let (region, host) = match place {
        MemoryPlace::Ram { region, host } => (region, host),
        nowhere => {
            nothing(&mut call.out, addr, &nowhere);
            return Ok(());
        }
    };
    // A page that nobody has touched yet is nowhere.
    call.read(ReadMemory { cpu, addr, len: 1, space: Space::Physical }).await?;
    let _ = match host_page(host) {
        Ok(page) => {
            let physical = page + host % PAGE_SIZE;
            writeln!(call.out, "Host physical address for {addr:#x} ({region}) is {physical:#x}")
        }
        Err(sentence) => writeln!(call.out, "{sentence}"),
    };
    Ok(())
}

/// The host-physical address of the page at a virtual one of this process (`pagemap` of proc(5)).
/// The kernel hides it, as zero, from those who may not know.
fn host_page(host: u64) -> Result<u64, String> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let file = File::open("/proc/self/pagemap");
    let file = file.map_err(|e| format!("Cannot open /proc/self/pagemap: {}", os_words(&e)))?;
    let mut entry = [0; 8];
    let read = file.read_exact_at(&mut entry, host / PAGE_SIZE * 8);
    read.map_err(|error| format!("Cannot read pagemap: {}", os_words(&error)))?;
    let entry = u64::from_le_bytes(entry);
    match entry & PRESENT {
        0 => Err("Page not present".to_owned()),
        _ => Ok((entry & FRAME) * PAGE_SIZE),
    }
}

/// The sum that the Unix command of this name made first. What is not RAM counts as zeros.
pub(super) async fn sum(call: &mut Call) -> Outcome {
    let (cpu, mut addr) = (call.state.cpu, number(call, "start"));
    let mut left = number(call, "size");
    let mut sum: u16 = 0;
    while left > 0 {
        let len = left.min(CHUNK - addr % CHUNK);
        let bytes = call.read(ReadMemory { cpu, addr, len, space: Space::PhysicalOrZeros }).await?;
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
