//! The machine's part in a migration: it is held while the last of it is sent, and arrives.

use super::*;

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

impl Handler<Unquiesce> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, Unquiesce { was }: Unquiesce, _: &mut Self::Context) -> Self::Result {
        AtomicResponse::new(match self.state {
            RunState::FinishMigrate if was == RunState::Running => self.start(),
            RunState::FinishMigrate => {
                self.state = was;
                Box::pin(actix::fut::ready(Ok(())))
            }
            // A shutdown or a failure has come between.
            _ => Box::pin(actix::fut::ready(Ok(()))),
        })
    }
}

impl Handler<HandOver> for Vm {
    type Result = Result<(), VmError>;

    fn handle(&mut self, _: HandOver, _: &mut Self::Context) -> Self::Result {
        if self.state == RunState::FinishMigrate {
            self.state = RunState::Postmigrate;
        }
        Ok(())
    }
}

impl Handler<Arrived> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, Arrived { was }: Arrived, _: &mut Self::Context) -> Self::Result {
        AtomicResponse::new(match (self.state, was) {
            (RunState::Inmigrate, RunState::Running) if self.run_on_arrival => self.start(),
            (RunState::Inmigrate, was) => {
                self.state = if was == RunState::Running { RunState::Paused } else { was };
                Box::pin(actix::fut::ready(Ok(())))
            }
            _ => Box::pin(actix::fut::ready(Err(VmError(
                "the machine does not wait for a migration".to_owned(),
            )))),
        })
    }
}
