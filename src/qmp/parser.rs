//! From tokens to JSON values: collects the tokens of one document, then parses them. Sentences
//! are QEMU's; one bad document can yield several errors, as there.

use serde_json::{Map, Number, Value};

use super::lexer::{self, Lexer, MAX_TOKEN_SIZE, TokenKind};

/// Deepest nesting of arrays and objects.
pub const MAX_NESTING: usize = 1024;
/// Most tokens in one document.
pub const MAX_TOKEN_COUNT: usize = 2 << 20;

/// A document, or the sentence that says what is wrong with it.
pub type Document = Result<Value, String>;

/// Parse text that is one value.
pub fn parse_value(text: &str) -> Result<Value, String> {
    let mut stream = JsonStream::default();
    let mut value: Option<Document> = None;
    // The end of the line ends the last token.
    for byte in text.bytes().chain([b'\n']) {
        stream.feed(byte, |document| {
            value = Some(match (value.take(), document) {
                (None, document) => document,
                (Some(Err(sentence)), _) => Err(sentence),
                (Some(Ok(_)), Ok(_)) => Err("Expecting at most one JSON value".into()),
                (Some(Ok(_)), error) => error,
            });
        });
    }
    let rest = stream.collector.end();
    value.or(rest).unwrap_or_else(|| Err("Expecting a JSON value".into()))
}

/// Parse text that is one object.
pub fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    match parse_value(text)? {
        Value::Object(members) => Ok(members),
        _ => Err("JSON parse error, an object is expected".into()),
    }
}

/// A stream of documents, fed byte by byte.
#[derive(Debug, Default)]
pub struct JsonStream {
    lexer: Lexer,
    collector: Collector,
}

impl JsonStream {
    /// Feed one byte; `sink` gets each document that is complete.
    pub fn feed(&mut self, byte: u8, mut sink: impl FnMut(Document)) {
        let collector = &mut self.collector;
        self.lexer.feed(byte, |kind, text| {
            if let Some(document) = collector.push(kind, text) {
                sink(document);
            }
        });
    }
}

/// The tokens of the document that is under way. All their bytes are in one buffer: a token is its
/// kind and where it ends.
#[derive(Debug, Default)]
struct Collector {
    text: Vec<u8>,
    tokens: Vec<(TokenKind, u32)>,
    braces: isize,
    brackets: isize,
}

impl Collector {
    fn push(&mut self, kind: TokenKind, text: &[u8]) -> Option<Document> {
        match kind {
            TokenKind::LeftBrace => self.braces += 1,
            TokenKind::RightBrace => self.braces -= 1,
            TokenKind::LeftBracket => self.brackets += 1,
            TokenKind::RightBracket => self.brackets -= 1,
            TokenKind::Stray => {
                // QEMU prints a C string, which ends at a NUL.
                let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
                let text = modified_utf8_lossy(&text[..end]);
                return self.fail(format!("JSON parse error, stray '{text}'"));
            }
            TokenKind::Oversized => return self.fail("JSON token size limit exceeded".into()),
            _ => {}
        }
        // Each counts with the NUL that ends it in QEMU, but only the last one's.
        let size = self.text.len() + text.len();
        if size >= MAX_TOKEN_SIZE {
            return self.fail("JSON token size limit exceeded".into());
        }
        if self.tokens.len() >= MAX_TOKEN_COUNT {
            return self.fail("JSON token count limit exceeded".into());
        }
        if self.braces + self.brackets > MAX_NESTING as isize {
            return self.fail("JSON nesting depth limit exceeded".into());
        }
        self.text.extend_from_slice(text);
        // Within the limit, which fits.
        self.tokens.push((kind, size as u32));
        let open = self.braces > 0 || self.brackets > 0;
        if open && self.braces >= 0 && self.brackets >= 0 {
            return None;
        }
        self.end()
    }

    /// Nothing more comes of the document that is under way.
    fn end(&mut self) -> Option<Document> {
        if self.tokens.is_empty() {
            return None;
        }
        let parsed = Parser { text: &self.text, tokens: &self.tokens, at: 0 }.value();
        self.clear();
        Some(parsed.map_err(|what| format!("JSON parse error, {what}")))
    }

    fn fail(&mut self, sentence: String) -> Option<Document> {
        self.clear();
        Some(Err(sentence))
    }

    fn clear(&mut self) {
        lexer::clear(&mut self.text);
        lexer::clear(&mut self.tokens);
        (self.braces, self.brackets) = (0, 0);
    }
}

