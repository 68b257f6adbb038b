//! The return path as the source hears it: read by a task of its own, judged where it is waited for.

use tokio::sync::mpsc;

use crate::migration::channel::ChannelReader;
use crate::migration::return_path::ReturnMessage;
use crate::migration::status::ErrorDesc;

/// Messages that wait to be looked at; a peer that sends more waits too.
const BACKLOG: usize = 64;

/// What the return path brought.
#[derive(Debug)]
pub(super) enum Back {
    Message(ReturnMessage),
    /// It ended; with a sentence if that was an error.
    End(Option<String>),
}

/// A message of the return path; a refusal is the error.
pub(super) fn judged(back: Option<Back>) -> Result<ReturnMessage, ErrorDesc> {
    match back {
        Some(Back::Message(ReturnMessage::Reason(reason))) => Err(told(&reason)),
        Some(Back::Message(ReturnMessage::Shut(value))) if value != 0 => {
            Err(ErrorDesc::from(format!("the destination gave up (code {value})")))
        }
        Some(Back::Message(message)) => Ok(message),
        Some(Back::End(Some(error))) => Err(ErrorDesc::from(format!("return path: {error}"))),
        Some(Back::End(None)) | None => {
            Err(ErrorDesc::new("the destination closed the connection before it was done"))
        }
    }
}

/// Read the return path until it ends. A bitmap on it has at most `bitmap_max` bytes.
pub(super) fn listen(mut from: ChannelReader, bitmap_max: u64) -> mpsc::Receiver<Back> {
    let (to, back) = mpsc::channel(BACKLOG);
    actix::spawn(async move {
        loop {
            let read = tokio::select! {
                read = ReturnMessage::read(&mut from, bitmap_max) => read,
                () = to.closed() => return,
            };
            let (heard, ends) = match read {
                Ok(Some(message)) => (Back::Message(message), false),
                Ok(None) => (Back::End(None), true),
                Err(error) => (Back::End(Some(error.to_string())), true),
            };
            if to.send(heard).await.is_err() || ends {
                return;
            }
        }
    });
    back
}

pub(super) fn told(reason: &str) -> ErrorDesc {
    ErrorDesc::from(format!("destination: {reason}"))
}
