//! `query-qmp-schema`: what QAPI's introspection says of the commands and events that there are,
//! made from their types.
//!
//! The types derive a JSON Schema, which knows of every serde attribute; here it is put into
//! QAPI's words. Types are numbered, and types that look alike are one: clients compare by shape.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value};

use super::command::REGISTRY;
use super::event;

/// The name of a type: a builtin's, `[element]`, or a number.
pub type TypeName = String;

/// What a union's Rust name begins with; the name of its tag follows (see `visit`).
const UNION: &str = "union ";
/// What an alternate's begins with.
pub const ALTERNATE: &str = "alternate ";

/// QAPI `SchemaInfo`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SchemaInfo {
    pub name: String,
    #[serde(flatten)]
    pub entity: Entity,
}

/// QAPI `SchemaMetaType`, each with its members.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "meta-type", rename_all = "lowercase", rename_all_fields = "kebab-case")]
pub enum Entity {
    Builtin {
        json_type: JsonType,
    },
    Enum {
        members: Vec<EnumMember>,
        values: Vec<String>,
    },
    Array {
        element_type: TypeName,
    },
    Object {
        members: Vec<Member>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        variants: Option<Vec<Variant>>,
    },
    Alternate {
        members: Vec<AlternateMember>,
    },
    Command {
        arg_type: TypeName,
        ret_type: TypeName,
        #[serde(skip_serializing_if = "Option::is_none")]
        allow_oob: Option<bool>,
    },
    Event {
        arg_type: TypeName,
    },
}

/// QAPI `JSONType`, as far as builtins have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JsonType {
    String,
    Number,
    Int,
    Boolean,
    Null,
    Value,
}

/// QAPI `SchemaInfoEnumMember`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EnumMember {
    pub name: String,
}

/// QAPI `SchemaInfoAlternateMember`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AlternateMember {
    #[serde(rename = "type")]
    pub type_name: TypeName,
}

/// QAPI `SchemaInfoObjectMember`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Member {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: TypeName,
    /// There (as `null`) if the member may be left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
}

/// QAPI `SchemaInfoObjectVariant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Variant {
    pub case: String,
    #[serde(rename = "type")]
    pub type_name: TypeName,
}

/// The builtin types.
const BUILTINS: [(&str, JsonType); 6] = [
    ("str", JsonType::String),
    ("int", JsonType::Int),
    ("number", JsonType::Number),
    ("bool", JsonType::Boolean),
    ("null", JsonType::Null),
    ("any", JsonType::Value),
];

/// Everything there is.
pub static SCHEMA: LazyLock<Vec<SchemaInfo>> = LazyLock::new(|| {
    let mut schema = Schema::default();
    let mut entries = Vec::new();
    for entry in &*REGISTRY {
        let (arg_type, ret_type) = (entry.describe)(&mut schema);
        let allow_oob = entry.out_of_band.then_some(true);
        let entity = Entity::Command { arg_type, ret_type, allow_oob };
        entries.push(SchemaInfo { name: entry.name.to_owned(), entity });
    }
    for (name, describe) in event::ALL {
        let entity = Entity::Event { arg_type: describe(&mut schema) };
        entries.push(SchemaInfo { name: (*name).to_owned(), entity });
    }
    let builtin = |(name, json_type): (&str, JsonType)| SchemaInfo {
        name: name.to_owned(),
        entity: Entity::Builtin { json_type },
    };
    entries.extend(schema.types);
    entries.extend(BUILTINS.map(builtin));
    entries
});

/// The names of a command's arguments, of the variant `case` if they are a union.
pub fn arguments_of(command: &str, case: &str) -> Vec<String> {
    let entity = |name: &str| SCHEMA.iter().find(|entry| entry.name == name).map(|e| &e.entity);
    let Some(Entity::Command { arg_type, .. }) = entity(command) else { return Vec::new() };
    let Some(Entity::Object { members, variants, .. }) = entity(arg_type) else {
        return Vec::new();
    };
    let variant = variants.iter().flatten().find(|variant| variant.case == case);
    let of_variant = match variant.and_then(|variant| entity(&variant.type_name)) {
        Some(Entity::Object { members, .. }) => members.as_slice(),
        _ => &[],
    };
    members.iter().chain(of_variant).map(|member| member.name.clone()).collect()
}

