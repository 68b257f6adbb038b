//! `-qtest-log`: everything received and sent, with the seconds since the client connected.

use std::fmt;
use std::io::Write;
use std::time::Instant;

/// The transcript. A log that cannot be written is given up silently, as QEMU's.
pub struct Log {
    out: Option<Box<dyn Write + Send>>,
    opened: Option<Instant>,
}

impl Log {
    /// A transcript into `out`, or none.
    pub fn new(out: Option<Box<dyn Write + Send>>) -> Self {
        Self { out, opened: None }
    }

    /// A client has connected.
    pub fn opened(&mut self) {
        self.opened = Some(Instant::now());
        self.line(format_args!("[I {:.6}] OPENED", 0.0));
    }

    /// The client is gone.
    pub fn closed(&mut self) {
        let elapsed = self.elapsed();
        self.line(format_args!("[I +{elapsed:.6}] CLOSED"));
        self.opened = None;
    }

    /// A line from the client.
    pub fn received(&mut self, line: &str) {
        let elapsed = self.elapsed();
        self.line(format_args!("[R +{elapsed:.6}] {line}"));
    }

    /// A line to the client.
    pub fn sent(&mut self, line: &str) {
        if self.opened.is_some() {
            let elapsed = self.elapsed();
            self.line(format_args!("[S +{elapsed:.6}] {line}"));
        }
    }

    fn elapsed(&self) -> f64 {
        self.opened.map_or(0.0, |opened| opened.elapsed().as_secs_f64())
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        if let Some(out) = &mut self.out
            && writeln!(out, "{line}").and_then(|()| out.flush()).is_err()
        {
            self.out = None;
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({})", self.out.is_some())
    }
}
