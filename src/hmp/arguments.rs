//! The arguments of HMP commands: each command describes what it takes, and a line is read
//! against that description.

use std::collections::HashMap;

use super::complete::{Completes, Names};
use super::expression::{Lookup, evaluate};
use super::state::LastFormat;
use crate::cli::opts::Opts;
use crate::cli::value;

/// Longest string argument, in bytes.
const MAX_STRING: usize = 1023;
/// Most words that [`words`] tells apart.
pub(super) const MAX_WORDS: usize = 16;

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `-f`.
    Flag(char),
    /// A word, or a quoted string with escapes.
    Text,
    /// All that is left of the line, as it stands.
    Rest,
    /// A word or string that names a file of the host.
    File,
    /// A word or string that names a block device.
    Block,
    /// `key=value,...` in one word or string; nothing at all is no argument.
    Options,
    /// `on` or `off`.
    Switch,
    /// An expression whose value fits 32 bits.
    Int,
    /// A 64-bit expression.
    Long,
    /// `.` and an expression whose value fits 32 bits, or nothing.
    Index,
    /// `/fmt`.
    Format,
}

impl Kind {
    /// What an error says of a word that is not there.
    fn expected(self) -> &'static str {
        match self {
            Self::File => "filename expected",
            Self::Block => "block device name expected",
            _ => "string expected",
        }
    }
}

/// One argument of a command.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    pub name: &'static str,
    pub kind: Kind,
    pub optional: bool,
    pub completes: Completes,
}

/// An argument that must be there (a flag never must).
pub const fn required(name: &'static str, kind: Kind) -> Argument {
    let completes = match kind {
        Kind::File => Completes::Files,
        Kind::Switch => Completes::Words(&["on", "off"]),
        _ => Completes::Nothing,
    };
    Argument { name, kind, optional: false, completes }
}

/// An argument that may be left out.
pub const fn optional(name: &'static str, kind: Kind) -> Argument {
    Argument { optional: true, ..required(name, kind) }
}

impl Argument {
    /// The argument is a word of what a table of names has.
    pub const fn among(self, names: Names) -> Self {
        Self { completes: Completes::Names(names), ..self }
    }

    /// The argument is a command line itself.
    pub const fn a_command(self) -> Self {
        Self { completes: Completes::CommandLine, ..self }
    }
}

/// White space as a line has it.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// The words and quoted strings of a line; `None` for one that cannot be read.
pub(super) fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start_matches(is_space);
    while !rest.is_empty() {
        if words.len() == MAX_WORDS {
            return None;
        }
        let (word, after) = string(rest)?;
        words.push(word);
        rest = after.trim_start_matches(is_space);
    }
    Some(words)
}

/// `/4xw`: how many, how shown, how wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// What is not positive shows nothing.
    pub count: i32,
    /// One of `o d u x i c`.
    pub letter: u8,
    /// Bytes an item; what `i` says of it means nothing.
    pub size: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Parsed {
    Flag,
    Text(String),
    Number(i64),
    Format(Format),
    Switch(bool),
}

/// The arguments of one line.
#[derive(Debug, Default)]
pub struct Arguments(HashMap<&'static str, Parsed>);

impl Arguments {
    /// Whether a flag was given.
    pub fn flag(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A string argument.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Parsed::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// An integer argument.
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(Parsed::Number(n)) => Some(*n),
            _ => None,
        }
    }

    /// A switch argument.
    pub fn switch(&self, name: &str) -> Option<bool> {
        match self.0.get(name) {
            Some(Parsed::Switch(on)) => Some(*on),
            _ => None,
        }
    }

    /// A format argument, which there always is: without one it is the last.
    pub fn format(&self, name: &str) -> Format {
        match self.0.get(name) {
            Some(Parsed::Format(format)) => *format,
            _ => LastFormat::default().format(),
        }
    }
}

