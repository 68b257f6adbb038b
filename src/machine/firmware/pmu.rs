//! The PMU extension (SBI 2.0 chapter 11) with firmware counters only: it counts calls that this
//! firmware answered. The hardware counters `cycle` and `instret` are read by their CSRs.

use super::{Answer, SbiError, SbiHost};

/// Number of firmware counters a hart has.
pub const COUNTERS: usize = 16;

/// Firmware events (11.4) that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum FirmwareEvent {
    SetTimer = 5,
    IpiSent = 6,
    FenceISent = 8,
    SfenceVmaSent = 10,
    SfenceVmaAsidSent = 12,
}

impl FirmwareEvent {
    /// From `event_idx`: type 15 in bits 19:16, code below.
    fn from_index(index: u64) -> Option<Self> {
        const FIRMWARE: u64 = 0xf << 16;
        [
            Self::SetTimer,
            Self::IpiSent,
            Self::FenceISent,
            Self::SfenceVmaSent,
            Self::SfenceVmaAsidSent,
        ]
        .into_iter()
        .find(|&event| FIRMWARE | event as u64 == index)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counter {
    /// `None`: not configured.
    event: Option<FirmwareEvent>,
    running: bool,
    value: u64,
}

/// The firmware counters of one hart.
#[derive(Debug, Clone, Default)]
pub struct FirmwareCounters {
    counters: [Counter; COUNTERS],
}

impl FirmwareCounters {
    /// The event happened on this hart.
    pub fn count(&mut self, event: FirmwareEvent) {
        for counter in self.counters.iter_mut().filter(|c| c.running && c.event == Some(event)) {
            counter.value = counter.value.wrapping_add(1);
        }
    }

    /// Event code (0 for none), running, value of each counter, for a migration.
    pub fn saved(&self) -> Vec<(u16, bool, u64)> {
        let counters = self.counters.iter();
        counters.map(|c| (c.event.map_or(0, |e| e as u16), c.running, c.value)).collect()
    }

    /// Be as `saved` said; an unknown event is none.
    pub fn restore(&mut self, saved: &[(u16, bool, u64)]) {
        for (counter, &(code, running, value)) in self.counters.iter_mut().zip(saved) {
            let event = FirmwareEvent::from_index(0xf << 16 | u64::from(code));
            *counter = Counter { event, running: running && event.is_some(), value };
        }
    }

    fn get(&self, index: u64) -> Result<&Counter, SbiError> {
        usize::try_from(index).ok().and_then(|i| self.counters.get(i)).ok_or(SbiError::InvalidParam)
    }

    fn named(base: u64, mask: u64) -> Result<Vec<usize>, SbiError> {
        let named = (0..64).filter(|bit| mask >> bit & 1 != 0).map(|bit| base.checked_add(bit));
        named
            .map(|i| i.filter(|&i| i < COUNTERS as u64).map(|i| i as usize))
            .collect::<Option<Vec<_>>>()
            .filter(|named| !named.is_empty())
            .ok_or(SbiError::InvalidParam)
    }

    /// 11.8
    fn configure(&mut self, base: u64, mask: u64, flags: u64, event: u64) -> Result<u64, SbiError> {
        const SKIP_MATCH: u64 = 1 << 0;
        const CLEAR_VALUE: u64 = 1 << 1;
        const AUTO_START: u64 = 1 << 2;
        // Bits 3 to 7 restrict hardware counters by privilege mode; firmware runs in none of them.
        if flags >> 8 != 0 {
            return Err(SbiError::InvalidParam);
        }
        let named = Self::named(base, mask)?;
        let event = FirmwareEvent::from_index(event).ok_or(SbiError::NotSupported)?;
        let chosen = if flags & SKIP_MATCH != 0 {
            named.first().copied().filter(|&i| self.counters[i].event.is_some())
        } else {
            named.into_iter().find(|&i| self.counters[i].event.is_none())
        };
        let index = chosen.ok_or(match flags & SKIP_MATCH {
            0 => SbiError::NotSupported,
            _ => SbiError::InvalidParam,
        })?;
        let counter = &mut self.counters[index];
        counter.event = Some(event);
        counter.running = flags & AUTO_START != 0;
        if flags & CLEAR_VALUE != 0 {
            counter.value = 0;
        }
        Ok(index as u64)
    }

    /// 11.9
    fn start(&mut self, base: u64, mask: u64, flags: u64, value: u64) -> Result<u64, SbiError> {
        const SET_INITIAL: u64 = 1 << 0;
        const FROM_SNAPSHOT: u64 = 1 << 1;
        if flags & FROM_SNAPSHOT != 0 || flags >> 2 != 0 {
            return Err(SbiError::InvalidParam);
        }
        self.start_or_stop(base, mask, SbiError::AlreadyStarted, |counter| {
            let was = std::mem::replace(&mut counter.running, true);
            if !was && flags & SET_INITIAL != 0 {
                counter.value = value;
            }
            !was
        })
    }

    /// 11.10
    fn stop(&mut self, base: u64, mask: u64, flags: u64) -> Result<u64, SbiError> {
        const RESET: u64 = 1 << 0;
        if flags >> 1 != 0 {
            return Err(SbiError::InvalidParam);
        }
        self.start_or_stop(base, mask, SbiError::AlreadyStopped, |counter| {
            let was = std::mem::replace(&mut counter.running, false);
            if flags & RESET != 0 {
                counter.event = None;
            }
            was
        })
    }

    /// Apply `change` to each counter; `already` when one of them was in the state asked for.
    fn start_or_stop(
        &mut self,
        base: u64,
        mask: u64,
        already: SbiError,
        change: impl Fn(&mut Counter) -> bool,
    ) -> Result<u64, SbiError> {
        let named = Self::named(base, mask)?;
        if named.iter().any(|&i| self.counters[i].event.is_none()) {
            return Err(SbiError::InvalidParam);
        }
        let mut all_changed = true;
        for i in named {
            all_changed &= change(&mut self.counters[i]);
        }
        if all_changed { Ok(0) } else { Err(already) }
    }
}

/// Answer a PMU call.
pub(super) fn call(host: &mut dyn SbiHost, function: u64, a: &[u64; 8]) -> Answer {
    let counters = host.counters();
    match function {
        0 => Ok(COUNTERS as u64),
        // 11.7: bit 63 set means a firmware counter; the other fields are then zero.
        1 => counters.get(a[0]).map(|_| 1 << 63),
        2 => counters.configure(a[0], a[1], a[2], a[3]),
        3 => counters.start(a[0], a[1], a[2], a[3]),
        4 => counters.stop(a[0], a[1], a[2]),
        5 => counters.get(a[0]).map(|counter| counter.value),
        // The upper half of a value, for RV32: zero here (11.12).
        6 => counters.get(a[0]).map(|_| 0),
        _ => Err(SbiError::NotSupported),
    }
}
