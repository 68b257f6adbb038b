//! `x-query-…`: what the human monitor's `info` shows, for programs that pass it on to people.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::hmp;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// QAPI `HumanReadableText`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HumanReadableText {
    pub human_readable_text: String,
}

macro_rules! as_info_shows {
    ($($(#[$doc:meta])* $command:ident $name:literal $line:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Deserialize, schemars::JsonSchema)]
        pub struct $command {}

        impl Command for $command {
            const NAME: &'static str = $name;
            type Return = HumanReadableText;

            async fn run(self, services: &Arc<Services>) -> Result<HumanReadableText, QmpError> {
                let human_readable_text = hmp::command::show(services, $line).await?;
                Ok(HumanReadableText { human_readable_text })
            }
        }
    )*};
}

as_info_shows! {
    /// `x-query-interrupt-controllers`.
    XQueryInterruptControllers "x-query-interrupt-controllers" "info pic";
    /// `x-query-irq`.
    XQueryIrq "x-query-irq" "info irq";
    /// `x-query-jit`.
    XQueryJit "x-query-jit" "info jit";
    /// `x-query-numa`.
    XQueryNuma "x-query-numa" "info numa";
    /// `x-query-opcount`.
    XQueryOpcount "x-query-opcount" "info opcount";
    /// `x-query-ramblock`.
    XQueryRamblock "x-query-ramblock" "info ramblock";
    /// `x-query-roms`.
    XQueryRoms "x-query-roms" "info roms";
}
