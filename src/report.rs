//! Diagnostics: lines on standard error as QEMU's are, `[time] [guest] program: sentence`.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::machine::spec::MachineSpec;

/// What each line starts with.
#[derive(Debug, Default)]
struct Prefix {
    program: String,
    /// `-msg timestamp=on`
    timestamp: bool,
    /// `-msg guest-name=on`, if the guest has a name.
    guest: Option<String>,
}

static PREFIX: OnceLock<Prefix> = OnceLock::new();

/// Start lines from now on as the command line wants it; a second machine in one process (tests)
/// keeps the first one's prefix.
pub fn configure(spec: &MachineSpec) {
    let guest = spec.name.clone().filter(|_| spec.messages.guest_name);
    let timestamp = spec.messages.timestamp;
    let _ = PREFIX.set(Prefix { program: spec.program.clone(), timestamp, guest });
}

/// A line before there is a command line to go by.
pub fn early(program: &str, line: &str) {
    write(&Prefix { program: program.to_owned(), ..Prefix::default() }, line);
}

/// An error and its causes, as one sentence. A cause that the error in front of it has quoted is
/// not said again, and the operating system's errors are words only.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = unnumbered(&cause.to_string());
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A text without the numbers that Rust adds to the operating system's errors.
fn unnumbered(text: &str) -> String {
    let mut words = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (os error ") {
        words.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    words + rest
}

/// Write a line. That nobody can see it is not reported.
pub fn line(line: &str) {
    write(PREFIX.get_or_init(Prefix::default), line);
}

fn write(prefix: &Prefix, line: &str) {
    let text = render(prefix, SystemTime::now(), line);
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn render(prefix: &Prefix, now: SystemTime, line: &str) -> String {
    let mut text = String::new();
    if prefix.timestamp {
        text.push_str(&iso8601(now));
        text.push(' ');
    }
    if let Some(guest) = &prefix.guest {
        text.push_str(guest);
        text.push(' ');
    }
    if !prefix.program.is_empty() {
        text.push_str(&prefix.program);
        // A place in a file, `:name:line:`, follows at once.
        text.push_str(if line.starts_with(':') { "" } else { ": " });
    }
    text.push_str(line);
    text.push('\n');
    text
}

/// UTC to the microsecond.
fn iso8601(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil date from a day number, in years that start in March so that leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_cause_is_said_once_and_in_words() {
        let missing = || std::io::Error::from_raw_os_error(2);
        let error = anyhow::Error::from(missing()).context("could not load kernel 'x'");
        assert_eq!(sentence(&error), "could not load kernel 'x': No such file or directory");
        let quoted = format!("cannot open x: {}", missing());
        let error = anyhow::Error::from(missing()).context(quoted);
        assert_eq!(sentence(&error), "cannot open x: No such file or directory");
    }

    #[test]
    fn a_line_starts_with_what_was_asked_for() {
        let at = |seconds, micros| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros)
        };
        let mut prefix = Prefix { program: "us".into(), ..Prefix::default() };
        assert_eq!(render(&prefix, at(0, 0), "text"), "us: text\n");
        assert_eq!(render(&prefix, at(0, 0), ":file:3: text"), "us:file:3: text\n");
        prefix.guest = Some("web".into());
        assert_eq!(render(&prefix, at(0, 0), "text"), "web us: text\n");
        prefix.timestamp = true;
        for (seconds, micros, time) in [
            (0, 7, "1970-01-01T00:00:00.000007Z"),
            (951_782_399, 0, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_200, 999_999, "2024-03-01T00:00:00.999999Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(render(&prefix, at(seconds, micros), "t"), format!("{time} web us: t\n"));
        }
    }
}
