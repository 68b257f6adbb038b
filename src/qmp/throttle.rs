//! Rate limits of events: what a guest can cause as often as it likes is told once a second, the
//! last of what came meanwhile at the second's end.

use std::collections::HashMap;
use std::time::Duration;

use actix::Message;

use super::event::Event;
use crate::actors::timer::TimerLine;
use crate::qtest::stepped::SteppedClock;

/// The time between two events of one kind.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// The events that are limited, and the member of their data whose values are limited separately.
const LIMITED: [(&str, Option<&str>); 6] = [
    ("BALLOON_CHANGE", None),
    ("BLOCK_IO_ERROR", Some("qom-path")),
    ("MEMORY_DEVICE_SIZE_CHANGE", Some("qom-path")),
    ("RTC_CHANGE", None),
    ("VSERPORT_CHANGE", Some("id")),
    ("WATCHDOG", None),
];

/// What is limited together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    event: &'static str,
    of: Option<String>,
}

impl Kind {
    fn of(event: &Event) -> Option<Self> {
        let name = event.0["event"].as_str()?;
        let (event_name, member) = LIMITED.into_iter().find(|(limited, _)| *limited == name)?;
        let of = member.and_then(|member| Some(event.0["data"][member].as_str()?.to_owned()));
        Some(Self { event: event_name, of })
    }
}

/// What to do with an event.
#[derive(Debug)]
pub enum Verdict {
    Send(Event),
    /// Send it, and call [`Throttle::elapsed`] after [`INTERVAL`].
    SendAndWait(Event, Kind),
    /// It waits for the interval's end.
    Keep,
}

/// The intervals that are under way, each with the event that is sent at its end.
#[derive(Debug, Default)]
pub struct Throttle(HashMap<Kind, Option<Event>>);

impl Throttle {
    /// An event has come.
    pub fn judge(&mut self, event: Event) -> Verdict {
        let Some(kind) = Kind::of(&event) else { return Verdict::Send(event) };
        match self.0.get_mut(&kind) {
            Some(kept) => {
                *kept = Some(event);
                Verdict::Keep
            }
            None => {
                self.0.insert(kind.clone(), None);
                Verdict::SendAndWait(event, kind)
            }
        }
    }

    /// An interval is over: what is to be sent, with which another begins.
    pub fn elapsed(&mut self, kind: &Kind) -> Option<Event> {
        let kept = self.0.get_mut(kind)?.take();
        if kept.is_none() {
            self.0.remove(kind);
        }
        kept
    }
}

/// Whoever steps the machine's clock → monitor: intervals are measured by that, as everything else
/// is then.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct MeasureBy(pub SteppedClock);

/// The ends of intervals, in virtual nanoseconds.
#[derive(Debug)]
pub struct SteppedIntervals {
    clock: SteppedClock,
    line: TimerLine,
    ends: Vec<(u64, Kind)>,
}

impl SteppedIntervals {
    pub fn new(clock: SteppedClock, line: TimerLine) -> Self {
        Self { clock, line, ends: Vec::new() }
    }

    fn now(&self) -> u64 {
        self.clock.clock.now_ns()
    }

    fn arm(&self) {
        self.line.arm(self.ends.iter().map(|(end, _)| *end).min());
    }

    /// An interval begins now.
    pub fn begin(&mut self, kind: Kind) {
        self.ends.push((self.now().saturating_add(INTERVAL.as_nanos() as u64), kind));
        self.arm();
    }

    /// Those that are over.
    pub fn over(&mut self) -> Vec<Kind> {
        let now = self.now();
        let over = self.ends.extract_if(.., |(end, _)| *end <= now);
        let over = over.map(|(_, kind)| kind).collect();
        self.arm();
        over
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn failed(path: &str, reason: &str) -> Event {
        let data = json!({"qom-path": path, "reason": reason});
        Event(Arc::new(json!({"event": "BLOCK_IO_ERROR", "data": data})))
    }

    #[test]
    fn one_an_interval_and_the_last_one_at_its_end() {
        let mut throttle = Throttle::default();
        let stop = Event(Arc::new(json!({"event": "STOP"})));
        for _ in 0..3 {
            assert!(matches!(throttle.judge(stop.clone()), Verdict::Send(_)));
        }
        let Verdict::SendAndWait(_, kind) = throttle.judge(failed("/a", "1")) else { panic!() };
        // Another device has an interval of its own.
        assert!(matches!(throttle.judge(failed("/b", "1")), Verdict::SendAndWait(..)));
        for reason in ["2", "3"] {
            assert!(matches!(throttle.judge(failed("/a", reason)), Verdict::Keep));
        }
        assert_eq!(throttle.elapsed(&kind).unwrap().0["data"]["reason"], "3");
        assert!(matches!(throttle.judge(failed("/a", "4")), Verdict::Keep));
        assert_eq!(throttle.elapsed(&kind).unwrap().0["data"]["reason"], "4");
        assert!(throttle.elapsed(&kind).is_none());
        assert!(matches!(throttle.judge(failed("/a", "5")), Verdict::SendAndWait(..)));
    }
}
