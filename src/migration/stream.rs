//! The outer layer of the migration stream: header, sections, commands, as QEMU 10.0 writes them
//! (its format version 3). Numbers are big-endian.
//!
//! Writing appends to a byte vector; reading takes from an `Input`, which blocks its thread and
//! trusts nothing that it reads.

use std::io::{self, Read};

use thiserror::Error;

/// First word of a stream: `QEVM`.
pub const MAGIC: u32 = 0x5145_564d;
/// The format's version.
pub const VERSION: u32 = 3;
/// What a version-2 stream says of itself.
pub const VERSION_OBSOLETE: u32 = 2;

/// The byte that a record of the stream begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Record {
    Eof = 0x00,
    SectionStart = 0x01,
    SectionPart = 0x02,
    SectionEnd = 0x03,
    SectionFull = 0x04,
    Subsection = 0x05,
    VmDescription = 0x06,
    Configuration = 0x07,
    Command = 0x08,
    SectionFooter = 0x7e,
}

impl Record {
    const ALL: [Self; 10] = [
        Self::Eof,
        Self::SectionStart,
        Self::SectionPart,
        Self::SectionEnd,
        Self::SectionFull,
        Self::Subsection,
        Self::VmDescription,
        Self::Configuration,
        Self::Command,
        Self::SectionFooter,
    ];

    /// The record that `byte` begins, if there is one.
    pub fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&record| record as u8 == byte)
    }
}

/// Commands from the source to the destination inside the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum StreamCommand {
    OpenReturnPath = 1,
    Ping = 2,
    PostcopyAdvise = 3,
    PostcopyListen = 4,
    PostcopyRun = 5,
    PostcopyRamDiscard = 6,
    Packaged = 7,
    EnableColo = 8,
    PostcopyResume = 9,
    RecvBitmap = 10,
    SwitchoverStart = 11,
}

impl StreamCommand {
    const ALL: [Self; 11] = [
        Self::OpenReturnPath,
        Self::Ping,
        Self::PostcopyAdvise,
        Self::PostcopyListen,
        Self::PostcopyRun,
        Self::PostcopyRamDiscard,
        Self::Packaged,
        Self::EnableColo,
        Self::PostcopyResume,
        Self::RecvBitmap,
        Self::SwitchoverStart,
    ];

    /// The command of this number.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|&command| command as u16 == number)
    }
}

/// The errno that QEMU gives a failed load; it ends `load of migration failed: …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadKind {
    /// EINVAL
    Invalid,
    /// EIO
    Io,
    /// ENOTSUP
    Unsupported,
    /// ENOENT
    NotFound,
    /// ENOMEM
    NoMemory,
}

impl LoadKind {
    /// What `strerror` says.
    pub fn words(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid argument",
            Self::Io => "Input/output error",
            Self::Unsupported => "Operation not supported",
            Self::NotFound => "No such file or directory",
            Self::NoMemory => "Cannot allocate memory",
        }
    }
}

/// Why a stream cannot be loaded: QEMU's word for it, and the cause as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{cause}")]
pub struct LoadError {
    pub kind: LoadKind,
    pub cause: String,
}

impl LoadError {
    pub fn invalid(cause: impl Into<String>) -> Self {
        Self { kind: LoadKind::Invalid, cause: cause.into() }
    }

    pub fn io(cause: impl Into<String>) -> Self {
        Self { kind: LoadKind::Io, cause: cause.into() }
    }

    pub fn unsupported(cause: impl Into<String>) -> Self {
        Self { kind: LoadKind::Unsupported, cause: cause.into() }
    }

    /// Say where it happened; the cause stays first.
    pub fn within(mut self, place: impl std::fmt::Display) -> Self {
        self.cause = format!("{} ({place})", self.cause);
        self
    }
}

/// Append the header.
pub fn put_header(out: &mut Vec<u8>) {
    out.extend(MAGIC.to_be_bytes());
    out.extend(VERSION.to_be_bytes());
}

