//! TPMs: there are none, neither models nor back ends.

use std::convert::Infallible;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// QAPI `TPMInfo`.
#[derive(Debug, Clone, Copy, Serialize, schemars::JsonSchema)]
pub struct TpmInfo {
    #[serde(skip)]
    pub never: Infallible,
}

/// QAPI `TpmModel`.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum TpmModel {}

/// QAPI `TpmType`.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum TpmType {}

macro_rules! enumeration_of_none {
    ($($name:ident)*) => {$(
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "enum": []})
            }
        }
    )*};
}

enumeration_of_none! { TpmModel TpmType }

macro_rules! lists_none {
    ($($(#[$doc:meta])* $command:ident $name:literal of $item:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Deserialize, schemars::JsonSchema)]
        pub struct $command {}

        impl Command for $command {
            const NAME: &'static str = $name;
            type Return = Vec<$item>;

            async fn run(self, _: &Arc<Services>) -> Result<Vec<$item>, QmpError> {
                Ok(Vec::new())
            }
        }
    )*};
}

lists_none! {
    /// `query-tpm`.
    QueryTpm "query-tpm" of TpmInfo;
    /// `query-tpm-models`.
    QueryTpmModels "query-tpm-models" of TpmModel;
    /// `query-tpm-types`.
    QueryTpmTypes "query-tpm-types" of TpmType;
}
