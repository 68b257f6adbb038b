//! The language of qtest: one command a line, words separated by single spaces, numbers as C's
//! `strtoull` with base 0 takes them.

/// Most bytes that one command moves; QEMU ends when it cannot allocate what is asked for.
pub const MOST_BYTES: u64 = 64 << 20;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `readb|w|l|q ADDR`; `width` in bytes.
    Load {
        addr: u64,
        width: u8,
    },
    /// `writeb|w|l|q ADDR VALUE`.
    Store {
        addr: u64,
        width: u8,
        value: u64,
    },
    /// `read ADDR SIZE`, or `b64read`.
    Read {
        addr: u64,
        len: u64,
        encoding: Encoding,
    },
    /// `write ADDR SIZE DATA`, or `b64write`.
    Write {
        addr: u64,
        data: Vec<u8>,
    },
    /// `memset ADDR SIZE VALUE`.
    Fill {
        addr: u64,
        len: u64,
        byte: u8,
    },
    /// `inb|w|l PORT`; `width` in bytes.
    PortRead {
        width: u8,
    },
    /// `outb|w|l PORT VALUE`.
    PortWrite,
    Endianness,
    /// `clock_step [NS]`: by so many nanoseconds, or to the next deadline.
    ClockStep(Option<i64>),
    /// `clock_set NS`.
    ClockSet(i64),
    /// `irq_intercept_in PATH`.
    InterceptIn {
        path: String,
        named: bool,
    },
    /// `irq_intercept_out PATH [NAME]`.
    InterceptOut {
        path: String,
        name: Option<String>,
    },
    /// `set_irq_in PATH NAME NUMBER LEVEL`; no name stands for the unnamed inputs.
    SetIrqIn {
        path: String,
        name: Option<String>,
        number: i32,
        level: bool,
    },
    /// `csr get_csr|set_csr HART CSR VALUE`.
    Csr {
        write: bool,
        hart: u64,
        csr: i32,
        value: u64,
    },
    /// `module_load PREFIX NAME`.
    ModuleLoad,
}

/// How bytes are written in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Hex,
    Base64,
}

/// Why a line is not a command. The first two are QEMU's answers; where QEMU aborts, ours says
/// which argument is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("FAIL Unknown command '{0}'")]
    Unknown(String),
    #[error("ERR invalid argument size")]
    Size,
    #[error("ERR {command}: argument {index} is missing")]
    Missing { command: String, index: usize },
    #[error("ERR {command}: '{text}' is not a number in range")]
    Number { command: String, text: String },
}

impl Command {
    /// Parse the words of a line; `clock` says whether the clock can be stepped.
    pub fn parse(words: &[&str], clock: bool) -> Result<Self, Malformed> {
        let arguments = Arguments { words };
        let name = words.first().copied().unwrap_or_default();
        let width = |prefix: &str, widths: &[(&str, u8)]| {
            let suffix = name.strip_prefix(prefix)?;
            widths.iter().find(|(letter, _)| *letter == suffix).map(|(_, width)| *width)
        };
        const MEMORY: &[(&str, u8)] = &[("b", 1), ("w", 2), ("l", 4), ("q", 8)];
        const PORT: &[(&str, u8)] = &[("b", 1), ("w", 2), ("l", 4)];
        if let Some(width) = width("read", MEMORY) {
            return Ok(Self::Load { addr: arguments.number(1)?, width });
        }
        if let Some(width) = width("write", MEMORY) {
            return Ok(Self::Store {
                addr: arguments.number(1)?,
                width,
                value: arguments.number(2)?,
            });
        }
        if let Some(width) = width("in", PORT) {
            arguments.port(1)?;
            return Ok(Self::PortRead { width });
        }
        if width("out", PORT).is_some() {
            arguments.port(1)?;
            arguments.number(2)?;
            return Ok(Self::PortWrite);
        }
        match name {
            "read" | "b64read" => {
                let (addr, len) = (arguments.number(1)?, arguments.number(2)?);
                let encoding = if name == "read" { Encoding::Hex } else { Encoding::Base64 };
                // QEMU has no answer for an empty hexadecimal number.
                if len > MOST_BYTES || len == 0 && encoding == Encoding::Hex {
                    return Err(Malformed::Size);
                }
                Ok(Self::Read { addr, len, encoding })
            }
            "write" | "b64write" => {
                let (addr, len) = (arguments.number(1)?, arguments.number(2)?);
                let text = arguments.word(3)?;
                if text.len() < 3 || len > MOST_BYTES {
                    return Err(Malformed::Size);
                }
                let len = len as usize;
                let data = match name {
                    "write" => from_hex(text, len),
                    _ => from_base64(text, len),
                };
                Ok(Self::Write { addr, data })
            }
            "memset" => Ok(Self::Fill {
                addr: arguments.number(1)?,
                len: arguments.number(2)?,
                byte: arguments.number(3)? as u8,
            }),
            "endianness" => Ok(Self::Endianness),
            "clock_step" if clock => {
                let step = words.get(1).map(|_| arguments.signed(1)).transpose()?;
                Ok(Self::ClockStep(step))
            }
            "clock_set" if clock => Ok(Self::ClockSet(arguments.signed(1)?)),
            "irq_intercept_in" => Ok(Self::InterceptIn {
                path: arguments.word(1)?.to_owned(),
                named: words.len() > 2,
            }),
            "irq_intercept_out" => Ok(Self::InterceptOut {
                path: arguments.word(1)?.to_owned(),
                name: words.get(2).map(|name| (*name).to_owned()),
            }),
            "set_irq_in" => {
                let name = arguments.word(2)?;
                Ok(Self::SetIrqIn {
                    path: arguments.word(1)?.to_owned(),
                    name: (name != "unnamed-gpio-in").then(|| name.to_owned()),
                    number: arguments.int(3)?,
                    level: arguments.int(4)? != 0,
                })
            }
            "csr" => Ok(Self::Csr {
                write: match arguments.word(1)? {
                    "get_csr" => false,
                    "set_csr" => true,
                    other => {
                        let command = format!("csr {other}");
                        return Err(Malformed::Unknown(command));
                    }
                },
                hart: arguments.number(2)?,
                csr: arguments.int(3)?,
                value: arguments.number(4)?,
            }),
            "module_load" => {
                arguments.word(2)?;
                Ok(Self::ModuleLoad)
            }
            _ => Err(Malformed::Unknown(name.to_owned())),
        }
    }
}