/// Append the head of a section that is sent in one piece (`Record::SectionFull`) or of the first
/// piece of one that is not (`Record::SectionStart`).
pub fn put_section_head(
    out: &mut Vec<u8>,
    record: Record,
    id: u32,
    name: &str,
    instance: u32,
    version: u32,
) {
    out.push(record as u8);
    out.extend(id.to_be_bytes());
    put_name(out, name);
    out.extend(instance.to_be_bytes());
    out.extend(version.to_be_bytes());
}

/// Append the head of a later piece (`SectionPart`, `SectionEnd`).
pub fn put_piece_head(out: &mut Vec<u8>, record: Record, id: u32) {
    out.push(record as u8);
    out.extend(id.to_be_bytes());
}

/// Append what ends every section and piece.
pub fn put_footer(out: &mut Vec<u8>, id: u32) {
    out.push(Record::SectionFooter as u8);
    out.extend(id.to_be_bytes());
}

/// Append a command; `payload` is at most 64 KiB - 1.
pub fn put_command(out: &mut Vec<u8>, command: StreamCommand, payload: &[u8]) {
    debug_assert!(payload.len() <= usize::from(u16::MAX));
    out.push(Record::Command as u8);
    out.extend((command as u16).to_be_bytes());
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend(payload);
}

/// Append a string with its length in a byte before it.
pub fn put_name(out: &mut Vec<u8>, name: &str) {
    debug_assert!(name.len() <= usize::from(u8::MAX));
    out.push(name.len() as u8);
    out.extend(name.as_bytes());
}

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;
/// Longest section whose length is not known before it has been parsed.
const SECTION_MAX: usize = 8 << 20;

/// An `Input` from anywhere.
pub type StreamInput = Input<Box<dyn Read + Send>>;

/// The reading end of a stream.
pub struct Input<R> {
    from: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    position: u64,
}

impl<R> std::fmt::Debug for Input<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Input at {}", self.position)
    }
}

impl<R: Read> Input<R> {
    pub fn new(from: R) -> Self {
        Self { from, buffer: vec![0; BUFFER].into(), start: 0, end: 0, position: 0 }
    }

    /// Bytes taken so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whoever gives the bytes; what is buffered here is not there any more.
    pub fn source_mut(&mut self) -> &mut R {
        &mut self.from
    }

    /// The next `length` bytes; at most 64 KiB at a time.
    pub fn take(&mut self, length: usize) -> Result<&[u8], LoadError> {
        debug_assert!(length <= 64 << 10);
        while self.end - self.start < length {
            self.more()?;
        }
        let taken = self.start..self.start + length;
        self.start += length;
        self.position += length as u64;
        Ok(&self.buffer[taken])
    }