struct Parser<'a> {
    text: &'a [u8],
    tokens: &'a [(TokenKind, u32)],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Result<TokenKind, String> {
        let token = self.tokens.get(self.at).map(|(kind, _)| *kind);
        token.ok_or_else(|| "premature EOI".to_owned())
    }

    /// The bytes of the token that `peek` has seen.
    fn text(&self) -> &[u8] {
        let end = |at: usize| self.tokens.get(at).map_or(0, |(_, end)| *end as usize);
        let start = self.at.checked_sub(1).map_or(0, end);
        self.text.get(start..end(self.at)).unwrap_or_default()
    }

    fn next_is(&self, kind: TokenKind) -> Result<bool, String> {
        Ok(self.peek()? == kind)
    }

    fn value(&mut self) -> Result<Value, String> {
        let value = match self.peek()? {
            TokenKind::LeftBrace => return self.object(),
            TokenKind::LeftBracket => return self.array(),
            TokenKind::String => Value::String(string(self.text())?),
            TokenKind::Integer | TokenKind::Float => Value::Number(number(self.text())),
            TokenKind::Keyword => match self.text() {
                b"true" => Value::Bool(true),
                b"false" => Value::Bool(false),
                b"null" => Value::Null,
                other => {
                    return Err(format!("invalid keyword '{}'", String::from_utf8_lossy(other)));
                }
            },
            _ => return Err("expecting value".into()),
        };
        self.at += 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, String> {
        self.at += 1;
        let mut members = Map::new();
        while !self.next_is(TokenKind::RightBrace)? {
            if !members.is_empty() {
                if !self.next_is(TokenKind::Comma)? {
                    return Err("expected separator in dict".into());
                }
                self.at += 1;
            }
            let Value::String(key) = self.value()? else {
                return Err("key is not a string in object".into());
            };
            if !self.next_is(TokenKind::Colon)? {
                return Err("missing : in object pair".into());
            }
            self.at += 1;
            let value = self.value()?;
            if members.insert(key, value).is_some() {
                return Err("duplicate key".into());
            }
        }
        self.at += 1;
        Ok(Value::Object(members))
    }

    fn array(&mut self) -> Result<Value, String> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.next_is(TokenKind::RightBracket)? {
            if !items.is_empty() {
                if !self.next_is(TokenKind::Comma)? {
                    return Err("expected separator in list".into());
                }
                self.at += 1;
            }
            items.push(self.value()?);
        }
        self.at += 1;
        Ok(Value::Array(items))
    }
}

/// An integer that fits i64 or u64 stays one; anything else is a double, kept finite (JSON has
/// no infinity).
fn number(text: &[u8]) -> Number {
    let text = std::str::from_utf8(text).unwrap_or("0");
    if let Ok(n) = text.parse::<i64>() {
        return n.into();
    }
    if let Ok(n) = text.parse::<u64>() {
        return n.into();
    }
    let float = text.parse::<f64>().unwrap_or(0.0).clamp(f64::MIN, f64::MAX);
    Number::from_f64(float).unwrap_or_else(|| 0.into())
}

/// Decode a quoted string: escapes, and modified UTF-8.
fn string(text: &[u8]) -> Result<String, String> {
    let Some((quote, mut rest)) = text.split_first() else { return Ok(String::new()) };
    let mut out = String::with_capacity(rest.len());
    while let Some((&first, tail)) = rest.split_first() {
        match first {
            _ if first == *quote => break,
            b'\\' => {
                let (&kind, tail) = tail.split_first().ok_or_else(bad_escape)?;
                rest = tail;
                out.push(match kind {
                    b'"' | b'\'' | b'\\' | b'/' => kind as char,
                    b'b' => '\u{8}',
                    b'f' => '\u{c}',
                    b'n' => '\n',
                    b'r' => '\r',
                    b't' => '\t',
                    b'u' => {
                        let (c, tail) = unicode_escape(tail)?;
                        rest = tail;
                        c
                    }
                    _ => return Err(bad_escape()),
                });
            }
            0x20..=0x7f => {
                out.push(first as char);
                rest = tail;
            }
            _ => {
                let (decoded, length) = decode(rest);
                out.push(decoded.ok_or_else(|| "invalid UTF-8 sequence in string".to_owned())?);
                rest = &rest[length..];
            }
        }
    }
    Ok(out)
}

/// What modified UTF-8 begins with: a character (NUL may come overlong, as `c0 80`), unless the
/// sequence is invalid, and the length of the sequence.
fn decode(bytes: &[u8]) -> (Option<char>, usize) {
    let first = bytes.first().copied().unwrap_or(0xff);
    let expected = first.leading_ones() as usize;
    match expected {
        0 => return (Some(char::from(first)), 1),
        1 | 7.. => return (None, 1),
        _ => {}
    }
    let following = bytes[1..].iter().take(expected - 1);
    let length = 1 + following.take_while(|byte| *byte & 0xc0 == 0x80).count();
    let sequence = &bytes[..length];
    let character = match sequence {
        [0xc0, 0x80] => Some('\0'),
        _ => std::str::from_utf8(sequence).ok().and_then(|text| text.chars().next()),
    };
    (character.filter(|&c| length == expected && is_character(c)), length)
}

