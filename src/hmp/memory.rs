//! Memory and expressions: `x`, `xp`, `print`, `memsave`, `pmemsave`.

use std::fmt::Write;

use super::arguments::Format;
use super::command::Call;
use super::disassembly;
use crate::machine::message::{ReadMemory, Space};
use crate::qmp::command::Command;
use crate::qmp::commands::memory::{Memsave, Pmemsave};
use crate::qmp::error::QmpError;

type Outcome = Result<(), QmpError>;

// Writing to a String cannot fail, so results of `write!` below are dropped.

pub(super) async fn memsave(call: &mut Call) -> Outcome {
    if !call.has_cpu().await? {
        call.out.push_str("No CPU available\n");
        return Ok(());
    }
    let (val, size, filename) = region(call);
    let cpu_index = Some(call.state.cpu.into());
    Memsave { val, size, filename, cpu_index }.run(&call.services).await.map(drop)
}

pub(super) async fn pmemsave(call: &mut Call) -> Outcome {
    let (val, size, filename) = region(call);
    Pmemsave { val, size, filename }.run(&call.services).await.map(drop)
}

fn region(call: &Call) -> (u64, u64, String) {
    let number = |name| call.arguments.number(name).unwrap_or_default() as u64;
    let filename = call.arguments.text("filename").unwrap_or_default();
    (number("val"), number("size"), filename.to_owned())
}

pub(super) async fn print(call: &mut Call) -> Outcome {
    let value = call.arguments.number("val").unwrap_or_default();
    let format = call.arguments.format("fmt");
    let _ = match format.letter {
        b'o' if value == 0 => writeln!(call.out, "0"),
        b'o' => writeln!(call.out, "0{value:o}"),
        // Zero has no prefix.
        b'x' if value == 0 => writeln!(call.out, "0"),
        b'x' => writeln!(call.out, "0x{value:x}"),
        b'u' => writeln!(call.out, "{}", value as u64),
        b'c' => writeln!(call.out, "{}", character(value as u32)),
        _ => writeln!(call.out, "{value}"),
    };
    Ok(())
}

pub(super) async fn x(call: &mut Call) -> Outcome {
    dump(call, false).await
}

pub(super) async fn xp(call: &mut Call) -> Outcome {
    dump(call, true).await
}

async fn dump(call: &mut Call, physical: bool) -> Outcome {
    let addr = call.arguments.number("addr").unwrap_or_default() as u64;
    let format = call.arguments.format("fmt");
    if (!physical || format.letter == b'i') && !call.has_cpu().await? {
        call.out.push_str("Can not dump without CPU\n");
        return Ok(());
    }
    match format.letter {
        b'i' => disassemble(call, addr, format.count, physical).await,
        _ => items(call, addr, format, physical).await,
    }
}

async fn read(
    call: &Call,
    addr: u64,
    len: u64,
    physical: bool,
) -> Result<Option<Vec<u8>>, QmpError> {
    let space = if physical { Space::Physical } else { Space::Virtual };
    call.read(ReadMemory { cpu: call.state.cpu, addr, len, space }).await
}

fn no_access(call: &mut Call, addr: u64) -> Outcome {
    let _ = writeln!(call.out, "{addr:016x}: Cannot access memory");
    Ok(())
}

async fn items(call: &mut Call, mut addr: u64, format: Format, physical: bool) -> Outcome {
    let size = i32::from(format.size);
    let line = if size == 1 { 8 } else { 16 };
    // As in QEMU, 32 bits: what does not fit is not shown.
    let left = format.count.wrapping_mul(size);
    let mut left = u64::try_from(left).unwrap_or(0);
    // Characters are bytes, whatever the size was: it only says how many there are.
    let step = if format.letter == b'c' { 1 } else { usize::from(format.size) };
    while left > 0 && !call.is_full() {
        let len = left.min(line);
        let Some(bytes) = read(call, addr, len, physical).await? else {
            return no_access(call, addr);
        };
        let _ = write!(call.out, "{addr:016x}:");
        for item in bytes.chunks(step) {
            let mut word = [0; 8];
            word[..item.len()].copy_from_slice(item);
            call.out.push(' ');
            call.out.push_str(&shown(u64::from_le_bytes(word), format.letter, step as u32 * 8));
        }
        call.out.push('\n');
        addr = addr.wrapping_add(len);
        left -= len;
    }
    Ok(())
}

/// One item of `bits` bits, padded to the width of the largest.
fn shown(value: u64, letter: u8, bits: u32) -> String {
    match letter {
        b'o' => {
            let digits = if value == 0 { "0".into() } else { format!("0{value:o}") };
            format!("{digits:>0$}", bits.div_ceil(3) as usize)
        }
        // As in QEMU, there is a sign where there is no room for more.
        b'd' => format!("{:>1$}", value as i64, (bits * 10).div_ceil(33) as usize),
        b'u' => format!("{value:>0$}", (bits * 10).div_ceil(33) as usize),
        b'c' => character(u32::from(value as u8)),
        _ => format!("0x{value:00$x}", bits as usize / 4),
    }
}

/// A character, or what is none, as a C literal.
fn character(code: u32) -> String {
    match u8::try_from(code).unwrap_or(0) {
        b'\'' => "'\\''".into(),
        b'\\' => "'\\\\'".into(),
        b'\n' => "'\\n'".into(),
        b'\r' => "'\\r'".into(),
        c @ b' '..=b'~' => format!("'{}'", c as char),
        _ => format!("'\\x{code:02x}'"),
    }
}

async fn disassemble(call: &mut Call, mut addr: u64, count: i32, physical: bool) -> Outcome {
    for _ in 0..count {
        if call.is_full() {
            break;
        }
        // Parcel by parcel: the second half may lie on a page that is not there.
        let Some(mut code) = read(call, addr, 2, physical).await? else {
            return no_access(call, addr);
        };
        if code[0] & 3 == 3 {
            match read(call, addr.wrapping_add(2), 2, physical).await? {
                Some(second) => code.extend(second),
                None => return no_access(call, addr.wrapping_add(2)),
            }
        }
        let raw = code.iter().rev().fold(0u64, |raw, &byte| raw << 8 | u64::from(byte));
        call.out.push_str(&disassembly::line(addr, raw, code.len()));
        call.out.push('\n');
        addr = addr.wrapping_add(code.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_shown_as_qemu_shows_them() {
        for (value, letter, bits, expected) in [
            (0x0005_84b3_0005_0433, b'x', 64, "0x000584b300050433"),
            (0x0433, b'x', 16, "0x0433"),
            (0x0005_84b3_0005_0433, b'd', 64, "    1553279217894451"),
            (0xffff, b'd', 16, "65535"),
            (u64::MAX, b'd', 64, "                  -1"),
            (0xffff, b'u', 16, "65535"),
            (0x0005_84b3_0005_0433, b'o', 64, "    054113140001202063"),
            (0, b'o', 8, "  0"),
            (b'A'.into(), b'c', 8, "'A'"),
            (0x0d, b'c', 8, "'\\r'"),
            (0xb3, b'c', 8, "'\\xb3'"),
        ] {
            assert_eq!(shown(value, letter, bits), expected, "{value:#x} {}", letter as char);
        }
    }
}
