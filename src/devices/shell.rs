//! The shell of every device: one actor type around any register file.
//!
//! A [`Device`] is plain data and the outlets that it drives; it knows nothing of actors but its
//! own address. [`Shell`] makes an actor of it: it checks that an access is one that the device
//! decodes and handles the messages that every device understands. What back ends and timers say
//! to one kind of device is a `Handler` on the shell of that kind, in the device's own module.

use actix::{Actor, Addr, Handler};

use crate::actors::context::InlineContext;
use crate::actors::message::{
    LoadState, MmioFault, MmioRead, MmioWrite, Pause, Reset, Resume, SaveState,
};
use crate::migration::vmstate::{self, Section, StateError, VmState};

/// Direction of a register access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A register file and what it drives.
pub trait Device: Sized + Unpin + 'static {
    /// Size of the register window in bytes.
    const SIZE: u64;

    /// Whether an access of `width` bytes (1, 2, 4, 8) at `offset`, below `SIZE`, means anything
    /// to the device.
    fn decodes(&self, access: Access, offset: u64, width: u8) -> bool;

    /// The registers at a decoded offset, zero-extended.
    fn read(&mut self, offset: u64, width: u8) -> u64;

    /// Write the low `width` bytes of `value` at a decoded offset.
    fn write(&mut self, offset: u64, width: u8, value: u64);

    /// The device has an address: back ends and timers can be told where to answer.
    fn started(&mut self, _address: &Addr<Shell<Self>>) {}

    /// Return to the state after power-on (see `actors::lifecycle`).
    fn reset(&mut self) {}

    /// Start no work towards a back end until `resume`.
    fn pause(&mut self) {}

    /// Start what `pause` held back.
    fn resume(&mut self) {}
}

/// A device whose state migrates.
pub trait Migrate: Device {
    /// What travels.
    type State: VmState;

    /// The state now. Nothing changes, so that the device can go on after a migration that failed.
    fn save(&self) -> Result<Self::State, StateError>;

    /// Be in this state, lines and timers too.
    fn load(&mut self, state: Self::State) -> Result<(), StateError>;
}

/// The actor around a device.
#[derive(Debug)]
pub struct Shell<D>(pub D);

impl<D: Device> Actor for Shell<D> {
    type Context = InlineContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.0.started(&ctx.address());
    }
}

impl<D: Device> Shell<D> {
    fn check(&self, access: Access, offset: u64, width: u8) -> Result<(), MmioFault> {
        if offset >= D::SIZE {
            return Err(MmioFault::Unmapped);
        }
        if !matches!(width, 1 | 2 | 4 | 8) || !self.0.decodes(access, offset, width) {
            return Err(MmioFault::Width);
        }
        // What is decoded may still stick out at the end.
        if D::SIZE - offset < u64::from(width) { Err(MmioFault::Unmapped) } else { Ok(()) }
    }
}

impl<D: Device> Handler<MmioRead> for Shell<D> {
    type Result = Result<u64, MmioFault>;

    fn handle(
        &mut self,
        MmioRead { offset, width }: MmioRead,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.check(Access::Read, offset, width)?;
        Ok(self.0.read(offset, width))
    }
}

impl<D: Device> Handler<MmioWrite> for Shell<D> {
    type Result = Result<(), MmioFault>;

    fn handle(&mut self, write: MmioWrite, _: &mut Self::Context) -> Self::Result {
        let MmioWrite { offset, width, value } = write;
        self.check(Access::Write, offset, width)?;
        self.0.write(offset, width, value);
        Ok(())
    }
}

impl<D: Device> Handler<Reset> for Shell<D> {
    type Result = ();

    fn handle(&mut self, _: Reset, _: &mut Self::Context) {
        self.0.reset();
    }
}

impl<D: Device> Handler<Pause> for Shell<D> {
    type Result = ();

    fn handle(&mut self, _: Pause, _: &mut Self::Context) {
        self.0.pause();
    }
}

impl<D: Device> Handler<Resume> for Shell<D> {
    type Result = ();

    fn handle(&mut self, _: Resume, _: &mut Self::Context) {
        self.0.resume();
    }
}

impl<D: Migrate> Handler<SaveState> for Shell<D> {
    type Result = Result<Section, StateError>;

    fn handle(&mut self, _: SaveState, _: &mut Self::Context) -> Self::Result {
        vmstate::save(&mut self.0.save()?)
    }
}

impl<D: Migrate> Handler<LoadState> for Shell<D> {
    type Result = Result<usize, StateError>;

    fn handle(&mut self, load: LoadState, _: &mut Self::Context) -> Self::Result {
        let mut state = self.0.save()?;
        let taken = vmstate::load(&mut state, load.version, &load.bytes)?;
        self.0.load(state)?;
        Ok(taken)
    }
}
