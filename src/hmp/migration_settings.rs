//! Capabilities and parameters of migrations.

use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::command::Call;
use crate::migration::capability::Capability;
use crate::migration::parameter_text;
use crate::migration::parameters::Parameters;
use crate::qmp::command::Command;
use crate::qmp::commands::migration_settings::{
    MigrateSetCapabilities, MigrateSetParameters, MigrationCapabilityStatus,
    QueryMigrateCapabilities, QueryMigrateParameters,
};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;
use crate::qmp::visit;

type Outcome = Result<(), QmpError>;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

/// Names of capabilities.
pub(super) async fn capabilities(_: &Arc<Services>) -> Vec<String> {
    Capability::ALL.into_iter().map(|capability| capability.name().to_owned()).collect()
}

/// Names of parameters.
pub(super) async fn parameters(_: &Arc<Services>) -> Vec<String> {
    parameter_text::names().map(str::to_owned).collect()
}

pub(super) async fn set_capability(call: &mut Call) -> Outcome {
    let name = call.arguments.text("capability").unwrap_or_default();
    let state = call.arguments.switch("state").unwrap_or_default();
    let capability = Capability::named(name).ok_or_else(|| unknown(name))?;
    let capabilities = vec![MigrationCapabilityStatus { capability, state }];
    if let Some(warning) = (MigrateSetCapabilities { capabilities }).set(&call.services)? {
        let _ = writeln!(call.out, "warning: {warning}");
    }
    Ok(())
}

pub(super) async fn set_parameter(call: &mut Call) -> Outcome {
    let name = call.arguments.text("parameter").unwrap_or_default();
    let text = call.arguments.text("value").unwrap_or_default();
    let value = parameter_text::parse(name, text, 1 << 20)?.ok_or_else(|| unknown(name))?;
    let command: MigrateSetParameters = visit::arguments(Map::from_iter([(name.into(), value)]))?;
    command.run(&call.services).await.map(drop)
}

fn unknown(name: &str) -> QmpError {
    QmpError::generic(format!("invalid parameter value: {name}"))
}

pub(super) async fn info_capabilities(call: &mut Call) -> Outcome {
    for status in (QueryMigrateCapabilities {}).run(&call.services).await? {
        let state = if status.state { "on" } else { "off" };
        let _ = writeln!(call.out, "{}: {state}", status.capability.name());
    }
    Ok(())
}

pub(super) async fn info_parameters(call: &mut Call) -> Outcome {
    let parameters = QueryMigrateParameters {}.run(&call.services).await?;
    render(&mut call.out, &parameters);
    Ok(())
}

/// The parameters that QEMU shows, in its order.
pub(super) fn render(out: &mut String, parameters: &Parameters) {
    let Parameters {
        announce_initial,
        announce_max,
        announce_rounds,
        announce_step,
        throttle_trigger_threshold,
        cpu_throttle_initial,
        cpu_throttle_increment,
        cpu_throttle_tailslow,
        max_cpu_throttle,
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
        vcpu_dirty_limit_period,
        vcpu_dirty_limit,
        ..
    } = parameters;
    let switch = |on: &bool| if *on { "on" } else { "off" };
    let word = |value: Result<Value, _>| match value {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    };
    let _ = writeln!(out, "announce-initial: {announce_initial} ms");
    let _ = writeln!(out, "announce-max: {announce_max} ms");
    let _ = writeln!(out, "announce-rounds: {announce_rounds}");
    let _ = writeln!(out, "announce-step: {announce_step} ms");
    let _ = writeln!(out, "throttle-trigger-threshold: {throttle_trigger_threshold}");
    let _ = writeln!(out, "cpu-throttle-initial: {cpu_throttle_initial}");
    let _ = writeln!(out, "cpu-throttle-increment: {cpu_throttle_increment}");
    let _ = writeln!(out, "cpu-throttle-tailslow: {}", switch(cpu_throttle_tailslow));
    let _ = writeln!(out, "max-cpu-throttle: {max_cpu_throttle}");
    let _ = writeln!(out, "tls-creds: '{tls_creds}'");
    let _ = writeln!(out, "tls-hostname: '{tls_hostname}'");
    let _ = writeln!(out, "max-bandwidth: {max_bandwidth} bytes/second");
    let _ = writeln!(out, "avail-switchover-bandwidth: {avail_switchover_bandwidth} bytes/second");
    let _ = writeln!(out, "downtime-limit: {downtime_limit} ms");
    let _ = writeln!(out, "x-checkpoint-delay: {x_checkpoint_delay} ms");
    let _ = writeln!(out, "multifd-channels: {multifd_channels}");
    let compression = word(serde_json::to_value(parameters.multifd_compression));
    let _ = writeln!(out, "multifd-compression: {compression}");
    let detection = word(serde_json::to_value(parameters.zero_page_detection));
    let _ = writeln!(out, "zero-page-detection: {detection}");
    let _ = writeln!(out, "xbzrle-cache-size: {xbzrle_cache_size} bytes");
    let _ = writeln!(out, "max-postcopy-bandwidth: {max_postcopy_bandwidth}");
    let _ = writeln!(out, "tls-authz: '{tls_authz}'");
    if parameters.block_bitmap_mapping.is_some() {
        // One that names anything is refused.
        out.push_str("block-bitmap-mapping:\n");
    }
    let _ = writeln!(out, "x-vcpu-dirty-limit-period: {vcpu_dirty_limit_period} ms");
    let _ = writeln!(out, "vcpu-dirty-limit: {vcpu_dirty_limit} MB/s");
    let _ = writeln!(out, "mode: {}", word(serde_json::to_value(parameters.mode)));
    let _ = writeln!(out, "direct-io: {}", switch(&parameters.direct_io));
}