/// Read `line` (what follows the command's name) against a description. The error is the text to
/// print. A `/fmt` becomes the default of later ones.
pub fn parse(
    command: &str,
    description: &[Argument],
    line: &str,
    last: &mut LastFormat,
    register: Lookup<'_>,
) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut rest = line.trim_start_matches(is_space);
    for (position, argument) in description.iter().enumerate() {
        let (parsed, after) = match argument.kind {
            Kind::Flag(letter) => flag(command, letter, &description[position + 1..], rest)?,
            _ if rest.is_empty() && argument.optional => (None, rest),
            Kind::Rest if rest.is_empty() => return Err(format!("{command}: string expected\n")),
            Kind::Rest => (Some(Parsed::Text(rest.to_owned())), ""),
            Kind::Options if rest.is_empty() => (None, rest),
            Kind::Switch => {
                let end = rest.find(|c: char| !c.is_ascii_graphic()).unwrap_or(rest.len());
                let on = match &rest[..end] {
                    "on" => true,
                    "off" => false,
                    _ => return Err("Expected 'on' or 'off'\n".into()),
                };
                (Some(Parsed::Switch(on)), &rest[end..])
            }
            Kind::Text | Kind::File | Kind::Block => {
                let Some((text, after)) = string(rest) else {
                    return Err(format!("{command}: {}\n", argument.kind.expected()));
                };
                (Some(Parsed::Text(text)), after)
            }
            Kind::Options => {
                let (text, after) = string(rest).ok_or_else(String::new)?;
                let mut options = Opts::parse(&text, Some("driver"));
                if options.take("id").is_some_and(|id| value::identifier(&id).is_err()) {
                    // QEMU does not say what is wrong, either.
                    return Err(String::new());
                }
                (Some(Parsed::Text(text)), after)
            }
            Kind::Index if !rest.starts_with('.') => (None, rest),
            Kind::Int | Kind::Long | Kind::Index => {
                let digits = if argument.kind == Kind::Index { &rest[1..] } else { rest };
                let (value, after) =
                    evaluate(digits, register).map_err(|error| format!("{error}\n"))?;
                if argument.kind != Kind::Long && value >> 32 != 0 {
                    let sentence = "integer is for 32-bit values";
                    return Err(format!("'{command}' has failed: {sentence}\n"));
                }
                (Some(Parsed::Number(value)), after)
            }
            Kind::Format => {
                let (format, after) = format(rest, last).map_err(|error| format!("{error}\n"))?;
                (Some(Parsed::Format(format)), after)
            }
        };
        if let Some(parsed) = parsed {
            arguments.0.insert(argument.name, parsed);
        }
        rest = after.trim_start_matches(is_space);
    }
    match rest.is_empty() {
        true => Ok(arguments),
        false => Err(format!("{command}: extraneous characters at the end of line\n")),
    }
}

/// A flag at its place, or nothing if there is another one there, which `later` has.
fn flag<'t>(
    command: &str,
    letter: char,
    later: &[Argument],
    text: &'t str,
) -> Result<(Option<Parsed>, &'t str), String> {
    let Some(option) = text.strip_prefix('-') else { return Ok((None, text)) };
    if let Some(after) = option.strip_prefix(letter) {
        return Ok((Some(Parsed::Flag), after));
    }
    let mut flags = later.iter().filter_map(|argument| match argument.kind {
        Kind::Flag(letter) => Some(letter),
        _ => None,
    });
    match option.chars().next() {
        // A lone dash is anything that starts with one.
        None if flags.next().is_some() => Ok((None, text)),
        None => Err(format!("{command}: unsupported option -")),
        Some(given) if flags.any(|letter| letter == given) => Ok((None, text)),
        Some(given) => Err(format!("{command}: unsupported option -{given}\n")),
    }
}

/// A word or a quoted string, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(is_space).unwrap_or(text.len());
        out.push_str(&text[..end]);
        return (end != 0).then(|| (clipped(out), &text[end..]));
    };
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some((clipped(out), chars.as_str())),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                c @ ('\\' | '\'' | '"') => out.push(c),
                _ => return None,
            },
            c => out.push(c),
        }
    }
}

