//! What a telnet client says beside its input (RFC 854): commands begin with IAC, and all but a
//! break are dropped. We say once that we echo, suppress go-ahead, and are binary both ways, which
//! puts clients into character mode.

const IAC: u8 = 255;
const BREAK: u8 = 243;
const WILL: u8 = 251;
const DO: u8 = 253;
/// Option BINARY (RFC 856), ECHO (RFC 857), SUPPRESS-GO-AHEAD (RFC 858).
const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SGA: u8 = 3;

/// What a server says first.
pub const OFFER: [u8; 12] = [IAC, WILL, ECHO, IAC, WILL, SGA, IAC, WILL, BINARY, IAC, DO, BINARY];

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
#[derive(Debug, Clone, Default)]
pub struct Telnet(State);

impl Telnet {
    /// Leave the data in `bytes`; true if there was a break in it.
    pub fn take_out(&mut self, bytes: &mut Vec<u8>) -> bool {
        let mut has_break = false;
        bytes.retain(|&byte| {
            let (next, keep) = match (self.0, byte) {
                (State::Data, IAC) => (State::Command, false),
                (State::Data, _) => (State::Data, true),
                (State::Command, IAC) => (State::Data, true),
                (State::Command, BREAK) => {
                    has_break = true;
                    (State::Data, false)
                }
                // WILL, WON'T, DO and DON'T name an option; the others stand alone.
                (State::Command, WILL..) => (State::Option, false),
                (State::Command | State::Option, _) => (State::Data, false),
            };
            self.0 = next;
            keep
        });
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
            let mut telnet = Telnet::default();
            let (mut data, mut has_break) = (Vec::new(), false);
            for part in [&said[..cut], &said[cut..]] {
                let mut part = part.to_vec();
                has_break |= telnet.take_out(&mut part);
                data.extend(part);
            }
            assert_eq!((data.as_slice(), has_break), (b"ab\xffcde".as_slice(), true), "{cut}");
        }
    }
}
