//! Instructions decoded before. What an encoding means on a hart never changes, so an entry is
//! found by the bits alone and none is ever wrong: code that is rewritten has other bits.

use super::decode;
use crate::cpu::insn::Insn;
use crate::cpu::isa::IsaConfig;

/// Slots; all of a busy loop's encodings fit, and the slots into the host's L1 or L2.
const SLOTS: usize = 2048;

/// A direct-mapped cache from encodings to instructions, of one hart.
#[derive(Debug)]
pub struct DecodeCache {
    slots: Box<[Insn; SLOTS]>,
}

impl DecodeCache {
    /// A cache for a hart with the extensions of `isa`.
    pub fn new(isa: &IsaConfig) -> Self {
        Self { slots: Box::new([decode(0, isa); SLOTS]) }
    }

    /// `decode(raw, isa)`, where `isa` is the one that the cache was made for.
    #[inline]
    pub fn decode(&mut self, raw: u32, isa: &IsaConfig) -> Insn {
        // Most bits of an encoding are register numbers, opcode and function: all of them count.
        let slot = &mut self.slots[(raw.wrapping_mul(0x9e37_79b9) >> 21) as usize % SLOTS];
        if slot.raw != raw {
            *slot = decode(raw, isa);
        }
        *slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::insn::Op;

    #[test]
    fn every_encoding_is_decoded_as_without_the_cache() {
        let isa = IsaConfig::max();
        let mut cache = DecodeCache::new(&isa);
        let mut raw = 1u32;
        for round in 0..3 {
            for _ in 0..20_000 {
                raw = raw.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
                let fetched = if raw & 3 == 3 { raw } else { raw & 0xffff };
                assert_eq!(cache.decode(fetched, &isa), decode(fetched, &isa), "{fetched:#x}");
                assert_eq!(cache.decode(fetched, &isa), decode(fetched, &isa), "{fetched:#x}");
            }
            assert_eq!(cache.decode(0, &isa).op, Op::Illegal, "round {round}");
        }
    }
}
