//! The object model: objects, their properties, and the devices that there are types of.

use std::fmt::Write as _;

use super::command::Call;
use crate::qmp::command::Command as _;
use crate::qmp::commands::qom::{self, QomGet, QomList, QomSet};
use crate::qmp::error::QmpError;
use crate::qmp::{json, parser};
use crate::qom::parse_value;

type Outcome = Result<(), QmpError>;

fn text(call: &Call, name: &str) -> String {
    call.arguments.text(name).unwrap_or_default().to_owned()
}

pub(super) async fn list(call: &mut Call) -> Outcome {
    let Some(path) = call.arguments.text("path") else {
        call.out.push_str("/\n");
        return Ok(());
    };
    for property in (QomList { path: path.to_owned() }).run(&call.services).await? {
        // Writing to a string cannot fail.
        let _ = writeln!(call.out, "{} ({})", property.name, property.type_name);
    }
    Ok(())
}

pub(super) async fn get(call: &mut Call) -> Outcome {
    let command = QomGet { path: text(call, "path"), property: text(call, "property") };
    let value = command.run(&call.services).await?;
    let _ = writeln!(call.out, "{}", json::pretty(&value));
    Ok(())
}

pub(super) async fn set(call: &mut Call) -> Outcome {
    let (path, property, value) = (text(call, "path"), text(call, "property"), text(call, "value"));
    if call.arguments.flag("json") {
        let value = parser::parse_value(&value).map_err(QmpError::generic)?;
        return QomSet { path, property, value }.run(&call.services).await.map(drop);
    }
    let tree = qom::tree(&call.services);
    let at = tree.find(&path)?;
    let value = match at.node.property(&property) {
        Some(property) => parse_value(&property, &value)?,
        // Which is what it will be refused for.
        None => value.into(),
    };
    qom::set(&call.services, &tree, &at, &property, value)
}

pub(super) async fn tree(call: &mut Call) -> Outcome {
    let path = call.arguments.text("path").unwrap_or("/machine");
    let tree = qom::tree(&call.services);
    match tree.resolve(path) {
        Ok(at) => call.out.push_str(&tree.composition(&at)),
        Err(_) => {
            let _ = writeln!(call.out, "Path '{path}' could not be resolved.");
        }
    }
    Ok(())
}

pub(super) async fn models(call: &mut Call) -> Outcome {
    call.out.push_str(&crate::qom::list(true));
    Ok(())
}
