//! From tokens to JSON values: collects the tokens of one document, then parses them. Sentences
//! are QEMU's; one bad document can yield several errors, as there.

use serde_json::{Map, Number, Value};

use super::lexer::{Lexer, MAX_TOKEN_SIZE, Token, TokenKind};

/// Deepest nesting of arrays and objects.
pub const MAX_NESTING: usize = 1024;
/// Most tokens in one document (QEMU: 2 Mi; smaller here so that a session's memory stays small).
pub const MAX_TOKEN_COUNT: usize = 256 << 10;

/// A document, or the sentence that says what is wrong with it.
pub type Document = Result<Value, String>;

/// Parse text that is one object.
pub fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    let mut stream = JsonStream::default();
    let mut documents = Vec::new();
    // The end of the line ends the last token.
    for byte in text.bytes().chain([b'\n']) {
        stream.feed(byte, |document| documents.push(document));
    }
    match documents.into_iter().next() {
        None => Err("JSON parse error, premature EOI".into()),
        Some(Ok(Value::Object(members))) => Ok(members),
        Some(Ok(_)) => Err("JSON parse error, an object is expected".into()),
        Some(Err(sentence)) => Err(sentence),
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
        self.lexer.feed(byte, |token| {
            if let Some(document) = collector.push(token) {
                sink(document);
            }
        });
    }
}

#[derive(Debug, Default)]
struct Collector {
    tokens: Vec<Token>,
    size: usize,
    braces: isize,
    brackets: isize,
}

impl Collector {
    fn push(&mut self, token: Token) -> Option<Document> {
        match token.kind {
            TokenKind::LeftBrace => self.braces += 1,
            TokenKind::RightBrace => self.braces -= 1,
            TokenKind::LeftBracket => self.brackets += 1,
            TokenKind::RightBracket => self.brackets -= 1,
            TokenKind::Stray => {
                // QEMU prints a C string, which ends at a NUL.
                let end = token.text.iter().position(|&b| b == 0).unwrap_or(token.text.len());
                let text = String::from_utf8_lossy(&token.text[..end]).into_owned();
                return self.fail(format!("JSON parse error, stray '{text}'"));
            }
            TokenKind::Oversized => return self.fail("JSON token size limit exceeded".into()),
            _ => {}
        }
        if self.size + token.text.len() > MAX_TOKEN_SIZE {
            return self.fail("JSON token size limit exceeded".into());
        }
        if self.tokens.len() >= MAX_TOKEN_COUNT {
            return self.fail("JSON token count limit exceeded".into());
        }
        if self.braces + self.brackets > MAX_NESTING as isize {
            return self.fail("JSON nesting depth limit exceeded".into());
        }
        self.size += token.text.len();
        self.tokens.push(token);
        let open = self.braces > 0 || self.brackets > 0;
        if open && self.braces >= 0 && self.brackets >= 0 {
            return None;
        }
        let tokens = std::mem::take(self).tokens;
        Some(
            Parser { tokens: &tokens, at: 0 }
                .value()
                .map_err(|what| format!("JSON parse error, {what}")),
        )
    }

    fn fail(&mut self, sentence: String) -> Option<Document> {
        *self = Self::default();
        Some(Err(sentence))
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Result<&Token, String> {
        self.tokens.get(self.at).ok_or_else(|| "premature EOI".to_owned())
    }

    fn next_is(&self, kind: TokenKind) -> Result<bool, String> {
        Ok(self.peek()?.kind == kind)
    }

    fn value(&mut self) -> Result<Value, String> {
        let token = self.peek()?;
        let value = match token.kind {
            TokenKind::LeftBrace => return self.object(),
            TokenKind::LeftBracket => return self.array(),
            TokenKind::String => Value::String(string(&token.text)?),
            TokenKind::Integer | TokenKind::Float => Value::Number(number(&token.text)),
            TokenKind::Keyword => match token.text.as_slice() {
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

/// Decode a quoted string: escapes, and UTF-8 checked (NUL may come overlong, as `c0 80`).
fn string(text: &[u8]) -> Result<String, String> {
    let body = text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some((&first, tail)) = rest.split_first() {
        match first {
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
            0xc0 if tail.first() == Some(&0x80) => {
                out.push('\0');
                rest = &tail[1..];
            }
            _ => {
                let length = match first {
                    0xc2..=0xdf => 2,
                    0xe0..=0xef => 3,
                    _ => 4,
                };
                let c = rest
                    .get(..length)
                    .and_then(|bytes| std::str::from_utf8(bytes).ok())
                    .and_then(|s| s.chars().next())
                    .filter(|&c| c as u32 >= 0x80 && is_character(c))
                    .ok_or_else(|| "invalid UTF-8 sequence in string".to_owned())?;
                out.push(c);
                rest = &rest[length..];
            }
        }
    }
    Ok(out)
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
        let long = [b"'".as_slice(), &vec![b'x'; MAX_TOKEN_SIZE + 9], b"'\n1 "].concat();
        let found = documents(&mut stream, &long);
        assert_eq!(found, [Err("JSON token size limit exceeded".into()), Ok(1.into())]);
        let many = "[".to_owned() + &"1,".repeat(MAX_TOKEN_COUNT / 2);
        let found = documents(&mut stream, many.as_bytes());
        assert_eq!(found, [Err("JSON token count limit exceeded".into())]);
    }
}
