//! Intel HEX files, for `-device loader`.

/// Runs of bytes by address, and the entry (0 when the file has none).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HexImage {
    pub(super) entry: u64,
    pub(super) runs: Vec<(u64, Vec<u8>)>,
}

/// Parse a file; `None` when it is not Intel HEX from the first to the last line (QEMU then takes
/// the file for raw bytes).
pub(super) fn parse(bytes: &[u8]) -> Option<HexImage> {
    let mut image = HexImage::default();
    // What the last address record added to the 16 bits in a data record.
    let mut base = 0u64;
    for line in std::str::from_utf8(bytes).ok()?.lines().map(str::trim) {
        if line.is_empty() {
            continue;
        }
        let record = decode(line.strip_prefix(':')?)?;
        let [count, high, low, kind, rest @ ..] = record.as_slice() else { return None };
        let (_checksum, data) = rest.split_last()?;
        let sum = record.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if sum != 0 || data.len() != usize::from(*count) {
            return None;
        }
        let number = data.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        match (kind, data.len()) {
            (0, _) => {
                append(&mut image.runs, base + u64::from(u16::from_be_bytes([*high, *low])), data)
            }
            (1, 0) => return Some(image),
            (2, 2) => base = number << 4,
            (4, 2) => base = number << 16,
            // CS:IP and a linear address.
            (3, 4) => image.entry = ((number >> 16) << 4) + (number & 0xffff),
            (5, 4) => image.entry = number,
            _ => return None,
        }
    }
    None
}

fn decode(digits: &str) -> Option<Vec<u8>> {
    let nibble = |c: &u8| char::from(*c).to_digit(16).map(|d| d as u8);
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(nibble(high)? << 4 | nibble(low)?),
            _ => None,
        })
        .collect()
}

fn append(runs: &mut Vec<(u64, Vec<u8>)>, addr: u64, data: &[u8]) {
    if let Some((start, bytes)) = runs.last_mut()
        && *start + bytes.len() as u64 == addr
    {
        bytes.extend(data);
    } else if !data.is_empty() {
        runs.push((addr, data.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_runs() {
        let file = ":020000048000 7A\n:0400000001020304F2\n:0200040005 06EF\r\n:01100000AA45\n\
                    :0400000580000004 73\n:00000001FF\n"
            .replace(' ', "");
        let image = parse(file.as_bytes()).unwrap();
        let runs = vec![(0x8000_0000, vec![1, 2, 3, 4, 5, 6]), (0x8000_1000, vec![0xaa])];
        assert_eq!(image, HexImage { entry: 0x8000_0004, runs });
        // Cut anywhere before the end record, or with any digit changed, it is not HEX.
        let end = file.rfind(":00000001").unwrap();
        for cut in 0..end + 10 {
            assert_eq!(parse(&file.as_bytes()[..cut]), None, "cut at {cut}");
        }
        for (at, _) in file.char_indices().filter(|(_, c)| c.is_ascii_digit()) {
            let mut broken = file.clone().into_bytes();
            broken[at] = if broken[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(parse(&broken), None, "digit at {at}");
        }
    }
}
