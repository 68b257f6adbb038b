//! Fields of a page-table entry of Sv39, Sv48 and Sv57 (Privileged spec 12.4.1).

pub const V: u64 = 1 << 0;
pub const R: u64 = 1 << 1;
pub const W: u64 = 1 << 2;
pub const X: u64 = 1 << 3;
pub const U: u64 = 1 << 4;
pub const G: u64 = 1 << 5;
pub const A: u64 = 1 << 6;
pub const D: u64 = 1 << 7;
/// Position of the physical page number.
pub const PPN_SHIFT: u32 = 10;
/// The physical page number, shifted down.
pub const PPN_MASK: u64 = (1 << 44) - 1;
pub const RESERVED: u64 = 0x7f << 54;
/// Position of the memory type (Svpbmt).
pub const PBMT_SHIFT: u32 = 61;
/// Part of a naturally aligned range (Svnapot).
pub const N: u64 = 1 << 63;

/// An entry for the physical page that holds `address`.
pub const fn entry(address: u64, flags: u64) -> u64 {
    address >> 12 << PPN_SHIFT | flags
}
