//! Migration as the monitors see it: settings, the cache, and sources that fail, die or are silent.

mod commands;
mod outcomes;
pub mod puppet;
mod settings;
mod terminal;

use std::time::{Duration, Instant};

use actix::Addr;
use serde_json::{Value, json};
use understudy::qmp::monitor::{Execute, ExecuteHuman, Monitor};

/// Wait until `query-migrate` says so.
async fn until_status(monitor: &Addr<Monitor>, status: &str) -> Value {
    let begun = Instant::now();
    loop {
        let told = query(monitor).await;
        if told["status"] == status {
            return told;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{status}: {told}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn qmp(
    monitor: &Addr<Monitor>,
    command: &str,
    arguments: Value,
) -> Result<Value, String> {
    let Value::Object(arguments) = arguments else { panic!("{arguments}") };
    let command = command.to_owned();
    let request = Execute { command, arguments, out_of_band: false, passed: Default::default() };
    monitor.send(request).await.unwrap().map_err(|error| error.desc)
}

pub async fn hmp_line(monitor: &Addr<Monitor>, line: &str) -> String {
    let state = Default::default();
    monitor
        .send(ExecuteHuman { line: line.into(), state, passed: Default::default() })
        .await
        .unwrap()
        .text
}

async fn query(monitor: &Addr<Monitor>) -> Value {
    qmp(monitor, "query-migrate", json!({})).await.unwrap()
}

/// `case => answer`, one a line; what is marked `!` is ours and not QEMU's.
fn cases(table: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let (case, answer) = line.split_once(" => ").unwrap();
        (case, answer.strip_prefix("! ").unwrap_or(answer))
    })
}
