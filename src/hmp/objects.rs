//! Objects by name, and what stands behind the machine.

use std::fmt::Write as _;
use std::sync::Arc;

use super::command::Call;
use crate::objects::options::{self, ObjectOptions};
use crate::qmp::command::Command as _;
use crate::qmp::commands::backends::{
    QueryIothreads, QueryMemdev, QueryMemoryDevices, QueryMemorySizeSummary,
};
use crate::qmp::commands::objects::{ObjectAdd, ObjectDel};
use crate::qmp::commands::qom::QomList;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// Types of objects.
pub(super) async fn types(_: &Arc<Services>) -> Vec<String> {
    options::TYPES.iter().map(|name| (*name).to_owned()).collect()
}

/// Objects that there are.
pub(super) async fn ids(services: &Arc<Services>) -> Vec<String> {
    let path = "/objects".to_owned();
    let listed = QomList { path }.run(services).await.unwrap_or_default();
    let objects = listed.into_iter().filter(|p| p.type_name.starts_with("child<"));
    objects.map(|property| property.name).collect()
}

type Outcome = Result<(), QmpError>;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

pub(super) async fn object_add(call: &mut Call) -> Outcome {
    let text = call.arguments.text("object").unwrap_or_default();
    if let Some(help) = options::help(text) {
        call.out.push_str(&help);
        return Ok(());
    }
    let options = match text.starts_with('{') {
        true => ObjectOptions::parse(text)?,
        false => options::parse_dotted(text)?,
    };
    ObjectAdd(options).run(&call.services).await.map(drop)
}

pub(super) async fn object_del(call: &mut Call) -> Outcome {
    let id = call.arguments.text("id").unwrap_or_default().to_owned();
    ObjectDel { id }.run(&call.services).await.map(drop)
}

pub(super) async fn memdev(call: &mut Call) -> Outcome {
    for backend in (QueryMemdev {}).run(&call.services).await? {
        let nodes: Vec<_> = backend.host_nodes.iter().map(u16::to_string).collect();
        let _ = writeln!(
            call.out,
            "memory backend: {}\n  size:  {}\n  merge: {}\n  dump: {}\n  prealloc: {}\n  share: \
             {}\n  reserve: {}\n  policy: {}\n  host nodes: {}",
            backend.id,
            backend.size,
            backend.merge,
            backend.dump,
            backend.prealloc,
            backend.share,
            backend.reserve,
            backend.policy.name(),
            nodes.join(" "),
        );
    }
    call.out.push('\n');
    Ok(())
}

pub(super) async fn memory_devices(call: &mut Call) -> Outcome {
    QueryMemoryDevices {}.run(&call.services).await.map(drop)
}

pub(super) async fn memory_size_summary(call: &mut Call) -> Outcome {
    let summary = QueryMemorySizeSummary {}.run(&call.services).await?;
    let _ = writeln!(call.out, "base memory: {}", summary.base_memory);
    Ok(())
}

pub(super) async fn iothreads(call: &mut Call) -> Outcome {
    for thread in (QueryIothreads {}).run(&call.services).await? {
        let _ = writeln!(
            call.out,
            "{}:\n  thread_id={}\n  poll-max-ns={}\n  poll-grow={}\n  poll-shrink={}\n  \
             aio-max-batch={}",
            thread.id,
            thread.thread_id,
            thread.poll_max_ns,
            thread.poll_grow,
            thread.poll_shrink,
            thread.aio_max_batch,
        );
    }
    Ok(())
}
