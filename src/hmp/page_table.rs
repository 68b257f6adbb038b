//! Walks a hart's page tables for `info mem` and `info tlb` (Privileged spec 12.3-12.6).

use super::command::Call;
use crate::cpu::pte;
use crate::machine::message::{HartSnapshot, ReadMemory, Space};
use crate::qmp::error::QmpError;

const PAGE_SHIFT: u32 = 12;
const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Bits of a page number that one level translates.
const LEVEL_BITS: u32 = 9;
/// Entries in a table.
const ENTRIES: u64 = 1 << LEVEL_BITS;
/// Tables read before the walk gives up: a guest's tables may lead in circles.
const MAX_TABLES: usize = 16 << 10;
/// Mappings listed before the walk gives up, more than a listing has room for.
const MAX_MAPPINGS: usize = 64 << 10;

/// Any of them makes an entry a leaf.
const PTE_LEAF: u64 = pte::R | pte::W | pte::X;
const PTE_FLAGS: u64 = PTE_LEAF | pte::U | pte::G | pte::A | pte::D;
/// The physical page number in its place.
const PTE_PPN: u64 = pte::PPN_MASK << pte::PPN_SHIFT;

/// A run of virtual memory with equal flags, mapped to contiguous physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    pub vaddr: u64,
    pub paddr: u64,
    pub size: u64,
    /// The entry's R to D bits, where they stand in it.
    pub flags: u64,
}

impl Mapping {
    /// `rwxugad`, a dash for what is clear.
    pub(super) fn flags_text(&self) -> String {
        let letters = "rwxugad".chars().enumerate();
        letters.map(|(i, c)| if self.flags >> (i + 1) & 1 == 1 { c } else { '-' }).collect()
    }
}

/// What a walk found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// `satp` translates nothing.
    Bare,
    Mappings {
        list: Vec<Mapping>,
        /// Not all: the tables are too many, or lead in circles.
        truncated: bool,
    },
}

/// The levels of the mode in `satp`.
fn levels(satp: u64) -> Option<u32> {
    match satp >> 60 {
        8 => Some(3),
        9 => Some(4),
        10 => Some(5),
        _ => None,
    }
}

/// Walk the tables of `satp`. With `merge`, neighbours that continue each other become one.
pub(super) async fn walk(call: &Call, hart: &HartSnapshot, merge: bool) -> Result<Walk, QmpError> {
    let satp = hart.state.satp;
    let Some(levels) = levels(satp) else { return Ok(Walk::Bare) };
    let root = (satp & ((1 << 44) - 1)) << PAGE_SHIFT;
    let mut list: Vec<Mapping> = Vec::new();
    let mut tables = 0;
    // What is still to be looked at, in descending order of virtual address.
    let mut pending = vec![Pending::Table { addr: root, vaddr: 0, level: levels - 1 }];
    while let Some(next) = pending.pop() {
        let (table, base, level) = match next {
            Pending::Leaf(mapping) => {
                add(&mut list, mapping, merge);
                continue;
            }
            Pending::Table { addr, vaddr, level } => (addr, vaddr, level),
        };
        if tables == MAX_TABLES || list.len() >= MAX_MAPPINGS {
            return Ok(Walk::Mappings { list, truncated: true });
        }
        tables += 1;
        // A table outside memory maps nothing.
        let Some(entries) = read_table(call, table).await? else { continue };
        let shift = PAGE_SHIFT + LEVEL_BITS * level;
        for (index, entry) in entries.into_iter().enumerate().rev() {
            let vaddr = base | (index as u64) << shift;
            let paddr = (entry & PTE_PPN) << 2;
            if entry & pte::V == 0 {
                continue;
            }
            if entry & PTE_LEAF != 0 {
                let vaddr = canonical(vaddr, levels);
                let flags = entry & PTE_FLAGS;
                pending.push(Pending::Leaf(Mapping { vaddr, paddr, size: 1 << shift, flags }));
            } else if let Some(below) = level.checked_sub(1) {
                pending.push(Pending::Table { addr: paddr, vaddr, level: below });
            }
        }
    }
    Ok(Walk::Mappings { list, truncated: false })
}

enum Pending {
    Leaf(Mapping),
    Table {
        /// Physical address of the table.
        addr: u64,
        /// Virtual address that its first entry translates.
        vaddr: u64,
        level: u32,
    },
}

fn add(list: &mut Vec<Mapping>, next: Mapping, merge: bool) {
    match list.last_mut() {
        Some(last)
            if merge
                && last.flags == next.flags
                && last.vaddr.wrapping_add(last.size) == next.vaddr
                && last.paddr.wrapping_add(last.size) == next.paddr =>
        {
            last.size += next.size;
        }
        _ => list.push(next),
    }
}

/// Sign-extend from the highest translated bit.
fn canonical(vaddr: u64, levels: u32) -> u64 {
    let unused = 64 - (PAGE_SHIFT + LEVEL_BITS * levels);
    ((vaddr << unused) as i64 >> unused) as u64
}

async fn read_table(call: &Call, addr: u64) -> Result<Option<Vec<u64>>, QmpError> {
    let request = ReadMemory { cpu: call.state.cpu, addr, len: PAGE_SIZE, space: Space::Physical };
    match call.read(request).await? {
        Some(bytes) => {
            let (words, _) = bytes.as_chunks::<8>();
            Ok(Some(words.iter().take(ENTRIES as usize).map(|w| u64::from_le_bytes(*w)).collect()))
        }
        None => Ok(None),
    }
}
