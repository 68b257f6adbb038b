//! Base64 (RFC 4648, section 4) as commands carry bytes in it.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text of `bytes`, padded.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The bytes of a padded text; `None` where it is not one.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let groups = text.as_bytes().chunks(4);
    let last = groups.len().checked_sub(1);
    for (i, group) in groups.enumerate() {
        let digits = group.iter().take_while(|digit| **digit != b'=').count();
        let padded = group.len() == 4 && group[digits..].iter().all(|digit| *digit == b'=');
        if !padded || digits < 2 || digits < 4 && Some(i) != last {
            return None;
        }
        let mut word = 0;
        for digit in &group[..digits] {
            let value = ALPHABET.iter().position(|known| known == digit)?;
            word = word << 6 | value as u32;
        }
        word <<= 6 * (4 - digits);
        bytes.extend(&word.to_be_bytes()[1..digits]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_there_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 0..=bytes.len() {
            assert_eq!(decode(&encode(&bytes[..len])).as_deref(), Some(&bytes[..len]));
        }
        assert_eq!(encode(b"foob"), "Zm9vYg==");
        for bad in ["Zg", "Zg=", "Z===", "Zg==Zg==", "Zm9v=", "Z*9v", "===="] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