fn clipped(mut text: String) -> String {
    let end = (0..=MAX_STRING.min(text.len())).rev().find(|&i| text.is_char_boundary(i));
    text.truncate(end.unwrap_or(0));
    text
}

fn format<'t>(text: &'t str, last: &mut LastFormat) -> Result<(Format, &'t str), String> {
    let Some(spec) = text.strip_prefix('/') else { return Ok((last.format(), text)) };
    let digits = spec.find(|c: char| !c.is_ascii_digit()).unwrap_or(spec.len());
    let count = match digits {
        0 => 1,
        _ => spec[..digits].bytes().fold(0i32, |count, digit| {
            count.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'))
        }),
    };
    let (mut letter, mut size) = (None, None);
    let mut rest = &spec[digits..];
    while let Some(c) = rest.bytes().next() {
        match c {
            b'o' | b'd' | b'u' | b'x' | b'i' | b'c' => letter = Some(c),
            b'b' => size = Some(1),
            b'h' => size = Some(2),
            b'w' => size = Some(4),
            b'g' | b'L' => size = Some(8),
            _ => break,
        }
        rest = &rest[1..];
    }
    if let Some(c) = rest.chars().next().filter(|c| !is_space(*c)) {
        return Err(format!("invalid char in format: '{c}'"));
    }
    last.letter = letter.unwrap_or(last.letter);
    if last.letter != b'i' {
        last.size = size.unwrap_or(last.size);
    }
    Ok((Format { count, ..last.format() }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_qemu_reads_them() {
        const REGISTERS: &[Argument] =
            &[required("all", Kind::Flag('a')), optional("vcpu", Kind::Int)];
        const SAVE: &[Argument] = &[
            required("val", Kind::Long),
            required("size", Kind::Int),
            required("file", Kind::Text),
        ];
        const DUMP: &[Argument] = &[required("fmt", Kind::Format), required("addr", Kind::Long)];
        for (name, description, line, expected) in [
            ("registers", REGISTERS, "", ""),
            ("registers", REGISTERS, "-a", "all=Flag"),
            ("registers", REGISTERS, "-x", "registers: unsupported option -x"),
            ("registers", REGISTERS, "3", "vcpu=Number(3)"),
            ("registers", REGISTERS, "1 -a", "invalid char 'a' in expression"),
            ("registers", REGISTERS, "1 1", "registers: extraneous characters at the end of line"),
            ("memsave", SAVE, "0 16 /tmp/x", "invalid char 't' in expression"),
            (
                "memsave",
                SAVE,
                r#"0 16 "a \"b" "#,
                r#"file=Text("a \"b") size=Number(16) val=Number(0)"#,
            ),
            ("memsave", SAVE, r#"0 16 "a"#, "memsave: string expected"),
            ("memsave", SAVE, r#"0 16 "\q"#, "memsave: string expected"),
            (
                "memsave",
                SAVE,
                "0 0x100000000 x",
                "'memsave' has failed: integer is for 32-bit values",
            ),
            ("memsave", SAVE, "1", "unexpected end of expression"),
            (
                "x",
                DUMP,
                "/3xb 7",
                "addr=Number(7) fmt=Format(Format { count: 3, letter: 120, size: 1 })",
            ),
            (
                "x",
                DUMP,
                "/i 7",
                "addr=Number(7) fmt=Format(Format { count: 1, letter: 105, size: 1 })",
            ),
            ("x", DUMP, "/y 7", "invalid char in format: 'y'"),
            (
                "x",
                DUMP,
                "/4294967295x 7",
                "addr=Number(7) fmt=Format(Format { count: -1, letter: 120, size: 1 })",
            ),
        ] {
            let mut last = LastFormat { size: 1, ..Default::default() };
            let found = match parse(name, description, line, &mut last, &|_| None) {
                Err(error) => error.trim_end().to_owned(),
                Ok(arguments) => {
                    let mut list: Vec<_> =
                        arguments.0.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
                    list.sort();
                    list.join(" ")
                }
            };
            assert_eq!(found, expected, "{name} {line}");
        }
    }
}
