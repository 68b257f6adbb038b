//! Capabilities and parameters of migrations.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::migration::bitmap_mapping::NodeAlias;
use crate::migration::cache::MigrationCache;
use crate::migration::capability::Capability;
use crate::migration::message::{Side, UpdateParameters};
use crate::migration::parameters::{MigMode, MultifdCompression, Parameters, ZeroPageDetection};
use crate::migration::status::ErrorDesc;
use crate::qmp::command::{Command, Empty};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;
use crate::qmp::schema::ALTERNATE;

/// QAPI `MigrationCapabilityStatus`.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, schemars::JsonSchema)]
pub struct MigrationCapabilityStatus {
    pub capability: Capability,
    pub state: bool,
}

/// `query-migrate-capabilities`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryMigrateCapabilities {}

impl Command for QueryMigrateCapabilities {
    const NAME: &'static str = "query-migrate-capabilities";
    type Return = Vec<MigrationCapabilityStatus>;

    async fn run(
        self,
        services: &Arc<Services>,
    ) -> Result<Vec<MigrationCapabilityStatus>, QmpError> {
        let on = services.migration.settings().capabilities;
        let status =
            |capability| MigrationCapabilityStatus { capability, state: on.has(capability) };
        Ok(Capability::ALL.into_iter().map(status).collect())
    }
}

/// `migrate-set-capabilities`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct MigrateSetCapabilities {
    pub capabilities: Vec<MigrationCapabilityStatus>,
}

impl MigrateSetCapabilities {
    /// Set them all or none; what is to be said besides.
    pub fn set(self, services: &Services) -> Result<Option<&'static str>, QmpError> {
        let migration = &services.migration;
        let busy = migration.cache(MigrationCache::busy);
        if busy == Some(Side::Source) {
            return Err(in_progress());
        }
        let incoming_started = busy == Some(Side::Destination);
        let warning = migration.change(|settings| {
            let old = settings.capabilities;
            for MigrationCapabilityStatus { capability, state } in self.capabilities {
                settings.capabilities.set(capability, state);
            }
            let new = settings.capabilities;
            new.check(old, &settings.parameters, incoming_started)?;
            Ok(new.warning())
        });
        warning.map_err(refusal)
    }
}

impl Command for MigrateSetCapabilities {
    const NAME: &'static str = "migrate-set-capabilities";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        if let Some(warning) = self.set(services)? {
            crate::report::line(&format!("warning: {warning}"));
        }
        Ok(Empty {})
    }
}

/// `query-migrate-parameters`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryMigrateParameters {}

impl Command for QueryMigrateParameters {
    const NAME: &'static str = "query-migrate-parameters";
    type Return = Parameters;

    async fn run(self, services: &Arc<Services>) -> Result<Parameters, QmpError> {
        Ok(services.migration.settings().parameters)
    }
}

/// `migrate-set-parameters`: QAPI `MigrateSetParameters`, in its order.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MigrateSetParameters {
    pub announce_initial: Option<u64>,
    pub announce_max: Option<u64>,
    pub announce_rounds: Option<u64>,
    pub announce_step: Option<u64>,
    pub throttle_trigger_threshold: Option<u8>,
    pub cpu_throttle_initial: Option<u8>,
    pub cpu_throttle_increment: Option<u8>,
    pub cpu_throttle_tailslow: Option<bool>,
    #[serde(deserialize_with = "tls_creds")]
    #[schemars(with = "Option<StrOrNull>")]
    pub tls_creds: Option<String>,
    #[serde(deserialize_with = "tls_hostname")]
    #[schemars(with = "Option<StrOrNull>")]
    pub tls_hostname: Option<String>,
    #[serde(deserialize_with = "tls_authz")]
    #[schemars(with = "Option<StrOrNull>")]
    pub tls_authz: Option<String>,
    #[serde(deserialize_with = "max_bandwidth")]
    pub max_bandwidth: Option<u64>,
    pub avail_switchover_bandwidth: Option<u64>,
    pub downtime_limit: Option<u64>,
    pub x_checkpoint_delay: Option<u32>,
    pub multifd_channels: Option<u8>,
    pub xbzrle_cache_size: Option<u64>,
    pub max_postcopy_bandwidth: Option<u64>,
    pub max_cpu_throttle: Option<u8>,
    pub multifd_compression: Option<MultifdCompression>,
    pub multifd_zlib_level: Option<u8>,
    pub multifd_qatzip_level: Option<u8>,
    pub multifd_zstd_level: Option<u8>,
    pub block_bitmap_mapping: Option<Vec<NodeAlias>>,
    pub x_vcpu_dirty_limit_period: Option<u64>,
    pub vcpu_dirty_limit: Option<u64>,
    pub mode: Option<MigMode>,
    pub zero_page_detection: Option<ZeroPageDetection>,
    pub direct_io: Option<bool>,
}

