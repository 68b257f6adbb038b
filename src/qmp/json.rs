//! Writing JSON as QEMU writes it: ASCII only, `%.17g` floats, members in the order in which its
//! dictionaries list them, so that a transcript replays byte for byte.

use serde_json::{Map, Number, Value};

/// Buckets of QEMU's dictionaries.
const BUCKETS: u32 = 512;

/// The bucket of a key: the hash function of the trivial database library (tdb), modulo 512.
fn bucket(key: &str) -> u32 {
    let seed = 0x238f_13af_u32.wrapping_mul(key.len() as u32);
    let value = key
        .bytes()
        .enumerate()
        .fold(seed, |value, (i, byte)| value.wrapping_add(u32::from(byte) << (i * 5 % 24)));
    value.wrapping_mul(1_103_515_243).wrapping_add(12345) % BUCKETS
}

/// The members of an object in QEMU's order: by bucket, the later insertion first within one.
pub fn members(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut list: Vec<_> = map.iter().rev().collect();
    list.sort_by_key(|(key, _)| bucket(key));
    list
}

/// Serialise one message, with its `\r\n`.
pub fn line(value: &Value, pretty: bool) -> Vec<u8> {
    let mut out = String::new();
    write(&mut out, value, pretty.then_some(0));
    out.push_str("\r\n");
    out.into_bytes()
}

/// One value, indented, without an end of line; lines end `\n`.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, Some(0));
    out.replace("\r\n", "\n")
}

/// `indent` is the nesting depth when pretty.
fn write(out: &mut String, value: &Value, indent: Option<usize>) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => number(out, n),
        Value::String(s) => string(out, s),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                separate(out, i, indent);
                write(out, item, indent.map(|n| n + 1));
            }
            new_line(out, indent);
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, item)) in members(map).into_iter().enumerate() {
                separate(out, i, indent);
                string(out, key);
                out.push_str(": ");
                write(out, item, indent.map(|n| n + 1));
            }
            new_line(out, indent);
            out.push('}');
        }
    }
}

fn separate(out: &mut String, index: usize, indent: Option<usize>) {
    if index > 0 {
        out.push(',');
        if indent.is_none() {
            out.push(' ');
        }
    }
    new_line(out, indent.map(|n| n + 1));
}

fn new_line(out: &mut String, indent: Option<usize>) {
    if let Some(depth) = indent {
        out.push_str("\r\n");
        out.extend(std::iter::repeat_n("    ", depth));
    }
}

fn string(out: &mut String, text: &str) {
    use std::fmt::Write;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04X}");
                }
            }
        }
    }
    out.push('"');
}

fn number(out: &mut String, n: &Number) {
    match n.as_f64() {
        Some(float) if n.is_f64() => out.push_str(&seventeen_digits(float)),
        _ => out.push_str(&n.to_string()),
    }
}

/// C's `%.17g`.
fn seventeen_digits(x: f64) -> String {
    let scientific = format!("{x:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |s: &str| match s.contains('.') {
        true => s.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => s.to_owned(),
    };
    if (-4..17).contains(&exponent) {
        let precision = (16 - exponent).max(0) as usize;
        trimmed(&format!("{x:.precision$}"))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
    }
}
