//! The line editor: keys in, terminal bytes out. Clients match on what it echoes, so every byte
//! is as QEMU's: the whole line is written again after each change, and the cursor walks back. The
//! keys are those that QEMU knows, and no others.

use super::complete::Completions;

/// Longest line, in bytes.
const MAX_LINE: usize = 4095;
/// Lines remembered.
const MAX_HISTORY: usize = 64;
/// Width that completion listings fill.
const COLUMNS: usize = 80;

/// What the monitor asks for a line with.
pub const PROMPT: &str = "(qemu) ";

/// What a key has led to; the next one is to wait until it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The line is complete; the next prompt is the caller's to write.
    Execute(String),
    /// The line up to the cursor, for [`Readline::complete`].
    Complete(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    /// After ESC.
    Started,
    /// After ESC [ and this number.
    Control(u32),
    /// After ESC O.
    SingleShift,
}

/// The editor of one monitor.
#[derive(Debug)]
pub struct Readline {
    line: Vec<u8>,
    cursor: usize,
    /// What the terminal shows.
    shown: Vec<u8>,
    shown_cursor: usize,
    escape: Escape,
    history: Vec<Vec<u8>>,
    /// The history entry being edited.
    recalled: Option<usize>,
}

impl Default for Readline {
    fn default() -> Self {
        Self {
            line: Vec::new(),
            cursor: 0,
            shown: Vec::new(),
            shown_cursor: 0,
            escape: Escape::None,
            history: Vec::new(),
            recalled: None,
        }
    }
}

impl Readline {
    /// Forget the line being edited.
    pub fn restart(&mut self) {
        self.line.clear();
        self.cursor = 0;
    }

    /// Write the prompt: nothing of the line is shown after it yet.
    pub fn prompt(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(PROMPT.as_bytes());
        self.shown.clear();
        self.shown_cursor = 0;
        self.escape = Escape::None;
    }

    /// The lines typed so far, from the oldest.
    pub fn history(&self) -> impl Iterator<Item = &[u8]> {
        self.history.iter().map(Vec::as_slice)
    }

    /// Handle one byte of input.
    pub fn key(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Request> {
        let mut request = None;
        match self.escape {
            Escape::None => request = self.plain(byte, out),
            Escape::Started => {
                self.escape = match byte {
                    b'[' => Escape::Control(0),
                    b'O' => Escape::SingleShift,
                    _ => Escape::None,
                }
            }
            Escape::Control(number) => self.control(byte, number),
            Escape::SingleShift => {
                match byte {
                    b'F' => self.cursor = self.line.len(),
                    b'H' => self.cursor = 0,
                    _ => {}
                }
                self.escape = Escape::None;
            }
        }
        self.update(out);
        request
    }

    fn plain(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Request> {
        match byte {
            0x01 => self.cursor = 0,
            0x04 => self.delete(),
            0x05 => self.cursor = self.line.len(),
            b'\t' => {
                let before = &self.line[..self.cursor];
                return Some(Request::Complete(String::from_utf8_lossy(before).into_owned()));
            }
            b'\n' | b'\r' => return Some(Request::Execute(self.accept(out))),
            0x0c => {
                out.extend_from_slice(b"\x1b[2J\x1b[1;1H");
                self.prompt(out);
            }
            0x0e => self.later(),
            0x10 => self.earlier(),
            0x15 => {
                self.line.drain(..self.cursor);
                self.cursor = 0;
            }
            0x17 => self.delete_word(),
            0x1b => self.escape = Escape::Started,
            0x08 | 0x7f => self.backspace(),
            0x9b => self.escape = Escape::Control(0),
            0x20.. => self.insert(byte),
            _ => {}
        }
        None
    }

    fn control(&mut self, byte: u8, number: u32) {
        match byte {
            b'0'..=b'9' => {
                let digit = u32::from(byte - b'0');
                self.escape = Escape::Control(number.saturating_mul(10).saturating_add(digit));
                return;
            }
            b'A' | b'F' => self.earlier(),
            b'B' | b'E' => self.later(),
            b'C' => self.forward(),
            b'D' => self.back(),
            b'~' => match number {
                1 => self.cursor = 0,
                3 => self.delete(),
                4 => self.cursor = self.line.len(),
                _ => {}
            },
            _ => {}
        }
        self.escape = Escape::None;
    }

    /// Bring the terminal up to date.
    fn update(&mut self, out: &mut Vec<u8>) {
        if self.line != self.shown {
            out.extend(b"\x1b[D".repeat(self.shown_cursor));
            out.extend_from_slice(&self.line);
            out.extend_from_slice(b"\x1b[K");
            self.shown.clone_from(&self.line);
            self.shown_cursor = self.line.len();
        }
        if self.cursor > self.shown_cursor {
            out.extend(b"\x1b[C".repeat(self.cursor - self.shown_cursor));
        } else {
            out.extend(b"\x1b[D".repeat(self.shown_cursor - self.cursor));
        }
        self.shown_cursor = self.cursor;
    }

    fn insert(&mut self, byte: u8) {
        if self.line.len() < MAX_LINE {
            self.line.insert(self.cursor, byte);
            self.cursor += 1;
        }
    }

    fn back(&mut self) {
        self.cursor = self.cursor.saturating_sub(1);
    }

    fn forward(&mut self) {
        self.cursor = self.line.len().min(self.cursor + 1);
    }

    fn delete(&mut self) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
        }
    }

