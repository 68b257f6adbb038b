//! XBZRLE: of a page that was sent before, only what changed. The encoding is a list of runs, by
//! turns unchanged and changed, each with its length as ULEB128 (at most two bytes); bytes follow
//! that of a changed run, and a last unchanged run is left out.

use super::PAGE;

/// Append what turns `old` into `new`; false, with nothing appended, when that is longer than a
/// page. Equal pages give nothing.
pub fn encode(old: &[u8; PAGE], new: &[u8; PAGE], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut at = 0;
    while at < PAGE {
        let same = run(old, new, at, true);
        if at + same == PAGE {
            break;
        }
        let changed = run(old, new, at + same, false);
        put_length(out, same);
        put_length(out, changed);
        at += same;
        out.extend_from_slice(&new[at..at + changed]);
        at += changed;
        if out.len() - start > PAGE {
            out.truncate(start);
            return false;
        }
    }
    true
}

/// How many bytes from `at` on are equal, or are not.
fn run(old: &[u8; PAGE], new: &[u8; PAGE], at: usize, equal: bool) -> usize {
    let (old, new) = (&old[at..], &new[at..]);
    let mut length = 0;
    if equal {
        let words = old.chunks_exact(8).zip(new.chunks_exact(8));
        length = 8 * words.take_while(|(a, b)| a == b).count();
    }
    let rest = old[length..].iter().zip(&new[length..]);
    length + rest.take_while(|(a, b)| (a == b) == equal).count()
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    if length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        out.push((length >> 7) as u8);
    } else {
        out.push(length as u8);
    }
}

/// Apply `encoded` to `page`; `None` when it is no encoding of a page, of which then any part may
/// have been applied.
pub fn decode(mut encoded: &[u8], page: &mut [u8; PAGE]) -> Option<()> {
    let mut at = 0;
    let mut first = true;
    while !encoded.is_empty() {
        let same = take_length(&mut encoded)?;
        // Two changed runs that touch are one.
        if same == 0 && !first {
            return None;
        }
        first = false;
        at += same;
        let changed = take_length(&mut encoded)?;
        if changed == 0 {
            return None;
        }
        let (bytes, rest) = encoded.split_at_checked(changed)?;
        page.get_mut(at..at + changed)?.copy_from_slice(bytes);
        at += changed;
        encoded = rest;
    }
    Some(())
}

fn take_length(encoded: &mut &[u8]) -> Option<usize> {
    let (&low, rest) = encoded.split_first()?;
    *encoded = rest;
    if low & 0x80 == 0 {
        return Some(usize::from(low));
    }
    let (&high, rest) = encoded.split_first()?;
    *encoded = rest;
    (high & 0x80 == 0).then_some(usize::from(low & 0x7f) | usize::from(high) << 7)
}

/// Passes for which a page keeps its place against another.
const LIFETIME: u64 = 2;

/// The pages sent lately, as they were sent: direct-mapped by number.
#[derive(Debug)]
pub struct PageCache {
    slots: Vec<Option<Slot>>,
}

#[derive(Debug)]
struct Slot {
    page: u64,
    /// The pass in which it was last sent.
    age: u64,
    data: Box<[u8; PAGE]>,
}

impl PageCache {
    /// With room for `bytes` of pages, rounded down to a power of two, and for one at least.
    pub fn new(bytes: u64) -> Self {
        let pages = (bytes / PAGE as u64).max(1);
        let slots = 1usize << pages.ilog2();
        Self { slots: std::iter::repeat_with(|| None).take(slots).collect() }
    }

    /// Size in bytes when full.
    pub fn size(&self) -> u64 {
        (self.slots.len() * PAGE) as u64
    }

    /// Change the size; what no longer fits is forgotten.
    pub fn resize(&mut self, bytes: u64) {
        let old = std::mem::replace(self, Self::new(bytes));
        for slot in old.slots.into_iter().flatten() {
            let index = self.index(slot.page);
            self.slots[index] = Some(slot);
        }
    }

    fn index(&self, page: u64) -> usize {
        page as usize & (self.slots.len() - 1)
    }

