//! A bit a page: what remains to be sent, what has arrived, what a file holds.

use std::ops::Range;

/// Bits of the pages of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageBitmap {
    words: Vec<u64>,
    pages: u64,
    ones: u64,
}

impl PageBitmap {
    /// For `pages` pages, all clear.
    pub fn new(pages: u64) -> Self {
        Self { words: vec![0; pages.div_ceil(64) as usize], pages, ones: 0 }
    }

    /// For `pages` pages, all set.
    pub fn full(pages: u64) -> Self {
        let mut bitmap = Self::new(pages);
        bitmap.set_range(0..pages);
        bitmap
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many are set.
    pub fn ones(&self) -> u64 {
        self.ones
    }

    /// Whether `page` is set; one that does not exist is not.
    pub fn get(&self, page: u64) -> bool {
        let word = self.words.get((page / 64) as usize);
        word.is_some_and(|w| w >> (page % 64) & 1 != 0)
    }

    /// Set or clear `page`; what it was. One that does not exist stays clear.
    pub fn put(&mut self, page: u64, on: bool) -> bool {
        if page >= self.pages {
            return false;
        }
        let Some(word) = self.words.get_mut((page / 64) as usize) else { return false };
        let bit = 1 << (page % 64);
        let old = *word & bit != 0;
        match (old, on) {
            (false, true) => self.ones += 1,
            (true, false) => self.ones -= 1,
            _ => {}
        }
        *word = if on { *word | bit } else { *word & !bit };
        old
    }

    /// Set all of `range` that exists; how many were clear.
    pub fn set_range(&mut self, range: Range<u64>) -> u64 {
        let end = range.end.min(self.pages);
        let (mut page, mut fresh) = (range.start, 0);
        while page < end {
            let count = (64 - page % 64).min(end - page);
            let bits = (u64::MAX >> (64 - count)) << (page % 64);
            if let Some(word) = self.words.get_mut((page / 64) as usize) {
                fresh += u64::from((bits & !*word).count_ones());
                *word |= bits;
            }
            page += count;
        }
        self.ones += fresh;
        fresh
    }

    /// The first set page at or after `from`.
    pub fn next(&self, from: u64) -> Option<u64> {
        let first = (from / 64) as usize;
        let word = self.words.get(first)? & (u64::MAX << (from % 64));
        if word != 0 {
            return Some(first as u64 * 64 + u64::from(word.trailing_zeros()));
        }
        let rest = self.words.get(first + 1..)?;
        let i = rest.iter().position(|&w| w != 0)?;
        Some((first + 1 + i) as u64 * 64 + u64::from(rest[i].trailing_zeros()))
    }

    /// The run of set pages that `from` begins.
    pub fn run(&self, from: u64) -> Range<u64> {
        let mut end = from;
        while self.get(end) {
            let word = self.words[(end / 64) as usize] >> (end % 64);
            end += u64::from(word.trailing_ones());
        }
        from..end
    }

    /// As bytes, the first page in the lowest bit, padded to whole 64-bit words.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// From the bytes of `to_bytes` for `pages` pages; bits beyond are dropped, missing are clear.
    pub fn from_bytes(bytes: &[u8], pages: u64) -> Self {
        let mut bitmap = Self::new(pages);
        for (word, bytes) in bitmap.words.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(whole);
        }
        if let (Some(last), true) = (bitmap.words.last_mut(), !pages.is_multiple_of(64)) {
            *last &= u64::MAX >> (64 - pages % 64);
        }
        bitmap.ones = bitmap.words.iter().map(|w| u64::from(w.count_ones())).sum();
        bitmap
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_pages(
            pages in 1..300u64,
            steps in prop::collection::vec((0..320u64, 0..140u64, any::<bool>()), 0..20),
        ) {
            let mut bitmap = PageBitmap::new(pages);
            let mut model = std::collections::BTreeSet::new();
            for (at, len, single) in steps {
                if single {
                    let on = len % 2 == 0;
                    prop_assert_eq!(bitmap.put(at, on), model.contains(&at));
                    if on && at < pages { model.insert(at); } else { model.remove(&at); }
                } else {
                    let before = model.len();
                    model.extend((at..at + len).filter(|&p| p < pages));
                    let fresh = bitmap.set_range(at..at + len);
                    prop_assert_eq!(fresh, (model.len() - before) as u64);
                }
                prop_assert_eq!(bitmap.ones(), model.len() as u64);
            }
            let next = |from| model.range(from..).next().copied();
            for page in 0..pages + 70 {
                prop_assert_eq!(bitmap.next(page), next(page));
                prop_assert_eq!(bitmap.get(page), model.contains(&page));
                let end = (page..).find(|p| !model.contains(p)).unwrap();
                prop_assert_eq!(bitmap.run(page), page..end);
            }
            let bytes = bitmap.to_bytes();
            prop_assert_eq!(bytes.len() % 8, 0);
            prop_assert_eq!(&PageBitmap::from_bytes(&bytes, pages), &bitmap);
            let mut longer = bytes.clone();
            longer.extend([0xff; 9]);
            prop_assert_eq!(PageBitmap::from_bytes(&longer, pages), bitmap);
        }
    }
}