    fn backspace(&mut self) {
        if self.cursor > 0 {
            self.cursor -= 1;
            self.delete();
        }
    }

    /// Delete the blanks before the cursor and the word before them.
    fn delete_word(&mut self) {
        let is_blank = u8::is_ascii_whitespace;
        let before = &self.line[..self.cursor];
        let word_end = before.iter().rposition(|b| !is_blank(b)).map_or(0, |i| i + 1);
        let start = before[..word_end].iter().rposition(is_blank).map_or(0, |i| i + 1);
        self.line.drain(start..self.cursor);
        self.cursor = start;
    }

    fn accept(&mut self, out: &mut Vec<u8>) -> String {
        let line = std::mem::take(&mut self.line);
        self.cursor = 0;
        self.shown.clear();
        self.shown_cursor = 0;
        out.extend_from_slice(b"\r\n");
        let text = String::from_utf8_lossy(&line).into_owned();
        self.remember(line);
        text
    }

    /// Put a line at the end of the history, once.
    fn remember(&mut self, line: Vec<u8>) {
        if line.is_empty() {
            return;
        }
        self.recalled = None;
        self.history.retain(|old| *old != line);
        if self.history.len() == MAX_HISTORY {
            self.history.remove(0);
        }
        self.history.push(line);
    }

    fn earlier(&mut self) {
        let index = self.recalled.unwrap_or(self.history.len());
        if let Some(previous) = index.checked_sub(1) {
            self.recall(previous);
        }
    }

    fn later(&mut self) {
        let Some(index) = self.recalled else { return };
        if index + 1 < self.history.len() {
            self.recall(index + 1);
        } else {
            self.recalled = None;
            self.restart();
        }
    }

    fn recall(&mut self, index: usize) {
        if let Some(line) = self.history.get(index) {
            self.line.clone_from(line);
            self.cursor = self.line.len();
            self.recalled = Some(index);
        }
    }

    /// What the word at the cursor can become, after [`Request::Complete`].
    pub fn complete(&mut self, completions: Completions, out: &mut Vec<u8>) {
        self.offer(completions, out);
        self.update(out);
    }

    fn offer(&mut self, completions: Completions, out: &mut Vec<u8>) {
        let Completions { typed, mut candidates } = completions;
        match candidates.as_slice() {
            [] => {}
            [only] => {
                only.bytes().skip(typed).for_each(|byte| self.insert(byte));
                if !only.ends_with('/') {
                    self.insert(b' ');
                }
            }
            [first, others @ ..] => {
                let shared = others.iter().fold(first.len(), |shared, other| {
                    let same = first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b);
                    shared.min(same.count())
                });
                first.bytes().take(shared).skip(typed).for_each(|byte| self.insert(byte));
                candidates.sort();
                list(&candidates, out);
                self.prompt(out);
            }
        }
    }
}