impl MigrateSetParameters {
    /// Put these in their places.
    pub fn apply(self, to: &mut Parameters) {
        macro_rules! put {
            ($($given:ident $(=> $place:ident)?),* $(,)?) => {
                $(if let Some(value) = self.$given { put!(@ to value $given $($place)?); })*
            };
            (@ $to:ident $value:ident block_bitmap_mapping) => {
                $to.block_bitmap_mapping = Some($value)
            };
            (@ $to:ident $value:ident $given:ident) => { $to.$given = $value };
            (@ $to:ident $value:ident $given:ident $place:ident) => { $to.$place = $value };
        }
        put!(
            announce_initial,
            announce_max,
            announce_rounds,
            announce_step,
            throttle_trigger_threshold,
            cpu_throttle_initial,
            cpu_throttle_increment,
            cpu_throttle_tailslow,
            tls_creds,
            tls_hostname,
            tls_authz,
            max_bandwidth,
            avail_switchover_bandwidth,
            downtime_limit,
            x_checkpoint_delay,
            multifd_channels,
            xbzrle_cache_size,
            max_postcopy_bandwidth,
            max_cpu_throttle,
            multifd_compression,
            multifd_zlib_level,
            multifd_qatzip_level,
            multifd_zstd_level,
            block_bitmap_mapping,
            x_vcpu_dirty_limit_period => vcpu_dirty_limit_period,
            vcpu_dirty_limit,
            mode,
            zero_page_detection,
            direct_io,
        );
    }
}

impl Command for MigrateSetParameters {
    const NAME: &'static str = "migrate-set-parameters";
    type Return = Empty;

    async fn run(self, services: &Arc<Services>) -> Result<Empty, QmpError> {
        let migration = &services.migration;
        let new = migration.change(|settings| {
            self.apply(&mut settings.parameters);
            settings.parameters.check()?;
            settings.capabilities.check_parameters(&settings.parameters)?;
            Ok(settings.parameters.clone())
        });
        let new = new.map_err(refusal)?;
        if migration.cache(MigrationCache::busy) == Some(Side::Source) {
            // If the source has died, that is noticed where its migration is asked about.
            migration.link()?.update.do_send(UpdateParameters(new));
        }
        Ok(Empty {})
    }
}

/// What refuses changes, and further migrations, while one is under way.
pub fn in_progress() -> QmpError {
    QmpError::generic("There's a migration process in progress")
}

fn refusal(reason: ErrorDesc) -> QmpError {
    QmpError::generic(reason.as_str())
}

macro_rules! text_or_null {
    ($($function:ident $name:literal;)*) => {
        $(fn $function<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
            text_or_null($name, input)
        })*
    };
}

text_or_null! {
    tls_creds "tls-creds";
    tls_hostname "tls-hostname";
    tls_authz "tls-authz";
}

/// QAPI `StrOrNull`, for the schema.
struct StrOrNull;

impl JsonSchema for StrOrNull {
    fn schema_name() -> Cow<'static, str> {
        format!("{ALTERNATE}StrOrNull").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"type": "null"}]})
    }
}

/// QAPI `StrOrNull`; null stands for the empty string.
fn text_or_null<'de, D>(name: &str, input: D) -> Result<Option<String>, D::Error>
where
    D: Deserializer<'de>,
{
    match Option::deserialize(input)? {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(String::new())),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => {
            let sentence = format!("Invalid parameter type for '{name}', expected: StrOrNull");
            Err(D::Error::custom(sentence))
        }
    }
}

/// QEMU takes a rate below zero for the largest there is; it is refused here.
fn max_bandwidth<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    let value = Option::<Value>::deserialize(input)?;
    let rate = |value: Value| {
        let expects = || D::Error::custom("Parameter 'max-bandwidth' expects uint64");
        value.as_u64().ok_or_else(expects)
    };
    value.map(rate).transpose()
}