/// The words of a line; index 0 is the command.
struct Arguments<'a> {
    words: &'a [&'a str],
}

impl<'a> Arguments<'a> {
    fn command(&self) -> String {
        self.words.first().copied().unwrap_or_default().to_owned()
    }

    fn word(&self, index: usize) -> Result<&'a str, Malformed> {
        let missing = || Malformed::Missing { command: self.command(), index };
        self.words.get(index).copied().ok_or_else(missing)
    }

    fn bad(&self, index: usize) -> Malformed {
        let text = self.words.get(index).copied().unwrap_or_default().to_owned();
        Malformed::Number { command: self.command(), text }
    }

    /// An unsigned number of 64 bits; a negative one wraps, as in C.
    fn number(&self, index: usize) -> Result<u64, Malformed> {
        let (negative, magnitude) = magnitude(self.word(index)?).ok_or_else(|| self.bad(index))?;
        Ok(if negative { magnitude.wrapping_neg() } else { magnitude })
    }

    fn signed(&self, index: usize) -> Result<i64, Malformed> {
        let (negative, magnitude) = magnitude(self.word(index)?).ok_or_else(|| self.bad(index))?;
        let value = if negative {
            0_i64.checked_sub_unsigned(magnitude)
        } else {
            magnitude.try_into().ok()
        };
        value.ok_or_else(|| self.bad(index))
    }

    fn int(&self, index: usize) -> Result<i32, Malformed> {
        self.signed(index)?.try_into().map_err(|_| self.bad(index))
    }

    fn port(&self, index: usize) -> Result<(), Malformed> {
        if self.number(index)? <= 0xffff { Ok(()) } else { Err(self.bad(index)) }
    }
}

/// Sign and magnitude of a number in C's notation: `0x` hexadecimal, `0` octal, or decimal.
fn magnitude(text: &str) -> Option<(bool, u64)> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    // `from_str_radix` would take a second sign.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    Some((negative, u64::from_str_radix(digits, radix).ok()?))
}

/// Bytes after the `0x`, filled up with zeroes; a character that is no digit counts as QEMU has it.
fn from_hex(text: &str, len: usize) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).map_or(0xff, |digit| digit as u8);
    let digits = text.as_bytes().get(2..).unwrap_or_default();
    let mut data: Vec<u8> = digits
        .chunks_exact(2)
        .take(len)
        .map(|pair| match pair {
            [high, low] => digit(*high) << 4 | digit(*low),
            _ => 0,
        })
        .collect();
    data.resize(len, 0);
    data
}