/// The candidates in columns.
fn list(candidates: &[String], out: &mut Vec<u8>) {
    let longest = candidates.iter().map(String::len).max().unwrap_or(0);
    let width = (longest + 2).clamp(10, COLUMNS);
    out.extend_from_slice(b"\r\n");
    for row in candidates.chunks(COLUMNS / width) {
        for candidate in row {
            out.extend_from_slice(format!("{candidate:<width$}").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type the keys; the line's reply is `<line>` and a prompt. The words that can be completed
    /// are given.
    fn type_keys(keys: &[u8], words: &[&str]) -> String {
        let mut editor = Readline::default();
        let mut out = Vec::new();
        for &key in keys {
            match editor.key(key, &mut out) {
                Some(Request::Execute(line)) => {
                    out.extend_from_slice(format!("<{line}>").as_bytes());
                    editor.prompt(&mut out);
                }
                Some(Request::Complete(line)) => {
                    let word = line.rsplit(' ').next().unwrap_or_default();
                    let candidates = words.iter().filter(|w| w.starts_with(word));
                    let candidates = candidates.map(|w| (*w).to_owned()).collect();
                    editor.complete(Completions { typed: word.len(), candidates }, &mut out);
                }
                None => {}
            }
        }
        // `<` for the cursor's step back keeps the expectations readable.
        out.escape_ascii().to_string().replace("\\x1b[D", "«").replace("\\x1b[K", "¶")
    }

    /// Keys and the bytes that QEMU 10.0.2 answers them with on a socket.
    #[test]
    fn echo_is_qemus() {
        for (keys, expected) in [
            (&b"info\n"[..], "i¶«in¶««inf¶«««info¶\\r\\n<info>(qemu) "),
            (b"a\r\n", "a¶\\r\\n<a>(qemu) \\r\\n<>(qemu) "),
            (b"nf\x01i\n", "n¶«nf¶««inf¶««\\r\\n<inf>(qemu) "),
            (b"ab\x7f\x08", "a¶«ab¶««a¶«¶"),
            (b"abcd\x1b[D\x1b[D\x15\x15\n", "a¶«ab¶««abc¶«««abcd¶««««cd¶««\\r\\n<cd>(qemu) "),
            (b"abc \x1b[D\x17\x0b", "a¶«ab¶««abc¶«««abc ¶«««« ¶«"),
            (b"a \x17\x17", "a¶«a ¶««¶"),
            (b"ab\x1b[1~x\x1b[4~y\x1b[H1", "a¶«ab¶««xab¶««\\x1b[C\\x1b[C«««xaby¶««««xaby1¶"),
            (b"ab\x1bOH3\x1bOF4", "a¶«ab¶««3ab¶««\\x1b[C\\x1b[C«««3ab4¶"),
            (b"abc\x1b[D\x1b[3~\x04", "a¶«ab¶««abc¶«««ab¶"),
            (b"a\x1bb\x1bf\x15", "a¶«¶"),
            (b"ab\x0cc", "a¶«ab¶\\x1b[2J\\x1b[1;1H(qemu) ab¶««abc¶"),
            (b"\xc3\xa9\x15", "\\xc3¶«\\xc3\\xa9¶««¶"),
            (b"a\x02\x03\x06\x0b\x12\x14\x1a", "a¶"),
            // Up, up, down, down; an entry typed again moves to the end.
            (
                b"a\nb\n\x10\x1b[A\x1b[A\x0e\x1b[B\x1b[B",
                "a¶\\r\\n<a>(qemu) b¶\\r\\n<b>(qemu) b¶«a¶«b¶«¶",
            ),
            (b"a\nb\na\n\x10\x10", "a¶\\r\\n<a>(qemu) b¶\\r\\n<b>(qemu) a¶\\r\\n<a>(qemu) a¶«b¶"),
            (b"x\x10\x10", "x¶"),
            // Completion: one, a directory, several with a shared start, none, before the cursor.
            (b"co\t", "c¶«co¶««cont ¶"),
            (b"di\t", "d¶«di¶««dir/¶"),
            (b"x co\x1b[D\t", "x¶«x ¶««x c¶«««x co¶««««x cont o¶«"),
            (
                b"sys\t",
                "s¶«sy¶««sys¶\\r\\nsystem_powerdown  system_reset      \\r\\n(qemu) system_¶",
            ),
            (
                b"s\t",
                "s¶\\r\\ns                     set_vcpu_dirty_limit  stop                  \\r\\nsystem_powerdown      system_reset          \\r\\n(qemu) s¶",
            ),
            (b"zzz\t", "z¶«zz¶««zzz¶"),
        ] {
            let words = [
                "cont",
                "dir/",
                "set_vcpu_dirty_limit",
                "system_reset",
                "s",
                "stop",
                "system_powerdown",
            ];
            assert_eq!(type_keys(keys, &words), expected, "{}", keys.escape_ascii());
        }
    }

    #[test]
    fn history_and_line_are_bounded() {
        let mut editor = Readline::default();
        let mut out = Vec::new();
        for i in 0..200 {
            for byte in format!("{i}\n").bytes() {
                editor.key(byte, &mut out);
            }
        }
        assert_eq!(editor.history().count(), MAX_HISTORY);
        assert_eq!(editor.history().next(), Some(&b"136"[..]));
        for _ in 0..5000 {
            out.clear();
            editor.key(b'x', &mut out);
        }
        assert_eq!(editor.line.len(), MAX_LINE);
    }
}