/// The types described so far.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<SchemaInfo>,
    numbered: usize,
}

impl Schema {
    /// The name of a type that is received, as `T` is deserialized.
    pub fn received<T: JsonSchema>(&mut self) -> TypeName {
        self.describe::<T>(SchemaSettings::default().for_deserialize().into_generator())
    }

    /// The name of a type that is sent, as `T` is serialized.
    pub fn sent<T: JsonSchema>(&mut self) -> TypeName {
        self.describe::<T>(SchemaSettings::default().for_serialize().into_generator())
    }

    fn describe<T: JsonSchema>(&mut self, generator: SchemaGenerator) -> TypeName {
        let root = generator.into_root_schema_for::<T>().to_value();
        let none = Map::new();
        let definitions = root.get("$defs").and_then(Value::as_object).unwrap_or(&none);
        let title = root.get("title").and_then(Value::as_str).unwrap_or_default();
        Reader { schema: self, definitions }.type_of(title, &root)
    }

    /// The name of this type, which may have been described before.
    fn named(&mut self, entity: Entity) -> TypeName {
        if let Some(known) = self.types.iter().find(|known| known.entity == entity) {
            return known.name.clone();
        }
        let name = match &entity {
            Entity::Array { element_type } => format!("[{element_type}]"),
            _ => {
                self.numbered += 1;
                (self.numbered - 1).to_string()
            }
        };
        self.types.push(SchemaInfo { name: name.clone(), entity });
        name
    }

    fn enumeration(&mut self, values: Vec<String>) -> TypeName {
        let members = values.iter().map(|name| EnumMember { name: name.clone() }).collect();
        self.named(Entity::Enum { members, values })
    }

    fn object(&mut self, members: Vec<Member>) -> TypeName {
        self.named(Entity::Object { members, tag: None, variants: None })
    }

    fn members(&self, name: &str) -> Option<&[Member]> {
        match &self.types.iter().find(|known| known.name == name)?.entity {
            Entity::Object { members, variants: None, .. } => Some(members),
            _ => None,
        }
    }
}

/// Reads one type's JSON Schema.
struct Reader<'a> {
    schema: &'a mut Schema,
    definitions: &'a Map<String, Value>,
}

impl<'a> Reader<'a> {
    /// Follow a reference; the name of what it leads to, and that.
    fn resolve<'v>(&self, name: &'v str, schema: &'v Value) -> (&'v str, &'v Value)
    where
        'a: 'v,
    {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let target = reference.and_then(|reference| reference.strip_prefix("#/$defs/"));
        let found = target.and_then(|target| {
            self.definitions.iter().find(|(key, _)| key.replace(' ', "%20") == target)
        });
        found.map_or((name, schema), |(key, schema)| (key.as_str(), schema))
    }

    fn type_of(&mut self, name: &str, schema: &Value) -> TypeName {
        let (name, schema) = self.resolve(name, schema);
        if let Some(values) = strings(schema) {
            return self.schema.enumeration(values);
        }
        if let Some(alternatives) = schema.get("oneOf").and_then(Value::as_array) {
            return self.union(name, schema, alternatives);
        }
        if name.starts_with(ALTERNATE) {
            let kinds = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
            let members = kinds.map(|kind| AlternateMember { type_name: self.type_of("", kind) });
            let members = members.collect();
            return self.schema.named(Entity::Alternate { members });
        }
        if let Some(present) = nullable(schema) {
            return self.type_of(name, present);
        }
        match kind(schema) {
            Some("string") => "str".to_owned(),
            Some("integer") => "int".to_owned(),
            Some("number") => "number".to_owned(),
            Some("boolean") => "bool".to_owned(),
            Some("null") => "null".to_owned(),
            Some("array") => {
                let element_type = self.type_of("", &schema["items"]);
                self.schema.named(Entity::Array { element_type })
            }
            Some("object") => {
                let members = self.members(schema, None);
                self.schema.object(members)
            }
            _ => "any".to_owned(),
        }
    }