/// Bytes as QEMU shows them, with a replacement character for each invalid sequence.
fn modified_utf8_lossy(mut bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let (character, length) = decode(bytes);
        out.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
        bytes = &bytes[length..];
    }
    out
}

fn bad_escape() -> String {
    "invalid escape sequence in string".into()
}

/// The code point after `\u`, with its low surrogate if it is a high one.
fn unicode_escape(tail: &[u8]) -> Result<(char, &[u8]), String> {
    let high = hex4(tail);
    let mut end = tail.len().min(4);
    let mut code = high;
    if let Some(high) = high.filter(|h| (0xd800..0xdc00).contains(h))
        && tail.get(4..6) == Some(b"\\u")
    {
        code = hex4(&tail[6..])
            .filter(|low| (0xdc00..0xe000).contains(low))
            .map(|low| 0x10000 + ((high & 0x3ff) << 10) + (low & 0x3ff));
        if code.is_some() {
            end = 10;
        }
    }
    match code.and_then(char::from_u32).filter(|&c| is_character(c)) {
        Some(c) => Ok((c, &tail[end..])),
        None => {
            let shown = String::from_utf8_lossy(&tail[..end]);
            Err(format!("\\u{shown} is not a valid Unicode character"))
        }
    }
}

fn hex4(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..4)?;
    digits.iter().try_fold(0, |n, &b| Some(n << 4 | (b as char).to_digit(16)?))
}

/// Unicode noncharacters are refused, as QEMU refuses them.
fn is_character(c: char) -> bool {
    let code = c as u32;
    !(0xfdd0..=0xfdef).contains(&code) && code & 0xfffe != 0xfffe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn documents(stream: &mut JsonStream, input: &[u8]) -> Vec<Document> {
        let mut out = Vec::new();
        input.iter().for_each(|&byte| stream.feed(byte, |document| out.push(document)));
        out
    }

    proptest! {
        /// Whatever was sent, 0xff and a document after it: the last thing out is the document.
        /// Clients resynchronise this way.
        #[test]
        fn a_client_can_always_resynchronise(
            noise in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                prop::collection::vec(prop::sample::select(&b"{}[]:,\"'\\u0123.e-+atrufl\x7f\xc3\xff \n"[..]), 0..300),
            ],
        ) {
            let mut stream = JsonStream::default();
            documents(&mut stream, &noise);
            let after = documents(&mut stream, b"\xff\n{'a': [1]}");
            prop_assert_eq!(after.last(), Some(&Ok(serde_json::json!({"a": [1]}))));
        }

        /// What is written is read back.
        #[test]
        fn written_values_are_read_back(text in ".*", float in any::<f64>(), int in any::<i64>()) {
            prop_assume!(text.chars().all(is_character) && float.is_finite());
            let value = serde_json::json!({"s": text, "f": float, "i": int});
            let line = crate::qmp::json::line(&value, int % 2 == 0);
            prop_assert!(line.is_ascii());
            let read = documents(&mut JsonStream::default(), &line).remove(0).unwrap();
            prop_assert_eq!(&read["s"], &value["s"]);
            prop_assert_eq!(&read["i"], &value["i"]);
            prop_assert_eq!(read["f"].as_f64(), Some(float));
        }
    }

    #[test]
    fn limits_hold() {
        let mut stream = JsonStream::default();
        let too_long = Err("JSON token size limit exceeded".into());
        // What is left of a token that is too long is read as something new: two keywords, a stray.
        let long = [b"'".as_slice(), &vec![b'x'; MAX_TOKEN_SIZE], b"a b c' 1\n\n2 "].concat();
        let keyword = |word: &str| Err(format!("JSON parse error, invalid keyword '{word}'"));
        let stray = Err("JSON parse error, stray '' 1\n'".into());
        let found = documents(&mut stream, &long);
        assert_eq!(
            found,
            [too_long.clone(), keyword("a"), keyword("b"), keyword("c"), stray, Ok(2.into())]
        );
        let half = format!("'{}'", "x".repeat(MAX_TOKEN_SIZE / 2));
        let found = documents(&mut stream, format!("[{half},{half} 1 ").as_bytes());
        assert_eq!(found, [too_long, Ok(1.into())]);
        let many = "[".to_owned() + &"1,".repeat(MAX_TOKEN_COUNT / 2);
        let found = documents(&mut stream, many.as_bytes());
        assert_eq!(found, [Err("JSON token count limit exceeded".into())]);
    }

    #[test]
    fn bytes_that_are_no_characters() {
        for (bytes, shown) in [
            (b"a\xc0\x80\xc3".as_slice(), "a\0\u{fffd}"),
            // By the length that the first byte gives: one sequence of five bytes, one of two.
            (b"\xf8\x88\x80\x80\x80\xc1\xbfz", "\u{fffd}\u{fffd}z"),
            (b"\xe2\x82\xfe\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(modified_utf8_lossy(bytes), shown);
        }
    }
}
