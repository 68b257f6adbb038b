//! Random bytes for the guest: the host's, or, with `-seed`, those of a generator that gives the same
//! ones each time. It is QEMU's, a Mersenne twister for the machine and one for each hart, so that a
//! seed stands for the same device tree.

use std::sync::Arc;

use parking_lot::Mutex;
use rand_mt::Mt;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// A source of random bytes; clones of one are the same.
#[derive(Debug, Clone, Default)]
pub struct GuestRandom(Option<Arc<Mutex<Mt>>>);

/// The host has no random bytes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoneNow;

impl GuestRandom {
    /// The machine's, and one for each of its harts.
    pub fn of_machine(seed: Option<u64>, harts: usize) -> (Self, Vec<Self>) {
        let Some(seed) = seed else { return (Self(None), vec![Self(None); harts]) };
        let seeded = |seed: u64| Mt::new_with_key([seed as u32, (seed >> 32) as u32]);
        let mut machine = seeded(seed);
        let of_harts = (0..harts).map(|_| {
            let (low, high) = (machine.next_u32(), machine.next_u32());
            Self::over(seeded(u64::from(low) | u64::from(high) << 32))
        });
        let of_harts = of_harts.collect();
        (Self::over(machine), of_harts)
    }

    fn over(generator: Mt) -> Self {
        Self(Some(Arc::new(Mutex::new(generator))))
    }

    /// All of these bytes, at once or not at all.
    pub fn fill(&self, bytes: &mut [u8]) -> Result<(), NoneNow> {
        if let Some(generator) = &self.0 {
            let mut generator = generator.lock();
            for word in bytes.chunks_mut(4) {
                word.copy_from_slice(&generator.next_u32().to_le_bytes()[..word.len()]);
            }
            return Ok(());
        }
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match getrandom(rest, GetRandomFlags::NONBLOCK) {
                Ok(more) => filled += more,
                Err(Errno::INTR) => {}
                Err(_) => return Err(NoneNow),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_the_same_bytes() {
        let bytes = |random: &GuestRandom| {
            let mut bytes = [0; 7];
            random.fill(&mut bytes).unwrap();
            bytes
        };
        let drawn = |seed| {
            let (machine, harts) = GuestRandom::of_machine(seed, 2);
            [bytes(&machine), bytes(&machine), bytes(&harts[0]), bytes(&harts[1])]
        };
        assert_eq!(drawn(Some(5)), drawn(Some(5)));
        let mut all = [drawn(Some(5)), drawn(Some(5 << 32)), drawn(None), drawn(None)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 16);
    }
}
