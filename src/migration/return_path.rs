//! The return path: what the destination tells the source, on the stream's way back.
//!
//! Messages are QEMU's (`enum mig_rp_message_type`), and one is ours: the destination's reason for
//! giving up, sent right before the `Shut` that announces it. A QEMU source takes an unknown
//! message for a failure, which is what follows anyway.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::stream::put_name;

/// A message from the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReturnMessage {
    /// It is done: 0 if everything was loaded.
    Shut(u32),
    /// Answer to `StreamCommand::Ping`.
    Pong(u32),
    /// Every device agrees to the switchover.
    SwitchoverAck,
    /// Postcopy: `len` bytes from `start` are waited for, of this block or of that of the request
    /// before.
    ReqPages { block: Option<String>, start: u64, len: u32 },
    /// Recovery: which pages of a block have come, a bit each, in whole words of 64 bits.
    RecvBitmap { block: String, bitmap: Vec<u8> },
    /// Recovery: the destination goes on.
    ResumeAck(u32),
    /// Why the load failed.
    Reason(String),
}

const SHUT: u16 = 1;
const PONG: u16 = 2;
const REQ_PAGES_ID: u16 = 3;
const REQ_PAGES: u16 = 4;
const RECV_BITMAP: u16 = 5;
const RESUME_ACK: u16 = 6;
const SWITCHOVER_ACK: u16 = 7;
/// What follows a bitmap (QEMU's RAMBLOCK_RECV_BITMAP_ENDING).
const BITMAP_END: u64 = 0x0123_4567_89ab_cdef;
/// The one value of `ResumeAck`.
pub const RESUMED: u32 = 1;
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
            Self::ReqPages { block, start, len } => {
                let mut payload = start.to_be_bytes().to_vec();
                payload.extend(len.to_be_bytes());
                match block {
                    Some(name) => {
                        put_name(&mut payload, name);
                        (REQ_PAGES_ID, payload)
                    }
                    None => (REQ_PAGES, payload),
                }
            }
            Self::RecvBitmap { block, .. } => {
                let mut payload = Vec::new();
                put_name(&mut payload, block);
                (RECV_BITMAP, payload)
            }
            Self::ResumeAck(value) => (RESUME_ACK, value.to_be_bytes().to_vec()),
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
        if let Self::RecvBitmap { bitmap, .. } = self {
            // Not counted in the message's length.
            out.extend((bitmap.len() as u64).to_be_bytes());
            out.extend(bitmap);
            out.extend(BITMAP_END.to_be_bytes());
        }
        out
    }

    /// The next message; `None` at the end of the path. A bitmap has at most `bitmap_max` bytes.
    pub async fn read(
        from: &mut (impl AsyncRead + Unpin),
        bitmap_max: u64,
    ) -> io::Result<Option<Self>> {
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
            (REQ_PAGES, 12) => {
                let (start, len) = (from.read_u64().await?, from.read_u32().await?);
                Ok(Some(Self::ReqPages { block: None, start, len }))
            }
            (REQ_PAGES_ID, 13..) => {
                let (start, len) = (from.read_u64().await?, from.read_u32().await?);
                let block = Some(read_name(from, length - 12).await?.ok_or_else(bad)?);
                Ok(Some(Self::ReqPages { block, start, len }))
            }
            (RECV_BITMAP, 1..) => {
                let block = read_name(from, length).await?.ok_or_else(bad)?;
                let bitmap = read_bitmap(from, &block, bitmap_max).await?;
                Ok(Some(Self::RecvBitmap { block, bitmap }))
            }
            (RESUME_ACK, 4) => Ok(Some(Self::ResumeAck(from.read_u32().await?))),
            (REASON, length) if length <= REASON_MAX => {
                let mut text = vec![0; length];
                from.read_exact(&mut text).await?;
                Ok(Some(Self::Reason(plain(&String::from_utf8_lossy(&text)))))
            }
            _ => Err(bad()),
        }
    }
}

/// A name with its length in a byte before it, of `length` bytes together; `None` if they are not.
async fn read_name(from: &mut (impl AsyncRead + Unpin), length: u16) -> io::Result<Option<String>> {
    let count = from.read_u8().await?;
    if u16::from(count) + 1 != length {
        return Ok(None);
    }
    let mut name = vec![0; count.into()];
    from.read_exact(&mut name).await?;
    Ok(Some(plain(&String::from_utf8_lossy(&name))))
}

async fn read_bitmap(
    from: &mut (impl AsyncRead + Unpin),
    block: &str,
    most: u64,
) -> io::Result<Vec<u8>> {
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidData, text);
    let size = from.read_u64().await?;
    if size > most {
        let text = format!("ramblock '{block}' bitmap size mismatch (0x{size:x} > 0x{most:x})");
        return Err(invalid(text));
    }
    let mut bitmap = vec![0; size as usize];
    from.read_exact(&mut bitmap).await?;
    match from.read_u64().await? {
        BITMAP_END => Ok(bitmap),
        end => Err(invalid(format!("ramblock '{block}' end mark incorrect: 0x{end:x}"))),
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
            ReturnMessage::ReqPages { block: None, start: 0x5000, len: 4096 },
            ReturnMessage::ReqPages { block: Some("ram".to_owned()), start: 1 << 40, len: 8192 },
            ReturnMessage::RecvBitmap { block: "ram".to_owned(), bitmap: vec![7; 16] },
            ReturnMessage::ResumeAck(RESUMED),
            ReturnMessage::Shut(1),
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(ReturnMessage::encode).collect();
        let mut from = bytes.as_slice();
        for message in sent {
            assert_eq!(ReturnMessage::read(&mut from, 16).await.unwrap(), Some(message));
        }
        assert_eq!(ReturnMessage::read(&mut from, 16).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        for bytes in [&[0, 9, 0, 0][..], &[0, 1, 0, 5, 0], &[0x75, 0x73, 0xff, 0xff], &[0, 2, 0]] {
            assert!(ReturnMessage::read(&mut &bytes[..], 8).await.is_err(), "{bytes:?}");
        }
        let names = [&[0, 3, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0, 5, 0, 2, 2]];
        for bytes in names {
            assert!(ReturnMessage::read(&mut &bytes[..], 8).await.is_err(), "{bytes:?}");
        }
        // A bitmap longer than any block's, one cut short, one with another end.
        let bitmap = ReturnMessage::RecvBitmap { block: "x".to_owned(), bitmap: vec![1; 8] };
        let mut bytes = bitmap.encode();
        assert_eq!(ReturnMessage::read(&mut &bytes[..], 8).await.unwrap(), Some(bitmap));
        assert!(ReturnMessage::read(&mut &bytes[..], 7).await.is_err());
        assert!(ReturnMessage::read(&mut &bytes[..bytes.len() - 1], 8).await.is_err());
        *bytes.last_mut().unwrap() ^= 1;
        assert!(ReturnMessage::read(&mut &bytes[..], 8).await.is_err());
        let nasty = ReturnMessage::Reason("a\x1b[2Jb\n".to_owned()).encode();
        let read = ReturnMessage::read(&mut nasty.as_slice(), 0).await.unwrap();
        assert_eq!(read, Some(ReturnMessage::Reason("a[2Jb".to_owned())));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let encoded = ReturnMessage::Reason("é".repeat(REASON_MAX)).encode();
        assert!(encoded.len() <= REASON_MAX + 4);
        assert!(std::str::from_utf8(&encoded[4..]).is_ok());
    }
}
