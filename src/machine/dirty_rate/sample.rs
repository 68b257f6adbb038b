//! Pages here and there, and what they held.

use crate::machine::memory::{GuestRam, PAGE_SIZE, RamError};

/// Checksums of some pages.
#[derive(Debug)]
pub(super) struct Sample {
    /// Address and checksum.
    pages: Vec<(u64, u32)>,
}

fn checksum(ram: &GuestRam, addr: u64) -> Result<u32, RamError> {
    let mut page = [0; PAGE_SIZE as usize];
    ram.read(addr, &mut page)?;
    Ok(crc32fast::hash(&page))
}

/// A sequence of numbers without a pattern that a guest's memory could have (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn new() -> Self {
        let mut seed = [0; 8];
        // Without a seed they are the same each time, which measures as well.
        let _ = rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty());
        Self(u64::from_le_bytes(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Sample {
    /// `count` pages, or one.
    pub(super) fn new(ram: &GuestRam, count: u64) -> Self {
        let all = ram.size() / PAGE_SIZE;
        let mut numbers = Numbers::new();
        let pages = (0..count.clamp(1, all)).filter_map(|_| {
            let addr = ram.base() + numbers.next() % all * PAGE_SIZE;
            Some((addr, checksum(ram, addr).ok()?))
        });
        Self { pages: pages.collect() }
    }

    /// How many pages of all RAM were written since, if these are like the others.
    pub(super) fn written(&self, ram: &GuestRam) -> u64 {
        let changed =
            |&&(addr, before): &&(u64, u32)| checksum(ram, addr).is_ok_and(|now| now != before);
        let changed = self.pages.iter().filter(changed).count() as u64;
        let all = ram.size() / PAGE_SIZE;
        (all * changed).checked_div(self.pages.len() as u64).unwrap_or(0)
    }
}
