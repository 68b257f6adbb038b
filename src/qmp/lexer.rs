//! Tokens of QEMU's JSON dialect, byte by byte: single-quoted strings beside double-quoted ones,
//! and the recovery after an error that clients rely on to force the parser into a known state.

/// The longest token, and the most that the tokens of one document may have together, in bytes.
pub const MAX_TOKEN_SIZE: usize = 64 << 20;
/// A buffer larger than this is given back once its contents are dealt with.
const SPARE: usize = 64 << 10;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Colon,
    Comma,
    /// With its quotes and escapes as they came.
    String,
    Integer,
    Float,
    Keyword,
    /// Bytes that start no token, up to and with the offending one.
    Stray,
    /// A token longer than `MAX_TOKEN_SIZE`; the text is dropped.
    Oversized,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// In a string that this quote ends.
    Quoted(u8),
    Escape(u8),
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
    /// After an error: skip to a structural character or a control character.
    Recovery,
}

/// What a byte did to the state.
enum Step {
    /// The byte belongs to the token, which goes on.
    Take(State),
    /// The byte is skipped.
    Skip(State),
    /// The byte ends the token and belongs to it.
    End(TokenKind),
    /// The token ended before this byte, which is looked at again.
    EndBefore(TokenKind),
    /// Look at the byte again in the start state.
    Restart,
    /// The byte makes the token invalid.
    Stray,
}

/// The lexer's state between bytes.
#[derive(Debug)]
pub struct Lexer {
    state: State,
    token: Vec<u8>,
}

impl Default for Lexer {
    fn default() -> Self {
        Self { state: State::Start, token: Vec::new() }
    }
}

impl Lexer {
    /// Feed one byte; at most two tokens come out, through `sink`, each with its bytes.
    pub fn feed(&mut self, byte: u8, mut sink: impl FnMut(TokenKind, &[u8])) {
        loop {
            match step(self.state, byte) {
                Step::Take(next) => {
                    self.token.push(byte);
                    self.state = next;
                    if self.token.len() > MAX_TOKEN_SIZE {
                        // What is left of it is taken for something new.
                        self.token = Vec::new();
                        self.state = State::Start;
                        sink(TokenKind::Oversized, &[]);
                    }
                    return;
                }
                Step::Skip(next) => {
                    self.state = next;
                    return;
                }
                Step::End(kind) => {
                    self.token.push(byte);
                    self.emit(kind, State::Start, &mut sink);
                    return;
                }
                Step::EndBefore(kind) => self.emit(kind, State::Start, &mut sink),
                Step::Restart => self.state = State::Start,
                Step::Stray => {
                    self.token.push(byte);
                    self.emit(TokenKind::Stray, State::Recovery, &mut sink);
                    return;
                }
            }
        }
    }

    fn emit(&mut self, kind: TokenKind, next: State, sink: &mut impl FnMut(TokenKind, &[u8])) {
        self.state = next;
        sink(kind, &self.token);
        clear(&mut self.token);
    }
}

/// Empty a buffer, which is kept for the next use unless it has grown large.
pub fn clear<T>(buffer: &mut Vec<T>) {
    buffer.clear();
    buffer.shrink_to(SPARE / size_of::<T>());
}

fn step(state: State, byte: u8) -> Step {
    use State::*;
    match state {
        Start => match byte {
            b' ' | b'\t' | b'\r' | b'\n' => Step::Skip(Start),
            b'{' => Step::End(TokenKind::LeftBrace),
            b'}' => Step::End(TokenKind::RightBrace),
            b'[' => Step::End(TokenKind::LeftBracket),
            b']' => Step::End(TokenKind::RightBracket),
            b':' => Step::End(TokenKind::Colon),
            b',' => Step::End(TokenKind::Comma),
            b'"' | b'\'' => Step::Take(Quoted(byte)),
            b'-' => Step::Take(Minus),
            b'0' => Step::Take(Zero),
            b'1'..=b'9' => Step::Take(Digits),
            b'a'..=b'z' => Step::Take(Keyword),
            _ => Step::Stray,
        },
        Quoted(quote) => match byte {
            _ if byte == quote => Step::End(TokenKind::String),
            b'\\' => Step::Take(Escape(quote)),
            0x20..=0xfd => Step::Take(Quoted(quote)),
            _ => Step::Stray,
        },
        Escape(quote) => match byte {
            0x20..=0xfd => Step::Take(Quoted(quote)),
            _ => Step::Stray,
        },
        Minus => match byte {
            b'0' => Step::Take(Zero),
            b'1'..=b'9' => Step::Take(Digits),
            _ => Step::Stray,
        },
        // QEMU's grammar has no exponent right after a zero: it would be the next token.
        Zero => match byte {
            b'.' => Step::Take(Point),
            b'0'..=b'9' => Step::Stray,
            _ => Step::EndBefore(TokenKind::Integer),
        },
        Digits => match byte {
            b'0'..=b'9' => Step::Take(Digits),
            b'.' => Step::Take(Point),
            b'e' | b'E' => Step::Take(Exponent),
            _ => Step::EndBefore(TokenKind::Integer),
        },
        Point => match byte {
            b'0'..=b'9' => Step::Take(Fraction),
            _ => Step::Stray,
        },
        Fraction => match byte {
            b'0'..=b'9' => Step::Take(Fraction),
            b'e' | b'E' => Step::Take(Exponent),
            _ => Step::EndBefore(TokenKind::Float),
        },
        Exponent => match byte {
            b'+' | b'-' => Step::Take(ExponentSign),
            b'0'..=b'9' => Step::Take(ExponentDigits),
            _ => Step::Stray,
        },
        ExponentSign => match byte {
            b'0'..=b'9' => Step::Take(ExponentDigits),
            _ => Step::Stray,
        },
        ExponentDigits => match byte {
            b'0'..=b'9' => Step::Take(ExponentDigits),
            _ => Step::EndBefore(TokenKind::Float),
        },
        Keyword => match byte {
            b'a'..=b'z' => Step::Take(Keyword),
            _ => Step::EndBefore(TokenKind::Keyword),
        },
        Recovery => match byte {
            b'\t' => Step::Skip(Recovery),
            0x00..=0x1f | 0xfe | 0xff | b'{' | b'}' | b'[' | b']' | b':' | b',' => Step::Restart,
            _ => Step::Skip(Recovery),
        },
    }
}
