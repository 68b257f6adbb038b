//! Keeping to `max-bandwidth`.

use std::time::Duration;

use tokio::time::Instant;

/// Longest time that may be caught up on, so that a pause is not followed by a burst.
const SLACK: Duration = Duration::from_millis(20);

/// A schedule of bytes: the line is free again when what was sent has had its time.
#[derive(Debug)]
pub struct Pace {
    free: Instant,
}

impl Pace {
    pub fn new() -> Self {
        Self { free: Instant::now() }
    }

    /// Bytes to send at once at `rate` bytes a second (0 is no limit), at most `most`: few enough
    /// that a slow line moves many times a second.
    pub fn chunk(rate: u64, most: usize) -> usize {
        match rate {
            0 => most,
            rate => (rate / 50).clamp(4 << 10, most as u64) as usize,
        }
    }

    /// Account for `bytes` at `rate` bytes a second, and say when they may go.
    pub fn admit(&mut self, bytes: usize, rate: u64) -> Option<Instant> {
        if rate == 0 {
            return None;
        }
        let now = Instant::now();
        let start = self.free.max(now.checked_sub(SLACK).unwrap_or(now));
        self.free = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        (start > now).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_at_a_rate_is_the_rate() {
        for rate in [10_000, 2 << 20, 128 << 20, 5_000_000_000] {
            let (mut pace, begun, mut sent) = (Pace::new(), Instant::now(), 0_u64);
            while begun.elapsed() < Duration::from_secs(1) {
                let chunk = Pace::chunk(rate, 256 << 10);
                if let Some(at) = pace.admit(chunk, rate) {
                    tokio::time::sleep_until(at).await;
                }
                sent += chunk as u64;
            }
            let off = sent.abs_diff(rate) as f64 / rate as f64;
            assert!(off < 0.05 || sent.abs_diff(rate) <= 8 << 10, "{rate}: {sent}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_followed_by_a_burst() {
        let mut pace = Pace::new();
        pace.admit(1000, 1000);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(pace.admit(1000, 1000), None);
        assert!(pace.admit(1000, 1000).is_some());
    }
}