    /// The members of an object, without `tag`.
    fn members(&mut self, schema: &Value, tag: Option<&str>) -> Vec<Member> {
        let required = schema.get("required").and_then(Value::as_array);
        let is_required = |name: &str| required.is_some_and(|r| r.iter().any(|r| r == name));
        let properties = schema.get("properties").and_then(Value::as_object);
        let wanted =
            properties.into_iter().flatten().filter(|(name, _)| Some(name.as_str()) != tag);
        let member = |(name, schema): (&String, &Value)| Member {
            name: name.clone(),
            type_name: self.type_of("", schema),
            default: (!is_required(name)).then_some(Value::Null),
        };
        wanted.map(member).collect()
    }

    /// A union: a serde enum that has its tag inside, or one that is called `union TAG`.
    fn union(&mut self, name: &str, schema: &Value, alternatives: &[Value]) -> TypeName {
        let tag = match name.strip_prefix(UNION) {
            Some(tag) => tag.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
            None => match alternatives.first().and_then(inner_tag) {
                Some(tag) => tag.to_owned(),
                None => return "any".to_owned(),
            },
        };
        let mut variants = Vec::new();
        for alternative in alternatives {
            let (_, alternative) = self.resolve("", alternative);
            let inside = alternative.get("properties").and_then(|all| all.get(&tag)?.get("const"));
            if let Some(case) = inside.and_then(Value::as_str) {
                let members = self.members(alternative, Some(&tag));
                variants.push((case.to_owned(), self.schema.object(members)));
            } else if let Some(cases) = strings(alternative) {
                let none = self.schema.object(Vec::new());
                variants.extend(cases.into_iter().map(|case| (case, none.clone())));
            } else {
                let cases = alternative.get("properties").and_then(Value::as_object);
                for (case, inner) in cases.into_iter().flatten() {
                    variants.push((case.clone(), self.type_of("", inner)));
                }
            }
        }
        let cases = variants.iter().map(|(case, _)| case.clone()).collect();
        let tag_type = self.schema.enumeration(cases);
        let mut members = vec![Member { name: tag.clone(), type_name: tag_type, default: None }];
        members.extend(self.members(schema, None));
        members.extend(self.take_common(&mut variants));
        let variant = |(case, type_name)| Variant { case, type_name };
        let variants = Some(variants.into_iter().map(variant).collect());
        self.schema.named(Entity::Object { members, tag: Some(tag), variants })
    }

    /// Members that all variants have are the union's own.
    fn take_common(&mut self, variants: &mut [(String, TypeName)]) -> Vec<Member> {
        let all: Option<Vec<Vec<Member>>> =
            variants.iter().map(|(_, name)| Some(self.schema.members(name)?.to_vec())).collect();
        let Some(all) = all.filter(|all| all.len() > 1) else { return Vec::new() };
        let first = all.first().cloned().unwrap_or_default();
        let is_common = |member: &Member| all.iter().all(|members| members.contains(member));
        let common: Vec<Member> = first.into_iter().filter(is_common).collect();
        if !common.is_empty() {
            for ((_, name), mut members) in variants.iter_mut().zip(all) {
                members.retain(|member| !common.contains(member));
                *name = self.schema.object(members);
            }
        }
        common
    }
}

/// The values, if only certain strings are allowed.
fn strings(schema: &Value) -> Option<Vec<String>> {
    let owned = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(value) = schema.get("const") {
        return Some(vec![owned(value)?]);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().filter(|value| !value.is_null()).map(owned).collect();
    }
    let alternatives = schema.get("oneOf")?.as_array()?;
    let each: Option<Vec<Vec<String>>> = alternatives.iter().map(strings).collect();
    each.map(|each| each.concat())
}

/// What an optional type is when it is there.
fn nullable(schema: &Value) -> Option<&Value> {
    let is_null = |schema: &&Value| kind(schema) == Some("null");
    let alternatives = schema.get("anyOf")?.as_array()?;
    alternatives.iter().any(|schema| is_null(&schema)).then_some(())?;
    alternatives.iter().find(|schema| !is_null(schema))
}

/// JSON Schema's `type`, the first that is not `null` if there are several.
fn kind(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|&t| t != "null"),
        other => other.as_str(),
    }
}

/// The member that tells which alternative this is.
fn inner_tag(alternative: &Value) -> Option<&str> {
    let properties = alternative.get("properties")?.as_object()?;
    properties.iter().find(|(_, schema)| schema.get("const").is_some()).map(|(tag, _)| tag.as_str())
}
