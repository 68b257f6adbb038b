//! What a telnet client says beside its input (RFC 854): commands begin with IAC, and all but a
//! break are dropped. We say once that we echo, suppress go-ahead, and are binary both ways, which
//! puts clients into character mode. A TN3270 client (RFC 1576) is asked for its terminal type, and
//! the marks of its records stay in the data.

const IAC: u8 = 255;
const EOR: u8 = 239;
const SE: u8 = 240;
const BREAK: u8 = 243;
const SB: u8 = 250;
const WILL: u8 = 251;
const DO: u8 = 253;
/// Option BINARY (RFC 856), ECHO (RFC 857), SUPPRESS-GO-AHEAD (RFC 858), TERMINAL-TYPE (RFC 1091),
/// END-OF-RECORD (RFC 885).
const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SGA: u8 = 3;
const TERMINAL_TYPE: u8 = 24;
const END_OF_RECORD: u8 = 25;
/// Of a subnegotiation: tell me.
const SEND: u8 = 1;

/// What a server says first.
const OFFER: [u8; 12] = [IAC, WILL, ECHO, IAC, WILL, SGA, IAC, WILL, BINARY, IAC, DO, BINARY];
#[rustfmt::skip]
const OFFER_3270: [u8; 21] = [
    IAC, DO, END_OF_RECORD, IAC, WILL, END_OF_RECORD,
    IAC, DO, BINARY, IAC, WILL, BINARY,
    IAC, DO, TERMINAL_TYPE, IAC, SB, TERMINAL_TYPE, SEND, IAC, SE,
];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Data,
    /// After IAC.
    Command,
    /// The option of a command, which is dropped.
    Option,
}

/// Where in a command the input is.
#[derive(Debug, Clone)]
pub struct Telnet {
    state: State,
    /// The client is a 3270 terminal.
    tn3270: bool,
}

impl Telnet {
    pub fn new(tn3270: bool) -> Self {
        Self { state: State::Data, tn3270 }
    }

    /// What is said first.
    pub fn offer(&self) -> &'static [u8] {
        if self.tn3270 { &OFFER_3270 } else { &OFFER }
    }

    /// Leave the data in `bytes`; true if there was a break in it.
    pub fn take_out(&mut self, bytes: &mut Vec<u8>) -> bool {
        let mut has_break = false;
        let mut data = Vec::with_capacity(bytes.len());
        for &byte in bytes.iter() {
            self.state = match (self.state, byte) {
                (State::Data, IAC) => State::Command,
                (State::Data, _) | (State::Command, IAC) => {
                    data.push(byte);
                    State::Data
                }
                (State::Command, BREAK) => {
                    has_break = true;
                    State::Data
                }
                (State::Command, EOR | SB | SE) if self.tn3270 => {
                    data.extend([IAC, byte]);
                    State::Data
                }
                // WILL, WON'T, DO and DON'T name an option; the others stand alone.
                (State::Command, WILL..) => State::Option,
                (State::Command | State::Option, _) => State::Data,
            };
        }
        *bytes = data;
        has_break
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_out_wherever_input_is_cut() {
        let said = b"a\xff\xfb\x01b\xff\xffc\xff\xf3d\xff\xf1e";
        for cut in 0..said.len() {
            let mut telnet = Telnet::new(false);
            let (mut data, mut has_break) = (Vec::new(), false);
            for part in [&said[..cut], &said[cut..]] {
                let mut part = part.to_vec();
                has_break |= telnet.take_out(&mut part);
                data.extend(part);
            }
            assert_eq!((data.as_slice(), has_break), (b"ab\xffcde".as_slice(), true), "{cut}");
        }
    }

    #[test]
    fn the_marks_of_a_3270_terminals_records_are_data() {
        let mut telnet = Telnet::new(true);
        assert_eq!(telnet.offer().len(), 21);
        let mut said = b"\xff\xfa\x18\x00IBM\xff\xf0a\xff\xf1b\xff\xefc\xff\xfd\x19d".to_vec();
        assert!(!telnet.take_out(&mut said));
        assert_eq!(said, b"\xff\xfa\x18\x00IBM\xff\xf0ab\xff\xefcd");
    }
}
