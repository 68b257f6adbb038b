//! The values that option parameters take: switches, sizes, numbers, identifiers, UUIDs, dates.

use std::time::{Duration, SystemTime};

use super::OptionError;

/// `on` or `off` (and the words QEMU takes for them).
pub fn switch(name: &str, value: &str) -> Result<bool, OptionError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(OptionError::ExpectsOnOff { name: name.into() }),
    }
}

/// A number: decimal, hexadecimal with `0x`, octal with `0`; `-1` wraps as in C.
pub fn uint(text: &str) -> Option<u64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (16, hex),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// A parameter that is a number.
pub fn number(name: &str, value: &str) -> Result<u64, OptionError> {
    uint(value).ok_or_else(|| OptionError::ExpectsNumber { name: name.into() })
}

/// Bytes: a number, perhaps with a fraction, and a suffix B, k, M, G, T, P or E (powers of 1024).
/// `unit` is the factor of a number without a suffix.
pub fn size(name: &str, value: &str, unit: u64) -> Result<u64, OptionError> {
    let malformed = || OptionError::ExpectsSize { name: name.into() };
    let range = || OptionError::OutOfRange { name: name.into(), value: value.into() };
    let (digits, factor) = match value.char_indices().next_back() {
        Some((last, suffix)) if suffix.is_ascii_alphabetic() && !value.starts_with("0x") => {
            let shift = match suffix.to_ascii_uppercase() {
                'B' => 0,
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                'P' => 50,
                'E' => 60,
                _ => return Err(malformed()),
            };
            (&value[..last], 1_u64 << shift)
        }
        _ => (value, unit),
    };
    if digits.starts_with('-') && uint(digits).is_some() {
        return Err(range());
    }
    if let Some((whole, fraction)) = digits.split_once('.') {
        let decimal = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !decimal(whole) || !decimal(fraction) || factor == 1 {
            return Err(malformed());
        }
        let bytes = digits.parse::<f64>().map_err(|_| malformed())? * factor as f64;
        return if bytes < 18_446_744_073_709_551_616.0 { Ok(bytes as u64) } else { Err(range()) };
    }
    let plain = if digits.starts_with("0x") || digits.starts_with("0X") {
        uint(digits)
    } else if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    } else {
        digits.parse().ok()
    };
    plain.and_then(|n| n.checked_mul(factor)).ok_or_else(range)
}

/// An identifier: letters, digits, `-`, `.`, `_`, starting with a letter.
pub fn identifier(value: &str) -> Result<String, OptionError> {
    let mut chars = value.chars();
    let good = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if good { Ok(value.into()) } else { Err(OptionError::ExpectsIdentifier { name: "id".into() }) }
}

/// One of a list of words.
pub fn choice<T: Copy>(name: &str, value: &str, words: &[(&str, T)]) -> Result<T, OptionError> {
    words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let allowed: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        OptionError::NotAccepted {
            name: name.into(),
            value: value.into(),
            allowed: allowed.join(", "),
        }
    })
}

/// A UUID as 8-4-4-4-12 hexadecimal digits.
pub fn uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits = groups.concat();
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes())
}

/// The text that `uuid` reads, in lower case.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// `YYYY-MM-DD` or `YYYY-MM-DDTHH:MM:SS`, in UTC.
pub fn date(text: &str) -> Option<SystemTime> {
    let (day, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let fields = |text: &str, separator: char| -> Option<[i64; 3]> {
        let mut fields = [0; 3];
        let mut parts = text.split(separator);
        for field in &mut fields {
            let part = parts.next()?;
            if part.is_empty() || part.len() > 4 || !part.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            *field = part.parse().ok()?;
        }
        parts.next().is_none().then_some(fields)
    };
    let [year, month, day] = fields(day, '-')?;
    let [hour, minute, second] = fields(time, ':')?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 || year < 1 {
        return None;
    }
    let years = year - 1;
    let days_before_year = years * 365 + years / 4 - years / 100 + years / 400;
    let days_before_month: i64 = lengths.iter().take(month as usize - 1).sum();
    // Day 1 of year 1 is 719162 days before 1970-01-01.
    let days = days_before_year + days_before_month + day - 1 - 719_162;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expect) in [
            ("1", Ok(1 << 20)),
            ("1G", Ok(1 << 30)),
            ("1.5G", Ok(3 << 29)),
            ("262144k", Ok(256 << 20)),
            ("0x10", Ok(16 << 20)),
            ("4096b", Ok(4096)),
            ("16E", Err("Value '16E' is out of range for parameter 'size'")),
            ("-1", Err("Value '-1' is out of range for parameter 'size'")),
            ("1Z", Err("")),
            ("", Err("")),
            ("G", Err("")),
            ("1.5", Ok(3 << 19)),
            (".5G", Err("")),
        ] {
            match (size("size", text, 1 << 20), expect) {
                (Ok(bytes), expect) => assert_eq!(Ok(bytes), expect, "{text}"),
                (Err(error), Err("")) => assert!(
                    error
                        .to_string()
                        .starts_with("Parameter 'size' expects a non-negative number below 2^64"),
                    "{text}: {error}"
                ),
                (Err(error), expect) => assert_eq!(Err(error.to_string().as_str()), expect),
            }
        }
    }

    #[test]
    fn dates() {
        for (text, seconds) in [
            ("1970-01-01", Some(0)),
            ("2006-06-17T16:01:21", Some(1_150_560_081)),
            ("2000-02-29", Some(951_782_400)),
            ("2001-02-29", None),
            ("2001-13-01", None),
            ("2001-00-01", None),
            ("2001-01-01T24:00:00", None),
            ("now", None),
        ] {
            let expect =
                seconds.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(date(text), expect, "{text}");
        }
        assert_eq!(date("1969-12-31"), Some(SystemTime::UNIX_EPOCH - Duration::from_secs(86_400)));
    }

    #[test]
    fn numbers() {
        for (text, expect) in [
            ("0x1f", Some(31)),
            ("017", Some(15)),
            ("-1", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("0x", None),
            ("1x", None),
            ("++1", None),
            ("0", Some(0)),
        ] {
            assert_eq!(uint(text), expect, "{text}");
        }
    }
}
