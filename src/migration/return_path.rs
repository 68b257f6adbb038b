//! The return path: what the destination tells the source, on the stream's way back.
//!
//! Messages are QEMU's (`enum mig_rp_message_type`), and one is ours: the destination's reason for
//! giving up, sent right before the `Shut` that announces it. A QEMU source takes an unknown
//! message for a failure, which is what follows anyway.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A message from the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReturnMessage {
    /// It is done: 0 if everything was loaded.
    Shut(u32),
    /// Answer to `StreamCommand::Ping`.
    Pong(u32),
    /// Every device agrees to the switchover.
    SwitchoverAck,
    /// Why the load failed.
    Reason(String),
}

const SHUT: u16 = 1;
const PONG: u16 = 2;
const SWITCHOVER_ACK: u16 = 7;
/// Outside of what QEMU numbers.
const REASON: u16 = 0x7573;

/// Longest reason that is sent or taken.
const REASON_MAX: usize = 4096;

impl ReturnMessage {
    /// As it travels: type, length, payload.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload) = match self {
            Self::Shut(value) => (SHUT, value.to_be_bytes().to_vec()),
            Self::Pong(value) => (PONG, value.to_be_bytes().to_vec()),
            Self::SwitchoverAck => (SWITCHOVER_ACK, Vec::new()),
            Self::Reason(text) => {
                let mut end = text.len().min(REASON_MAX);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                (REASON, text.as_bytes()[..end].to_vec())
            }
        };
        let mut out = kind.to_be_bytes().to_vec();
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend(payload);
        out
    }

    /// The next message; `None` at the end of the path.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let kind = match from.read_u16().await {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = from.read_u16().await?;
        let bad = || {
            let text = format!("Received invalid message 0x{kind:04x} length 0x{length:04x}");
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        match (kind, usize::from(length)) {
            (SHUT, 4) => Ok(Some(Self::Shut(from.read_u32().await?))),
            (PONG, 4) => Ok(Some(Self::Pong(from.read_u32().await?))),
            (SWITCHOVER_ACK, 0) => Ok(Some(Self::SwitchoverAck)),
            (REASON, length) if length <= REASON_MAX => {
                let mut text = vec![0; length];
                from.read_exact(&mut text).await?;
                Ok(Some(Self::Reason(plain(&String::from_utf8_lossy(&text)))))
            }
            _ => Err(bad()),
        }
    }
}

/// What a peer says is printed on a terminal: without control characters.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_travel() {
        let sent = [
            ReturnMessage::Pong(7),
            ReturnMessage::SwitchoverAck,
            ReturnMessage::Reason("Size mismatch".to_owned()),
            ReturnMessage::Shut(1),
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(ReturnMessage::encode).collect();
        let mut from = bytes.as_slice();
        for message in sent {
            assert_eq!(ReturnMessage::read(&mut from).await.unwrap(), Some(message));
        }
        assert_eq!(ReturnMessage::read(&mut from).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        for bytes in [&[0, 9, 0, 0][..], &[0, 1, 0, 5, 0], &[0x75, 0x73, 0xff, 0xff], &[0, 2, 0]] {
            assert!(ReturnMessage::read(&mut &bytes[..]).await.is_err(), "{bytes:?}");
        }
        let nasty = ReturnMessage::Reason("a\x1b[2Jb\n".to_owned()).encode();
        let read = ReturnMessage::read(&mut nasty.as_slice()).await.unwrap();
        assert_eq!(read, Some(ReturnMessage::Reason("a[2Jb".to_owned())));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let encoded = ReturnMessage::Reason("é".repeat(REASON_MAX)).encode();
        assert!(encoded.len() <= REASON_MAX + 4);
        assert!(std::str::from_utf8(&encoded[4..]).is_ok());
    }
}
