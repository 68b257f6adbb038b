//! One hart with everything it reaches: state, interrupt lines, memory, bus, clock.

use std::sync::Arc;

use super::irq::HartIrq;
use super::isa::IsaConfig;
use super::state::HartState;
use crate::devices::bus::Bus;
use crate::machine::clock::VirtualClock;
use crate::machine::memory::GuestRam;

/// A synchronous exception, or an interrupt when bit 63 of `cause` is set. `tval` as the
/// Privileged spec 3.1.16 defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    pub cause: u64,
    pub tval: u64,
}

/// What a hart reaches outside itself.
#[derive(Debug, Clone)]
pub struct HartEnv {
    pub hartid: u64,
    pub isa: Arc<IsaConfig>,
    pub ram: Arc<GuestRam>,
    pub bus: Arc<Bus>,
    pub irq: Arc<HartIrq>,
    pub clock: Arc<VirtualClock>,
}

/// A hart as the interpreter and the helpers of translated code see it.
#[derive(Debug)]
pub struct Hart {
    pub state: Box<HartState>,
    pub env: HartEnv,
}