/// `0x` and the bytes.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// At most `len` bytes. Characters outside the alphabet are skipped and an unfinished group is
/// dropped, as by GLib, which QEMU decodes with.
fn from_base64(text: &str, len: usize) -> Vec<u8> {
    let mut data = Vec::new();
    let (mut group, mut count, mut padding) = (0_u32, 0, 0);
    for byte in text.bytes() {
        let sextet = match byte {
            b'=' => {
                padding += 1;
                0
            }
            _ => match ALPHABET.iter().position(|letter| *letter == byte) {
                Some(sextet) => sextet as u32,
                None => continue,
            },
        };
        group = group << 6 | sextet;
        count += 1;
        if count == 4 {
            let keep = 3_usize.saturating_sub(padding);
            data.extend(group.to_be_bytes().iter().skip(1).take(keep));
            (group, count, padding) = (0, 0, 0);
        }
    }
    data.truncate(len);
    data
}

/// Base64 with padding (RFC 4648).
pub fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for index in 0..4 {
            if index <= chunk.len() {
                let sextet = group >> (18 - 6 * index) & 63;
                text.push(ALPHABET[sextet as usize] as char);
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let words: Vec<_> = line.split(' ').collect();
        Command::parse(&words, true).map_err(|malformed| malformed.to_string())
    }

    #[test]
    fn commands_and_their_numbers() {
        let load = |addr, width| Ok(Command::Load { addr, width });
        let write = |data: &[u8]| Ok(Command::Write { addr: 0, data: data.to_vec() });
        let cases = [
            ("readb 0x10", load(16, 1)),
            ("readw 010", load(8, 2)),
            ("readl 10", load(10, 4)),
            ("readq -1", load(u64::MAX, 8)),
            (
                "writeq 0X20 0xffffffffffffffff",
                Ok(Command::Store { addr: 32, width: 8, value: u64::MAX }),
            ),
            ("memset 0 8 0xabc", Ok(Command::Fill { addr: 0, len: 8, byte: 0xbc })),
            ("write 0 4 0x12", write(&[0x12, 0, 0, 0])),
            ("write 0 4 zzQQGG12", write(&[0xff, 0xff, 0x12, 0])),
            ("write 0 1 0xabcd", write(&[0xab])),
            ("b64write 0 5 aGVsbG8=", write(b"hello")),
            ("b64write 0 4 aGVsbG8=", write(b"hell")),
            ("b64write 0 9 a-GV*s", write(b"hel")),
            ("b64write 0 9 aGVsbG", write(b"hel")),
            ("b64write 0 1 aA==", write(b"h")),
            ("inw 0x3f8", Ok(Command::PortRead { width: 2 })),
            ("outl 1 2", Ok(Command::PortWrite)),
            ("clock_step", Ok(Command::ClockStep(None))),
            ("clock_step -5", Ok(Command::ClockStep(Some(-5)))),
            ("clock_set 0x10", Ok(Command::ClockSet(16))),
            (
                "set_irq_in /machine/plic unnamed-gpio-in 3 1",
                Ok(Command::SetIrqIn {
                    path: "/machine/plic".into(),
                    name: None,
                    number: 3,
                    level: true,
                }),
            ),
            (
                "csr set_csr 0x0 848 0xff",
                Ok(Command::Csr { write: true, hart: 0, csr: 848, value: 255 }),
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_answered_in_words() {
        let cases = [
            ("", "FAIL Unknown command ''"),
            ("reads 0", "FAIL Unknown command 'reads'"),
            ("inq 0", "FAIL Unknown command 'inq'"),
            ("csr nosuch 0 0 0", "FAIL Unknown command 'csr nosuch'"),
            ("write 0 4 12", "ERR invalid argument size"),
            ("b64write 0 1 aA", "ERR invalid argument size"),
            ("read 0 0", "ERR invalid argument size"),
            ("read 0 0xffffffffffffffff", "ERR invalid argument size"),
            ("write 0 0xffffffffffffffff 0x12", "ERR invalid argument size"),
            ("readl", "ERR readl: argument 1 is missing"),
            ("readl 08", "ERR readl: '08' is not a number in range"),
            ("readl 0x", "ERR readl: '0x' is not a number in range"),
            ("readl 0x+1", "ERR readl: '0x+1' is not a number in range"),
            (
                "readl 18446744073709551616",
                "ERR readl: '18446744073709551616' is not a number in range",
            ),
            (
                "clock_set 9223372036854775808",
                "ERR clock_set: '9223372036854775808' is not a number in range",
            ),
            ("inb 0x10000", "ERR inb: '0x10000' is not a number in range"),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), Err(expected.to_owned()), "{line}");
        }
        let without_clock = Command::parse(&["clock_step", "1"], false).unwrap_err();
        assert_eq!(without_clock.to_string(), "FAIL Unknown command 'clock_step'");
    }

    #[test]
    fn encodings_of_bytes() {
        assert_eq!(to_hex(&[0, 0xab]), "0x00ab");
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (&[255; 4], "/////w=="),
        ] {
            assert_eq!(to_base64(bytes), text);
            assert_eq!(from_base64(text, bytes.len()), bytes);
        }
    }
}
