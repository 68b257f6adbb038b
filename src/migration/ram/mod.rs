//! Guest memory in the migration stream: the section `ram`, version 4, as QEMU 10.0 writes it.
//!
//! Memory is a list of blocks. A section begins with that list (`saver::RamSaver::setup`); every
//! later piece is a list of pages, each a 64-bit word of offset and flags, the block's name unless
//! it is the block of the page before, and the page's content in one of several ways. Everything
//! here is plain code over byte vectors and readers: who moves the bytes is not its concern.

pub mod bitmap;
pub mod block;
pub mod device;
pub mod loader;
pub mod machine;
pub mod mapped;
pub mod multifd;
pub mod saver;
pub mod xbzrle;

#[cfg(test)]
mod tests;

/// Bytes in a page of the stream.
pub const PAGE: usize = 4096;
/// Version of the section.
pub const VERSION: u32 = 4;
/// Name of the section.
pub const NAME: &str = "ram";

/// The flags in the low bits of a page's offset.
pub mod flag {
    /// A page of zeroes; a byte follows, zero.
    pub const ZERO: u64 = 0x02;
    /// The list of blocks; the offset is the sum of their sizes.
    pub const MEM_SIZE: u64 = 0x04;
    /// A page as it is.
    pub const PAGE: u64 = 0x08;
    /// The end of this piece of the section.
    pub const EOS: u64 = 0x10;
    /// The block is that of the page before.
    pub const CONTINUE: u64 = 0x20;
    /// What changed in a page.
    pub const XBZRLE: u64 = 0x40;
    /// Only RDMA uses it.
    pub const HOOK: u64 = 0x80;
    /// All channels of a multifd migration are to be waited for.
    pub const MULTIFD_FLUSH: u64 = 0x200;
}
