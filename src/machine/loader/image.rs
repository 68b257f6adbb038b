//! The file formats that can be loaded: ELF, U-Boot's legacy image, Linux's `Image`, each perhaps
//! gzipped, Intel HEX, and raw bytes. Only looks at bytes; where they go is `super`'s business.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use super::hex::{self, HexImage};

/// Why a file is not what it should be. The text ends QEMU's message.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the file is empty")]
    Empty,
    #[error("it has more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("broken gzip data: {0}")]
    Gzip(std::io::Error),
    #[error("broken ELF file: {0}")]
    Elf(#[from] object::Error),
    #[error("broken ELF file: segment {0} has more bytes in the file than in memory")]
    ElfSegment(usize),
    #[error("the ELF file has nothing to load")]
    ElfEmpty,
    #[error("the ELF file is not for little-endian 64-bit RISC-V")]
    ElfMachine,
    #[error(
        "the U-Boot image is of type {kind} with compression {compression}; \
             kernels and standalone programs, plain or gzipped, can be loaded"
    )]
    UImage { kind: u8, compression: u8 },
    #[error("the U-Boot image is cut off")]
    UImageShort,
}

/// The whole of a file of at most `limit` bytes (also when the file is a device or a pipe).
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ImageError> {
    bounded(&mut File::open(path)?, limit, ImageError::Io)
}

fn bounded(
    from: &mut dyn Read,
    limit: u64,
    error: fn(std::io::Error) -> ImageError,
) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > limit {
        return Err(ImageError::TooLarge { limit });
    }
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    Ok(bytes)
}

/// A piece of an ELF file: `bytes` at physical address `addr`, then zeroes up to `mem_size`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) index: usize,
    pub(super) addr: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) mem_size: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ElfImage {
    pub(super) entry: u64,
    /// Not empty.
    pub(super) segments: Vec<Segment>,
}

impl ElfImage {
    /// Lowest physical address.
    pub(super) fn low(&self) -> u64 {
        self.segments.iter().map(|s| s.addr).min().unwrap_or(0)
    }

    /// Move a position-independent program that is linked to address 0 to `base`.
    fn relocate(&mut self, base: u64) {
        self.entry = self.entry.wrapping_add(base);
        for segment in &mut self.segments {
            segment.addr = segment.addr.wrapping_add(base);
        }
    }
}

/// What bytes turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Image {
    Elf(ElfImage),
    /// U-Boot's legacy image: data for `load`, started at `entry`.
    UBoot {
        load: u64,
        entry: u64,
        bytes: Vec<u8>,
    },
    /// `mem_size` is at least the number of bytes: what Linux's header says it needs with bss.
    Raw {
        bytes: Vec<u8>,
        mem_size: u64,
    },
    /// Only for `-device loader`.
    Hex(HexImage),
}

/// Which ELF files are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElfPolicy {
    /// RV64 only. A position-independent one that is linked to 0 goes to this base: that is how
    /// OpenSBI's ELF files are linked.
    Riscv64 { pie_base: u64 },
    /// Any machine: `-device loader` only moves bytes.
    Any,
}

/// Find out what `bytes` are. Decompresses to at most `limit` bytes.
pub(super) fn recognise(
    bytes: Vec<u8>,
    policy: ElfPolicy,
    limit: u64,
) -> Result<Image, ImageError> {
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) { gunzip(&bytes, limit)? } else { bytes };
    if bytes.starts_with(b"\x7fELF") {
        return parse_elf(&bytes, policy).map(Image::Elf);
    }
    if bytes.starts_with(&UIMAGE_MAGIC) {
        return parse_uimage(&bytes, limit);
    }
    if policy == ElfPolicy::Any
        && let Some(image) = hex::parse(&bytes)
    {
        return Ok(Image::Hex(image));
    }
    let mem_size = linux_image_size(&bytes).unwrap_or(0).max(bytes.len() as u64);
    Ok(Image::Raw { bytes, mem_size })
}

fn gunzip(bytes: &[u8], limit: u64) -> Result<Vec<u8>, ImageError> {
    bounded(&mut flate2::read::GzDecoder::new(bytes), limit, ImageError::Gzip)
}

/// `image_size` of Linux's RISC-V boot image header (Documentation/arch/riscv/boot-image-header).
fn linux_image_size(bytes: &[u8]) -> Option<u64> {
    let magic2 = bytes.get(0x38..0x3c)?;
    let size = bytes.get(0x10..0x18)?.try_into().ok()?;
    (magic2 == b"RSC\x05").then_some(u64::from_le_bytes(size))
}

fn parse_elf(bytes: &[u8], policy: ElfPolicy) -> Result<ElfImage, ImageError> {
    // e_ident[EI_CLASS]
    match bytes.get(4) {
        Some(&class) if class == elf::ELFCLASS64.0 => {
            segments::<FileHeader64<Endianness>>(bytes, policy)
        }
        _ => segments::<FileHeader32<Endianness>>(bytes, policy),
    }
}

