//! Jobs. Nothing starts one yet, so none is ever found.

use std::convert::Infallible;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// QAPI `JobInfo`.
#[derive(Debug, Clone, Copy, Serialize, schemars::JsonSchema)]
pub struct JobInfo {
    #[serde(skip)]
    pub never: Infallible,
}

/// `query-jobs`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryJobs {}

impl Command for QueryJobs {
    const NAME: &'static str = "query-jobs";
    type Return = Vec<JobInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<JobInfo>, QmpError> {
        Ok(Vec::new())
    }
}

macro_rules! of_a_job {
    ($($(#[$doc:meta])* $command:ident $name:literal)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Deserialize, schemars::JsonSchema)]
        pub struct $command {
            pub id: String,
        }

        impl Command for $command {
            const NAME: &'static str = $name;
            type Return = Empty;

            async fn run(self, _: &Arc<Services>) -> Result<Empty, QmpError> {
                Err(QmpError::generic("Job not found"))
            }
        }
    )*};
}

of_a_job! {
    /// `job-pause`.
    JobPause "job-pause"
    /// `job-resume`.
    JobResume "job-resume"
    /// `job-cancel`.
    JobCancel "job-cancel"
    /// `job-complete`.
    JobComplete "job-complete"
    /// `job-dismiss`.
    JobDismiss "job-dismiss"
    /// `job-finalize`.
    JobFinalize "job-finalize"
}
