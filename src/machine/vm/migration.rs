//! The machine's part in a migration: it is held while the last of it is sent, and arrives. It is
//! held for a dump likewise.

use super::*;
use crate::block::message::{Activate, Inactivate};

/// How long another machine that ends may take to let go of the images.
const LET_GO: Duration = Duration::from_secs(1);
/// How often it is tried.
const AGAIN: Duration = Duration::from_millis(50);

impl Vm {
    /// A future that takes the drives' images: all or none.
    fn take_drives(&self, patience: Duration) -> impl Future<Output = Result<(), VmError>> + use<> {
        let drives = if self.owns_drives { Vec::new() } else { self.parts.drives.clone() };
        async move {
            let begun = tokio::time::Instant::now();
            loop {
                let taken = activate(&drives).await;
                if taken.is_ok() || begun.elapsed() >= patience {
                    return taken;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Run, if the drives are to be had.
    pub(super) fn start_with_drives(
        &mut self,
        patience: Duration,
    ) -> ResponseActFuture<Self, Result<(), VmError>> {
        let taken = self.take_drives(patience).into_actor(self);
        Box::pin(taken.then(|taken, vm: &mut Self, _| match taken {
            Ok(()) => {
                vm.owns_drives = true;
                vm.start()
            }
            refused => Box::pin(actix::fut::ready(refused)),
        }))
    }
}

/// Take every drive, or leave those that were taken.
async fn activate(drives: &[Ownership]) -> Result<(), VmError> {
    for (taken, drive) in drives.iter().enumerate() {
        let answer = ask(drive.activate.send(Activate), "a drive").await;
        if let Err(refusal) = answer.and_then(|answer| answer.map_err(VmError)) {
            for taken in &drives[..taken] {
                // What is to be told is why the other was not to be had.
                let _ = ask(taken.inactivate.send(Inactivate), "a drive").await;
            }
            return Err(refusal);
        }
    }
    Ok(())
}

impl Handler<ReleaseDrives> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, _: ReleaseDrives, _: &mut Self::Context) -> Self::Result {
        if !matches!(self.state, RunState::FinishMigrate | RunState::Inmigrate) {
            let name = serde_json::to_value(self.state).unwrap_or_default();
            let text = format!("a machine in state {name} keeps its drives");
            return AtomicResponse::new(Box::pin(actix::fut::ready(Err(VmError(text)))));
        }
        // Some may be gone when one refuses: the machine has to take them all before it runs.
        self.owns_drives = false;
        let drives = self.parts.drives.clone();
        let released = async move {
            for drive in &drives {
                ask(drive.inactivate.send(Inactivate), "a drive").await?.map_err(VmError)?;
            }
            Ok(())
        };
        AtomicResponse::new(Box::pin(released.into_actor(self)))
    }
}

impl Handler<TakeDrives> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, message: TakeDrives, _: &mut Self::Context) -> Self::Result {
        let stays = |was| was != RunState::Running || !self.run_on_arrival;
        if message.only_to_run.is_some_and(stays) {
            // `cont` takes them.
            return AtomicResponse::new(Box::pin(actix::fut::ready(Ok(()))));
        }
        let taken = self.take_drives(LET_GO).into_actor(self);
        AtomicResponse::new(Box::pin(taken.map(|taken, vm: &mut Self, _| {
            vm.owns_drives |= taken.is_ok();
            taken
        })))
    }
}

impl Handler<Quiesce> for Vm {
    type Result = AtomicResponse<Self, Result<Quiesced, VmError>>;

    fn handle(&mut self, _: Quiesce, ctx: &mut Self::Context) -> Self::Result {
        let was = self.state;
        if matches!(was, RunState::InternalError | RunState::FinishMigrate | RunState::Inmigrate) {
            let name = serde_json::to_value(was).unwrap_or_default();
            let text = format!("a machine in state {name} cannot be migrated");
            return AtomicResponse::new(Box::pin(actix::fut::ready(Err(VmError(text)))));
        }
        let held = Quiesced::new(was, ctx.address().recipient());
        let stopped = self.stop_to(RunState::FinishMigrate);
        AtomicResponse::new(Box::pin(stopped.map(|stopped, _, _| stopped.map(|()| held))))
    }
}

impl Handler<HoldForDump> for Vm {
    type Result = AtomicResponse<Self, Result<Quiesced, VmError>>;

    fn handle(&mut self, _: HoldForDump, ctx: &mut Self::Context) -> Self::Result {
        let held = Quiesced::new(self.state, ctx.address().recipient());
        AtomicResponse::new(match self.running() {
            true => {
                let stopped = self.stop_to(RunState::SaveVm);
                Box::pin(stopped.map(|stopped, _, _| stopped.map(|()| held)))
            }
            false => Box::pin(actix::fut::ready(Ok(held))),
        })
    }
}

impl Handler<Unquiesce> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, Unquiesce { was }: Unquiesce, _: &mut Self::Context) -> Self::Result {
        AtomicResponse::new(match self.state {
            RunState::FinishMigrate => {
                let taken = self.take_drives(LET_GO).into_actor(self);
                Box::pin(taken.then(move |taken, vm: &mut Self, _| {
                    // Whatever happens, it is not a migration's any more.
                    let state = match was {
                        RunState::Running => RunState::Paused,
                        was => was,
                    };
                    vm.enter(state);
                    vm.owns_drives |= taken.is_ok();
                    match taken {
                        Ok(()) if was == RunState::Running => vm.start(),
                        taken => Box::pin(actix::fut::ready(taken)),
                    }
                }))
            }
            RunState::SaveVm => self.start(),
            // A shutdown or a failure has come between, or the machine did not run.
            _ => Box::pin(actix::fut::ready(Ok(()))),
        })
    }
}

impl Handler<HandOver> for Vm {
    type Result = Result<(), VmError>;

    fn handle(&mut self, _: HandOver, _: &mut Self::Context) -> Self::Result {
        if self.state == RunState::FinishMigrate {
            self.enter(RunState::Postmigrate);
        }
        Ok(())
    }
}

impl Handler<Arrived> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, Arrived { was }: Arrived, _: &mut Self::Context) -> Self::Result {
        AtomicResponse::new(match (self.state, was) {
            (RunState::Inmigrate, RunState::Running) if self.run_on_arrival => {
                self.start_with_drives(LET_GO)
            }
            (RunState::Inmigrate, was) => {
                self.enter(if was == RunState::Running { RunState::Paused } else { was });
                Box::pin(actix::fut::ready(Ok(())))
            }
            _ => Box::pin(actix::fut::ready(Err(VmError(
                "the machine does not wait for a migration".to_owned(),
            )))),
        })
    }
}
