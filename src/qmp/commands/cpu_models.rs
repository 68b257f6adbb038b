//! The models of CPU, and what each is made of.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cpu::cpu_model::{self, CpuError};
use crate::cpu::isa::IsaConfig;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::json;
use crate::qmp::link::Services;
use crate::qom::{Node, QomError, check_value, types};

/// QAPI `CpuDefinitionInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct CpuDefinitionInfo {
    pub name: &'static str,
    pub typename: String,
    /// What it is made of does not change with its properties.
    #[serde(rename = "static")]
    pub is_static: bool,
    pub deprecated: bool,
}

/// `query-cpu-definitions`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryCpuDefinitions {}

impl Command for QueryCpuDefinitions {
    const NAME: &'static str = "query-cpu-definitions";
    type Return = Vec<CpuDefinitionInfo>;

    async fn run(self, _: &Arc<Services>) -> Result<Vec<CpuDefinitionInfo>, QmpError> {
        let describe = |name: &&'static str| {
            let typename = cpu_model::type_name(name);
            let is_dynamic = types::find(&typename).is_some_and(|of| of.is("riscv-dynamic-cpu"));
            CpuDefinitionInfo { name, typename, is_static: !is_dynamic, deprecated: false }
        };
        Ok(cpu_model::cpu_models().iter().map(describe).collect())
    }
}

/// QAPI `CpuModelExpansionType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CpuModelExpansionType {
    Static,
    Full,
}

/// QAPI `CpuModelInfo`.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CpuModelInfo {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub props: Option<Value>,
}

/// QAPI `CpuModelExpansionInfo`, as far as there is anything to say.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct CpuModelExpansionInfo {
    pub model: CpuModelInfo,
}

/// `query-cpu-model-expansion`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryCpuModelExpansion {
    #[serde(rename = "type")]
    expansion: CpuModelExpansionType,
    model: CpuModelInfo,
}

impl Command for QueryCpuModelExpansion {
    const NAME: &'static str = "query-cpu-model-expansion";
    type Return = CpuModelExpansionInfo;

    async fn run(self, _: &Arc<Services>) -> Result<CpuModelExpansionInfo, QmpError> {
        if self.expansion == CpuModelExpansionType::Static {
            return Err(QmpError::generic("The requested expansion type is not supported"));
        }
        let CpuModelInfo { name, props } = self.model;
        let isa = expand(&name, props.as_ref())?;
        let on = |name: &'static str| (name.to_owned(), Value::from(isa.is_on(name)));
        let props: Map<_, _> = cpu_model::expanded().map(on).collect();
        let model = CpuModelInfo { name, props: Some(props.into()) };
        Ok(CpuModelExpansionInfo { model })
    }
}

fn wrong_type(name: String, expected: &'static str) -> QmpError {
    QomError::WrongType { name, expected }.into()
}

/// The hart of a model with properties.
fn expand(name: &str, properties: Option<&Value>) -> Result<IsaConfig, QmpError> {
    if !cpu_model::cpu_models().contains(&name) {
        let sentence = format!("The CPU type '{name}' is not a known RISC-V CPU type");
        return Err(QmpError::generic(sentence));
    }
    let none = Map::new();
    let properties = match properties {
        None => &none,
        Some(Value::Object(properties)) => properties,
        Some(_) => return Err(wrong_type("model.props".into(), "object")),
    };
    let owner = cpu_model::type_name(name);
    let node = Node::new(&owner);
    let mut given = Vec::new();
    for (name, value) in json::members(properties) {
        let missing = || QomError::NoProperty { owner: owner.clone(), name: name.clone() };
        let mut property = node.property(name).ok_or_else(missing)?;
        property.name = format!("model.props.{name}");
        check_value(&property, value)?;
        let text = match value {
            Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        given.push((name.clone(), text));
    }
    IsaConfig::of_model(name, &given).map_err(|error| match error {
        CpuError::Property { reason, .. } => QmpError::generic(reason),
        other => QmpError::generic(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn models_expand_as_qemus() {
        let expanded = |name: &str, properties: Value| {
            expand(name, Some(&properties)).map_err(|error| error.desc)
        };
        let base = expanded("rv64", json!({})).unwrap();
        for (name, on) in [
            ("zba", true),
            ("zbkb", false),
            ("zic64b", true),
            ("ssstateen", false),
            ("mmu", true),
            ("pmp", true),
            ("v", false),
            ("sv57", true),
            ("sv64", false),
            ("Zfa", true),
            ("ziccrse", true),
            ("rva22u64", false),
        ] {
            assert_eq!(base.is_on(name), on, "{name}");
        }
        assert!(!expanded("rv64", json!({"zbb": false})).unwrap().is_on("zbb"));
        for (name, properties, sentence) in [
            ("host", json!({}), "The CPU type 'host' is not a known RISC-V CPU type"),
            ("host", json!(1), "The CPU type 'host' is not a known RISC-V CPU type"),
            ("rv64", json!(1), "Invalid parameter type for 'model.props', expected: object"),
            ("rv64", json!({"nope": true}), "Property 'rv64-riscv-cpu.nope' not found"),
            (
                "rv64",
                json!({"zbb": 1}),
                "Invalid parameter type for 'model.props.zbb', expected: boolean",
            ),
            (
                "veyron-v1",
                json!({"zbkb": true}),
                "'veyron-v1' CPU does not allow enabling extensions",
            ),
            (
                "veyron-v1",
                json!({"mvendorid": 5}),
                "Unable to change veyron-v1-riscv-cpu mvendorid (0x61f)",
            ),
            (
                "veyron-v1",
                json!({"mmu": false}),
                "CPU 'veyron-v1' does not allow changing the value of 'mmu'",
            ),
            (
                "veyron-v1",
                json!({"sv57": true}),
                "satp_mode sv57 is higher than hw max capability sv48",
            ),
            ("rv64", json!({"f": false}), "Zfa extension requires F extension"),
            ("rv64", json!({"pmu-mask": 1}), "\"pmu-mask\" contains invalid bits (0-2) set"),
        ] {
            assert_eq!(expanded(name, properties).unwrap_err(), sentence);
        }
    }

    #[test]
    fn what_is_expanded_is_what_qemu_expands() {
        let names: Vec<_> = cpu_model::expanded().collect();
        assert!(
            ["zba", "xtheadba", "smmpm", "x-svukte", "zic64b", "rva23s64", "mmu", "pmp"]
                .iter()
                .all(|name| names.contains(name))
        );
        assert!(["m", "sv39", "Zfa", "debug"].iter().all(|name| !names.contains(name)));
        assert_eq!(names.len(), 129);
    }
}