    /// What has been read and not taken yet.
    pub fn ahead(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Have at least one byte more ahead.
    pub fn more(&mut self) -> Result<(), LoadError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            if self.end >= SECTION_MAX {
                return Err(LoadError::invalid(format!(
                    "a section of more than {SECTION_MAX} bytes"
                )));
            }
            let mut larger = vec![0; self.end * 2];
            larger[..self.end].copy_from_slice(&self.buffer);
            self.buffer = larger.into();
        }
        loop {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    let at = self.position + (self.end - self.start) as u64;
                    return Err(LoadError::io(format!("the stream ends after {at} bytes")));
                }
                Ok(more) => {
                    self.end += more;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LoadError::io(error.to_string())),
            }
        }
    }

    /// Fill `out`, of any length.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<(), LoadError> {
        for piece in out.chunks_mut(64 << 10) {
            piece.copy_from_slice(self.take(piece.len())?);
        }
        Ok(())
    }

    /// Pass over `length` bytes.
    pub fn skip(&mut self, mut length: u64) -> Result<(), LoadError> {
        while length > 0 {
            let step = length.min(64 << 10);
            self.take(step as usize)?;
            length -= step;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub fn u8(&mut self) -> Result<u8, LoadError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, LoadError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, LoadError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, LoadError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A string with its length in a byte before it. What is not UTF-8 is replaced: a name that is
    /// not one of ours is only ever printed.
    pub fn name(&mut self) -> Result<String, LoadError> {
        let length = usize::from(self.u8()?);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// The record that comes next.
    pub fn record(&mut self) -> Result<Record, LoadError> {
        let byte = self.u8()?;
        let unknown = || LoadError::invalid(format!("Unknown savevm section type {byte}"));
        Record::of(byte).ok_or_else(unknown)
    }

    /// The header, which has to be there and of our version.
    pub fn header(&mut self) -> Result<(), LoadError> {
        let magic = match self.u32() {
            Ok(magic) => magic,
            Err(error) => return Err(error.within("no stream header")),
        };
        if magic != MAGIC {
            return Err(LoadError::invalid("Not a migration stream"));
        }
        match self.u32() {
            Ok(VERSION) => Ok(()),
            Ok(VERSION_OBSOLETE) => {
                Err(LoadError::unsupported("SaveVM v2 format is obsolete and don't work anymore"))
            }
            Ok(version) => Err(LoadError::unsupported(format!(
                "Unsupported migration stream version {version}"
            ))),
            Err(error) => Err(error.within("in the stream header")),
        }
    }

    /// What ends the section `id` called `name`.
    pub fn footer(&mut self, id: u32, name: &str) -> Result<(), LoadError> {
        let record = self.u8().map_err(|error| error.within(format!("footer of {name}")))?;
        if record != Record::SectionFooter as u8 {
            return Err(LoadError::invalid(format!("Missing section footer for {name}")));
        }
        let found = self.u32()?;
        if found != id {
            return Err(LoadError::invalid(format!(
                "Mismatched section id in footer for {name} - read 0x{found:x} expected 0x{id:x}"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that gives a byte at a time, so that every boundary is crossed.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            out[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        put_header(&mut out);
        put_section_head(&mut out, Record::SectionFull, 7, "timer", 0, 2);
        out.extend(9u64.to_be_bytes());
        put_footer(&mut out, 7);
        put_command(&mut out, StreamCommand::Ping, &1u32.to_be_bytes());
        let mut input = Input::new(Drip(&out));
        input.header().unwrap();
        assert_eq!(input.record(), Ok(Record::SectionFull));
        assert_eq!((input.u32(), input.name().as_deref()), (Ok(7), Ok("timer")));
        assert_eq!((input.u32(), input.u32(), input.u64()), (Ok(0), Ok(2), Ok(9)));
        input.footer(7, "timer").unwrap();
        assert_eq!(input.record(), Ok(Record::Command));
        assert_eq!(input.u16().map(StreamCommand::of), Ok(Some(StreamCommand::Ping)));
        assert_eq!((input.u16(), input.u32()), (Ok(4), Ok(1)));
        assert_eq!(input.position(), out.len() as u64);
        assert_eq!(input.u8().unwrap_err().kind, LoadKind::Io);
    }

    #[test]
    fn a_header_that_is_none_is_refused_in_words() {
        let refused = |bytes: &[u8]| Input::new(bytes).header().unwrap_err().to_string();
        assert_eq!(refused(b"QEMM\0\0\0\x03"), "Not a migration stream");
        assert!(refused(b"QEVM\0\0\0\x02").starts_with("SaveVM v2 format is obsolete"));
        assert_eq!(refused(b"QEVM\0\0\0\x09"), "Unsupported migration stream version 9");
        assert_eq!(refused(b"QE"), "the stream ends after 2 bytes (no stream header)");
    }

    #[test]
    fn a_footer_has_to_be_that_of_its_section() {
        let refused = |bytes: &[u8]| Input::new(bytes).footer(3, "ram").unwrap_err().to_string();
        assert_eq!(refused(&[0x7e, 0, 0, 0]), "the stream ends after 4 bytes");
        assert_eq!(refused(&[4, 0, 0, 0, 3]), "Missing section footer for ram");
        assert_eq!(
            refused(&[0x7e, 0, 0, 0, 4]),
            "Mismatched section id in footer for ram - read 0x4 expected 0x3"
        );
    }
}