fn segments<H: FileHeader<Endian = Endianness>>(
    bytes: &[u8],
    policy: ElfPolicy,
) -> Result<ElfImage, ImageError> {
    let header = H::parse(bytes)?;
    let endian = header.endian()?;
    if policy != ElfPolicy::Any
        && (!header.is_class_64()
            || endian != Endianness::Little
            || header.e_machine(endian) != elf::EM_RISCV)
    {
        return Err(ImageError::ElfMachine);
    }
    let mut image = ElfImage { entry: header.e_entry(endian).into(), segments: Vec::new() };
    for (index, program) in header.program_headers(endian, bytes)?.iter().enumerate() {
        let mem_size: u64 = program.p_memsz(endian).into();
        if program.p_type(endian) != elf::PT_LOAD || mem_size == 0 {
            continue;
        }
        let data = program.data(endian, bytes).map_err(|()| ImageError::ElfSegment(index))?;
        if data.len() as u64 > mem_size {
            return Err(ImageError::ElfSegment(index));
        }
        // The entry is a virtual address; the harts start without translation.
        let (vaddr, paddr): (u64, u64) =
            (program.p_vaddr(endian).into(), program.p_paddr(endian).into());
        let entry: u64 = header.e_entry(endian).into();
        if vaddr != paddr && entry >= vaddr && entry - vaddr < data.len() as u64 {
            image.entry = paddr.wrapping_add(entry - vaddr);
        }
        image.segments.push(Segment { index, addr: paddr, bytes: data.to_vec(), mem_size });
    }
    if image.segments.is_empty() {
        return Err(ImageError::ElfEmpty);
    }
    if let ElfPolicy::Riscv64 { pie_base } = policy
        && header.e_type(endian) == elf::ET_DYN
        && image.low() == 0
    {
        image.relocate(pie_base);
    }
    Ok(image)
}

const UIMAGE_MAGIC: [u8; 4] = [0x27, 0x05, 0x19, 0x56];
const UIMAGE_HEADER: usize = 64;
const UIMAGE_STANDALONE: u8 = 1;
const UIMAGE_KERNEL: u8 = 2;
const UIMAGE_RAMDISK: u8 = 3;
const UIMAGE_PLAIN: u8 = 0;
const UIMAGE_GZIP: u8 = 1;

/// Size, load address, entry, type and compression of a U-Boot header, big-endian at fixed places
/// (U-Boot `include/image.h`).
fn uimage_header(bytes: &[u8]) -> Result<(usize, u64, u64, u8, u8), ImageError> {
    let header = bytes.get(..UIMAGE_HEADER).ok_or(ImageError::UImageShort)?;
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    Ok((word(12) as usize, word(16).into(), word(20).into(), header[30], header[31]))
}

fn uimage_data(bytes: &[u8], size: usize) -> Result<&[u8], ImageError> {
    bytes[UIMAGE_HEADER..].get(..size).ok_or(ImageError::UImageShort)
}

fn parse_uimage(bytes: &[u8], limit: u64) -> Result<Image, ImageError> {
    let (size, load, entry, kind, compression) = uimage_header(bytes)?;
    let data = uimage_data(bytes, size)?;
    let bytes = match (kind, compression) {
        (UIMAGE_STANDALONE | UIMAGE_KERNEL, UIMAGE_PLAIN) => data.to_vec(),
        (UIMAGE_STANDALONE | UIMAGE_KERNEL, UIMAGE_GZIP) => gunzip(data, limit)?,
        _ => return Err(ImageError::UImage { kind, compression }),
    };
    Ok(Image::UBoot { load, entry, bytes })
}

