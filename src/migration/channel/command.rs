//! `exec:`: a command whose standard input takes the stream, or whose standard output gives it.
//!
//! What becomes of the command is part of the stream's result: an end or an error of the pipes is
//! told with its exit status and the last line that it wrote to standard error.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader, ReadBuf,
};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, oneshot};

use super::error::ChannelError;
use super::{Channel, ChannelKind};
use crate::qmp::error::os_words;
use crate::report;

/// Longest line of standard error that is kept whole, in bytes.
const LINE_MAX: u64 = 4096;
/// How long a command that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(1);
/// How long standard error may stay open after the command's end (a child of it may hold it).
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How a command ended: `None` if it did so in order, else why not.
type Fate = Option<String>;
type Ended = Pin<Box<dyn Future<Output = Fate> + Send>>;

/// Start a command; the first word is the program.
pub(super) fn spawn(words: &[String]) -> Result<Channel, ChannelError> {
    let (program, arguments) = words.split_first().map_or(("", words), |(p, a)| (p.as_str(), a));
    let failed = |error: &io::Error| ChannelError::Spawn {
        command: program.to_owned(),
        reason: os_words(error),
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Of its own, so that what the command starts ends with it.
        .process_group(0)
        .spawn()
        .map_err(|error| failed(&error))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let last_line: Arc<Mutex<String>> = Arc::default();
    let kill = Arc::new(Notify::new());
    let (tell, told) = oneshot::channel();
    tokio::spawn(attend(child, stderr, last_line, Arc::clone(&kill), tell));
    let ended: Ended = Box::pin(async {
        told.await.unwrap_or_else(|_| Some("exec: the command's end went unseen".to_owned()))
    });
    let stream =
        CommandStream { stdin, stdout, ended: Ending::Running(ended), kill: Arc::clone(&kill) };
    let shown = words.last().cloned().unwrap_or_default();
    let channel = Channel::new(stream, ChannelKind::Command, shown);
    Ok(channel.stopped_by(move || kill.notify_one()))
}

/// Follow a command to its end, and tell how it ended.
async fn attend(
    mut child: Child,
    stderr: Option<ChildStderr>,
    last_line: Arc<Mutex<String>>,
    kill: Arc<Notify>,
    tell: oneshot::Sender<Fate>,
) {
    let listening = stderr.map(|stderr| tokio::spawn(listen(stderr, Arc::clone(&last_line))));
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let status = tokio::select! {
        status = child.wait() => status,
        () = kill.notified() => end(&mut child, group).await,
    };
    if let Some(listening) = listening {
        let aborting = listening.abort_handle();
        if tokio::time::timeout(LAST_WORDS, listening).await.is_err() {
            aborting.abort();
        }
    }
    let fate = match status {
        Ok(status) => sentence(status, &last_line.lock()),
        Err(error) => Some(format!("exec: waiting for the command: {}", os_words(&error))),
    };
    // Nobody asks once the channel is gone.
    let _ = tell.send(fate);
}

/// Ask a command and its children to end, then make them.
async fn end(child: &mut Child, group: Option<Pid>) -> io::Result<ExitStatus> {
    for signal in [Signal::TERM, Signal::KILL] {
        if let Some(group) = group {
            // Fails only if all of them have ended, which `wait` will tell.
            let _ = rustix::process::kill_process_group(group, signal);
        }
        if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
            return status;
        }
    }
    Err(io::Error::other("it does not end"))
}

/// Pass standard error on, and remember its last line.
async fn listen(stderr: ChildStderr, last_line: Arc<Mutex<String>>) {
    let mut reader = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !line.is_empty() {
                    report::line(&format!("exec: {line}"));
                    *last_line.lock() = line;
                }
            }
        }
    }
}

fn sentence(status: ExitStatus, last_line: &str) -> Fate {
    let mut sentence = match (status.code(), status.signal()) {
        (Some(0), _) => return None,
        (Some(code), _) => format!("exec: command exited with status {code}"),
        (None, Some(signal)) => format!("exec: command was killed by signal {signal}"),
        (None, None) => format!("exec: command ended: {status}"),
    };
    if !last_line.is_empty() {
        sentence.push_str(": ");
        sentence.push_str(last_line);
    }
    Some(sentence)
}

enum Ending {
    Running(Ended),
    Over(Fate),
}

struct CommandStream {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    ended: Ending,
    kill: Arc<Notify>,
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        // A command that has read everything has ended already; any other is of no use now.
        self.kill.notify_one();
    }
}

impl CommandStream {
    fn poll_fate(&mut self, cx: &mut Context<'_>) -> Poll<Fate> {
        if let Ending::Running(ended) = &mut self.ended {
            self.ended = Ending::Over(ready!(ended.as_mut().poll(cx)));
        }
        match &self.ended {
            Ending::Over(fate) => Poll::Ready(fate.clone()),
            Ending::Running(_) => Poll::Pending,
        }
    }

    /// The command takes no more: say how it ended.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stdin = None;
        let early = || "exec: command exited before it had read the whole stream".to_owned();
        let fate = ready!(self.poll_fate(cx)).unwrap_or_else(early);
        Poll::Ready(io::Error::new(io::ErrorKind::BrokenPipe, fate))
    }
}

impl AsyncRead for CommandStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Some(stdout) = &mut self.stdout {
            ready!(Pin::new(stdout).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            // It has no more to say, so there is nothing for it to wait for.
            self.stdout = None;
            self.stdin = None;
        }
        match ready!(self.poll_fate(cx)) {
            None => Poll::Ready(Ok(())),
            Some(fate) => Poll::Ready(Err(io::Error::other(fate))),
        }
    }
}

impl AsyncWrite for CommandStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(stdin) = &mut self.stdin {
            match ready!(Pin::new(stdin).poll_write(cx, bytes)) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                result => return Poll::Ready(result),
            }
        }
        self.poll_refusal(cx).map(Err)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Close the command's input and wait for its end. A command that succeeds without reading
    /// everything has not kept everything either, but only it can know that.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin = None;
        match ready!(self.poll_fate(cx)) {
            None => Poll::Ready(Ok(())),
            Some(fate) => Poll::Ready(Err(io::Error::other(fate))),
        }
    }
}
