//! The states of a migration.

use std::fmt;
use std::sync::Arc;

use crate::actors::context::panic_reason;

/// QAPI `MigrationStatus`.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationStatus {
    None,
    Setup,
    Cancelling,
    Cancelled,
    Active,
    PostcopyActive,
    PostcopyPaused,
    PostcopyRecoverSetup,
    PostcopyRecover,
    Completed,
    Failed,
    PreSwitchover,
    Device,
    WaitUnplug,
}

impl MigrationStatus {
    /// The name that QAPI has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Setup => "setup",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Active => "active",
            Self::PostcopyActive => "postcopy-active",
            Self::PostcopyPaused => "postcopy-paused",
            Self::PostcopyRecoverSetup => "postcopy-recover-setup",
            Self::PostcopyRecover => "postcopy-recover",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::WaitUnplug => "wait-unplug",
        }
    }

    /// Nothing more happens unless somebody asks for it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::None | Self::Cancelled | Self::Completed | Self::Failed)
    }

    /// The guest's memory is on both sides: neither can go on alone.
    pub fn is_postcopy(self) -> bool {
        matches!(
            self,
            Self::PostcopyActive
                | Self::PostcopyPaused
                | Self::PostcopyRecoverSetup
                | Self::PostcopyRecover
        )
    }
}

impl fmt::Display for MigrationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a migration failed: one whole sentence, made where the fault was known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{0}")]
pub struct ErrorDesc(Arc<str>);

impl ErrorDesc {
    pub fn new(sentence: impl Into<Arc<str>>) -> Self {
        Self(sentence.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What refuses `migrate-pause`, on either side.
    pub(super) fn not_postcopy() -> Self {
        Self::new(
            "migrate-pause is currently only supported during postcopy-active or \
             postcopy-recover state",
        )
    }

    /// Why a postcopy is paused after `migrate-pause`.
    pub(super) fn paused_by_user() -> Self {
        Self::new("Postcopy migration is paused by the user")
    }

    /// Why a task that did `what` has no result: what its panic said.
    pub(super) fn of_task(died: tokio::task::JoinError, what: &str) -> Self {
        match died.try_into_panic() {
            Ok(panic) => Self::from(format!("{what} has panicked: {}", panic_reason(&*panic))),
            Err(_) => Self::from(format!("{what} was stopped")),
        }
    }
}

impl From<String> for ErrorDesc {
    fn from(sentence: String) -> Self {
        Self::new(sentence)
    }
}

/// A state that a migration has entered, with what belongs to it. Failure cannot be told without
/// its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationState {
    Setup,
    WaitUnplug,
    Active,
    PreSwitchover,
    Device,
    PostcopyActive,
    /// The connection was lost; a recovery may follow.
    PostcopyPaused(ErrorDesc),
    PostcopyRecoverSetup,
    PostcopyRecover,
    Completed,
    Cancelling,
    /// With a reason if something went wrong before or during the cancellation.
    Cancelled(Option<ErrorDesc>),
    Failed(ErrorDesc),
}

impl MigrationState {
    pub fn status(&self) -> MigrationStatus {
        match self {
            Self::Setup => MigrationStatus::Setup,
            Self::WaitUnplug => MigrationStatus::WaitUnplug,
            Self::Active => MigrationStatus::Active,
            Self::PreSwitchover => MigrationStatus::PreSwitchover,
            Self::Device => MigrationStatus::Device,
            Self::PostcopyActive => MigrationStatus::PostcopyActive,
            Self::PostcopyPaused(_) => MigrationStatus::PostcopyPaused,
            Self::PostcopyRecoverSetup => MigrationStatus::PostcopyRecoverSetup,
            Self::PostcopyRecover => MigrationStatus::PostcopyRecover,
            Self::Completed => MigrationStatus::Completed,
            Self::Cancelling => MigrationStatus::Cancelling,
            Self::Cancelled(_) => MigrationStatus::Cancelled,
            Self::Failed(_) => MigrationStatus::Failed,
        }
    }

    /// The reason that this state carries.
    pub fn reason(&self) -> Option<&ErrorDesc> {
        match self {
            Self::Failed(reason) | Self::PostcopyPaused(reason) => Some(reason),
            Self::Cancelled(reason) => reason.as_ref(),
            _ => None,
        }
    }
}
