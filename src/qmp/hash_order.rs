//! The order in which GLib's `GHashTable` lists the strings it holds: where QEMU lists one, or takes
//! the first of it, that is the order that clients see. It follows from the strings and the order in
//! which they were put in and taken out.

/// The least number of buckets, as a power of two.
const LEAST_SHIFT: u32 = 3;

/// The largest prime below each power of two, which hashes are taken modulo.
const PRIMES: [u32; 17] =
    [1, 2, 3, 7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521];

/// What a bucket has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bucket {
    Unused,
    /// It had a string.
    Left,
    Taken(String),
}

/// A table without values. Beyond 65,536 strings the order is no longer GLib's.
#[derive(Debug, Clone)]
pub struct HashOrder {
    buckets: Vec<Bucket>,
    shift: u32,
    /// Strings.
    count: usize,
    /// Strings, and buckets that had one.
    occupied: usize,
}

impl Default for HashOrder {
    fn default() -> Self {
        let buckets = vec![Bucket::Unused; 1 << LEAST_SHIFT];
        Self { buckets, shift: LEAST_SHIFT, count: 0, occupied: 0 }
    }
}

/// GLib's hash of a string.
fn hash(text: &str) -> u32 {
    let step = |hash: u32, byte: u8| hash.wrapping_mul(33).wrapping_add(byte as i8 as u32);
    match text.bytes().fold(5381, step) {
        // These two say that a bucket is unused or left.
        0 | 1 => 2,
        hash => hash,
    }
}

impl HashOrder {
    /// Put a string in that is not there.
    pub fn insert(&mut self, text: &str) {
        let (bucket, found) = self.find(text);
        if found {
            return;
        }
        self.occupied += usize::from(self.buckets[bucket] == Bucket::Unused);
        self.buckets[bucket] = Bucket::Taken(text.to_owned());
        self.count += 1;
        self.fit();
    }

    /// Take a string out.
    pub fn remove(&mut self, text: &str) {
        let (bucket, found) = self.find(text);
        if found {
            self.buckets[bucket] = Bucket::Left;
            self.count -= 1;
            self.fit();
        }
    }

    /// The strings, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.buckets.iter().filter_map(|bucket| match bucket {
            Bucket::Taken(text) => Some(text.as_str()),
            Bucket::Unused | Bucket::Left => None,
        })
    }

    /// The bucket where a probe for this begins.
    fn first(&self, text: &str) -> usize {
        let prime = PRIMES[(self.shift as usize).min(PRIMES.len() - 1)];
        (hash(text).wrapping_mul(11) % prime) as usize
    }

    /// The next bucket of a probe that has gone on `step` times.
    fn next(&self, bucket: usize, step: usize) -> usize {
        (bucket + step) & (self.buckets.len() - 1)
    }

    /// The bucket that has a string, or the one that it would be put into.
    fn find(&self, text: &str) -> (usize, bool) {
        let (mut bucket, mut step, mut left) = (self.first(text), 0, None);
        loop {
            match &self.buckets[bucket] {
                Bucket::Unused => return (left.unwrap_or(bucket), false),
                Bucket::Taken(other) if other == text => return (bucket, true),
                Bucket::Left => left = left.or(Some(bucket)),
                Bucket::Taken(_) => {}
            }
            step += 1;
            bucket = self.next(bucket, step);
        }
    }

    /// Grow or shrink with what is there, so that there is always an unused bucket.
    fn fit(&mut self) {
        let size = self.buckets.len();
        let sparse = size > self.count * 4 && size > 1 << LEAST_SHIFT;
        if !sparse && size > self.occupied + self.occupied / 16 {
            return;
        }
        let wanted = (self.count as f64 * 1.333) as usize;
        self.shift = (usize::BITS - wanted.leading_zeros()).max(LEAST_SHIFT);
        self.buckets.resize(size.max(1 << self.shift), Bucket::Unused);
        // Each goes where a probe leads among those that have gone already, and what was there
        // before goes next.
        let mut settled = vec![false; self.buckets.len()];
        let mask = (1 << self.shift) - 1;
        for at in 0..size {
            if settled[at] {
                continue;
            }
            let mut moving = std::mem::replace(&mut self.buckets[at], Bucket::Unused);
            while let Bucket::Taken(text) = &moving {
                let (mut bucket, mut step) = (self.first(text), 0);
                while settled[bucket] {
                    step += 1;
                    bucket = (bucket + step) & mask;
                }
                settled[bucket] = true;
                moving = std::mem::replace(&mut self.buckets[bucket], moving);
            }
        }
        self.buckets.truncate(1 << self.shift);
        self.occupied = self.count;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn listed(order: &HashOrder) -> Vec<&str> {
        order.iter().collect()
    }

    /// Which of several unexpected arguments QEMU names.
    #[test]
    fn the_first_is_the_one_that_qemu_names() {
        for (names, first) in [
            (["type", "a"].as_slice(), "type"),
            (&["fdname", "size", "foo"], "fdname"),
            (&["long-key-name", "id", "b"], "b"),
            (&["", "id"], "id"),
            (&["a", "b"], "b"),
            (&["device", "reboot"], "reboot"),
        ] {
            let mut order = HashOrder::default();
            names.iter().for_each(|name| order.insert(name));
            assert_eq!(listed(&order)[0], first, "{names:?}");
        }
    }

    #[test]
    fn strings_come_and_go() {
        let mut order = HashOrder::default();
        let mut all = BTreeSet::new();
        for n in 0..2000_u32 {
            let name = format!("n{}", n.wrapping_mul(2_654_435_761) % 701);
            match n % 3 {
                0 if all.remove(&name) => order.remove(&name),
                _ => {
                    order.insert(&name);
                    all.insert(name);
                }
            }
            let mut listed = listed(&order);
            listed.sort_unstable();
            assert!(listed.iter().eq(all.iter()), "after {n}");
        }
        for name in &all {
            order.remove(name);
        }
        assert_eq!((listed(&order).len(), order.buckets.len()), (0, 1 << LEAST_SHIFT));
    }
}