/// The ramdisk in a U-Boot image; any other bytes are one themselves.
pub(super) fn ramdisk(bytes: Vec<u8>) -> Result<Vec<u8>, ImageError> {
    if !bytes.starts_with(&UIMAGE_MAGIC) {
        return Ok(bytes);
    }
    match uimage_header(&bytes)? {
        (size, _, _, UIMAGE_RAMDISK, _) => Ok(uimage_data(&bytes, size)?.to_vec()),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    const POLICY: ElfPolicy = ElfPolicy::Riscv64 { pie_base: 0x8000_0000 };

    /// A little-endian ELF64 with these (vaddr, paddr, bytes, memsz) segments.
    pub(in super::super) fn elf64(
        kind: u16,
        machine: u16,
        entry: u64,
        parts: &[(u64, u64, &[u8], u64)],
    ) -> Vec<u8> {
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(16, 0);
        out.extend(kind.to_le_bytes());
        out.extend(machine.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        for word in [entry, 64, 0] {
            out.extend(word.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        for half in [64u16, 56, parts.len() as u16, 64, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        let mut at = 64 + 56 * parts.len() as u64;
        for (vaddr, paddr, bytes, memsz) in parts {
            out.extend(1u32.to_le_bytes());
            out.extend(5u32.to_le_bytes());
            for word in [at, *vaddr, *paddr, bytes.len() as u64, *memsz, 4] {
                out.extend(word.to_le_bytes());
            }
            at += bytes.len() as u64;
        }
        parts.iter().for_each(|part| out.extend(part.2));
        out
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn uimage(kind: u8, compression: u8, data: &[u8]) -> Vec<u8> {
        let mut out = UIMAGE_MAGIC.to_vec();
        out.resize(64, 0);
        out[12..16].copy_from_slice(&(data.len() as u32).to_be_bytes());
        out[16..20].copy_from_slice(&0x8020_0000u32.to_be_bytes());
        out[20..24].copy_from_slice(&0x8020_0004u32.to_be_bytes());
        (out[30], out[31]) = (kind, compression);
        out.extend(data);
        out
    }

    #[test]
    fn formats_are_recognised_plain_and_gzipped() {
        let mut linux = vec![7; 0x40];
        linux[0x10..0x18].copy_from_slice(&0x1234u64.to_le_bytes());
        linux[0x38..0x3c].copy_from_slice(b"RSC\x05");
        let elf = elf64(2, 243, 0xffff_0004, &[(0xffff_0000, 0x8020_0000, b"codecode", 32)]);
        let raw = |bytes: &[u8], mem_size| Image::Raw { bytes: bytes.to_vec(), mem_size };
        let segment =
            Segment { index: 0, addr: 0x8020_0000, bytes: b"codecode".to_vec(), mem_size: 32 };
        let loaded = Image::Elf(ElfImage { entry: 0x8020_0004, segments: vec![segment] });
        for (bytes, want) in [
            (b"plain".to_vec(), raw(b"plain", 5)),
            (linux.clone(), raw(&linux, 0x1234)),
            (elf, loaded),
        ] {
            assert_eq!(recognise(gzip(&bytes), POLICY, 1 << 20).unwrap(), want);
            assert_eq!(recognise(bytes, POLICY, 1 << 20).unwrap(), want);
        }
        let uboot = Image::UBoot { load: 0x8020_0000, entry: 0x8020_0004, bytes: b"xy".to_vec() };
        assert_eq!(recognise(uimage(2, 0, b"xy"), POLICY, 99).unwrap(), uboot);
        assert_eq!(recognise(uimage(2, 1, &gzip(b"xy")), POLICY, 99).unwrap(), uboot);
        assert_eq!(ramdisk(uimage(3, 0, b"disk")).unwrap(), b"disk");
    }

    #[test]
    fn position_independent_programs_go_to_the_base() {
        let bytes = elf64(3, 243, 8, &[(0, 0, b"12345678", 8), (0x40, 0x40, b"x", 1)]);
        let Image::Elf(image) = recognise(bytes, POLICY, 99).unwrap() else { panic!("not ELF") };
        assert_eq!((image.entry, image.low()), (0x8000_0008, 0x8000_0000));
        assert_eq!(image.segments[1].addr, 0x8000_0040);
    }

    #[test]
    fn hostile_files_are_errors() {
        let zeroes = gzip(&vec![0; 1 << 20]);
        let elf = elf64(2, 243, 0, &[(0, 0, b"code", 4)]);
        let x86 = elf64(2, 62, 0, &[(0, 0, b"code", 4)]);
        assert!(recognise(x86.clone(), ElfPolicy::Any, 99).is_ok());
        let mut outside = elf.clone();
        outside[64 + 8..64 + 16].copy_from_slice(&u64::MAX.to_le_bytes());
        for (bytes, text) in [
            (zeroes, "it has more than 100 bytes"),
            (vec![0x1f, 0x8b, 8, 0], "broken gzip data: "),
            (x86, "the ELF file is not for little-endian 64-bit RISC-V"),
            (elf64(2, 243, 0, &[]), "the ELF file has nothing to load"),
            (elf64(2, 243, 0, &[(0, 0, b"code", 3)]), "segment 0 has more bytes"),
            (outside, "segment 0 has more bytes"),
            (elf[..70].to_vec(), "broken ELF file: "),
            (b"\x7fELF".to_vec(), "broken ELF file: "),
            (uimage(9, 0, b""), "type 9 with compression 0"),
            (uimage(2, 0, b"xyz")[..66].to_vec(), "cut off"),
            (UIMAGE_MAGIC.to_vec(), "cut off"),
        ] {
            let error = recognise(bytes, POLICY, 100).unwrap_err().to_string();
            assert!(error.contains(text), "{error} / {text}");
        }
        assert!(matches!(
            read(Path::new("/dev/zero"), 10),
            Err(ImageError::TooLarge { limit: 10 })
        ));
        assert!(matches!(read(Path::new("/dev/null"), 10), Err(ImageError::Empty)));
    }
}