    /// What was last sent of `page`, which counts as used in pass `age`.
    pub fn get(&mut self, page: u64, age: u64) -> Option<&mut [u8; PAGE]> {
        let index = self.index(page);
        let slot = self.slots[index].as_mut().filter(|slot| slot.page == page)?;
        slot.age = age;
        Some(&mut slot.data)
    }

    /// Remember what is sent of `page` in pass `age`, unless its place is taken by a page that was
    /// used lately.
    pub fn insert(&mut self, page: u64, data: &[u8; PAGE], age: u64) {
        let index = self.index(page);
        match &mut self.slots[index] {
            Some(slot) if slot.page != page && slot.age + LIFETIME > age => {}
            Some(slot) => {
                (slot.page, slot.age) = (page, age);
                slot.data.copy_from_slice(data);
            }
            empty => *empty = Some(Slot { page, age, data: Box::new(*data) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(old: &[u8; PAGE], new: &[u8; PAGE]) -> Option<Vec<u8>> {
        let mut out = b"x".to_vec();
        let fits = encode(old, new, &mut out);
        assert_eq!(out[0], b'x');
        fits.then(|| out.split_off(1))
    }

    #[test]
    fn known_encodings() {
        let zero = [0; PAGE];
        assert_eq!(encoded(&zero, &zero), Some(vec![]));
        let mut page = zero;
        page[0] = 9;
        assert_eq!(encoded(&zero, &page), Some(vec![0, 1, 9]));
        let mut page = zero;
        page[300..302].copy_from_slice(&[7, 8]);
        page[4095] = 1;
        // 300 = 0x2c + (2 << 7), 3793 = 0x51 + (29 << 7)
        assert_eq!(encoded(&zero, &page), Some(vec![0xac, 2, 2, 7, 8, 0xd1, 29, 1, 1]));
        assert_eq!(encoded(&zero, &[1; PAGE]), None);
        let every_other = std::array::from_fn(|i| (i % 2) as u8);
        assert_eq!(encoded(&zero, &every_other), None);
    }

    #[test]
    fn what_is_no_encoding_is_refused() {
        for bad in [
            &[0][..],
            &[0, 0],
            &[5, 2, 1],
            &[0, 1, 9, 0, 1, 9],
            &[0x80],
            &[0x80, 0x80, 1],
            &[0xff, 0x7f, 1, 1],
            &[0xff, 0x1f, 2, 1, 1],
        ] {
            assert_eq!(decode(bad, &mut [0; PAGE]), None, "{bad:x?}");
        }
        assert_eq!(decode(&[0xff, 0x1f, 1, 1], &mut [0; PAGE]), Some(()));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            changes in prop::collection::vec((0..PAGE, 1..200usize, any::<u8>()), 0..40),
        ) {
            let old: [u8; PAGE] = std::array::from_fn(|i| (i * 7) as u8);
            let mut new = old;
            for (at, len, value) in changes {
                new[at..(at + len).min(PAGE)].fill(value);
            }
            if let Some(bytes) = encoded(&old, &new) {
                let mut page = old;
                prop_assert_eq!(decode(&bytes, &mut page), Some(()));
                prop_assert!(page == new);
            }
        }

        #[test]
        fn hostile_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            decode(&bytes, &mut [0; PAGE]);
        }
    }

    #[test]
    fn a_page_used_lately_keeps_its_place() {
        let mut cache = PageCache::new(3 * PAGE as u64);
        assert_eq!(cache.size(), 2 * PAGE as u64);
        cache.insert(4, &[4; PAGE], 1);
        cache.insert(6, &[6; PAGE], 2);
        assert!(cache.get(6, 2).is_none());
        assert_eq!(cache.get(4, 2).map(|p| p[0]), Some(4));
        cache.insert(6, &[6; PAGE], 4);
        assert_eq!(cache.get(6, 4).map(|p| p[0]), Some(6));
        assert!(cache.get(4, 4).is_none());
        cache.insert(5, &[5; PAGE], 4);
        cache.resize(64 * PAGE as u64);
        assert!(cache.get(6, 5).is_some() && cache.get(5, 5).is_some());
        cache.resize(0);
        assert_eq!(cache.size(), PAGE as u64);
    }
}
