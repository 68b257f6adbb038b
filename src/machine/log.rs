//! `-d` and `-D`: what is logged, where to, and the monitors' `log` that changes it.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use actix::Addr;
use parking_lot::Mutex;

use super::spec::LogSpec;
use crate::actors::outlet::Outlet;
use crate::cpu::vcpu::{LogTraps, ObserveTranslation, Vcpu};
use crate::jit::disassemble;
use crate::jit::engine::{Observer, Translated};
use crate::qmp::link::SetLogMask;
use crate::report;

/// The log file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("could not open log file {path}: {source}")]
pub struct LogError {
    path: String,
    source: io::Error,
}

/// Where log lines go.
#[derive(Clone)]
pub struct Sink(Arc<Mutex<Box<dyn Write + Send>>>);

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

impl Sink {
    /// Write text; a log that cannot be written is not worth stopping the machine for.
    pub fn write(&self, text: &str) {
        let mut out = self.0.lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
    }
}

/// The log of this process.
#[derive(Debug)]
pub struct Log {
    sink: Sink,
    items: Vec<&'static str>,
}

impl Log {
    /// Open the log that `-d` and `-D` name and make it the target of tracing.
    pub fn open(spec: &LogSpec) -> Result<Self, LogError> {
        let out: Box<dyn Write + Send> = match &spec.file {
            None => Box::new(io::stderr()),
            Some(path) => Box::new(
                File::create(path)
                    .map_err(|source| LogError { path: path.display().to_string(), source })?,
            ),
        };
        let sink = Sink(Arc::new(Mutex::new(out)));
        subscribe(&sink, &spec.items);
        Ok(Self { sink, items: spec.items.clone() })
    }

    /// Set every vCPU up for the items of the command line; the outlet for changes of them.
    pub fn attach(&self, vcpus: &[Addr<Vcpu>]) -> Outlet<SetLogMask> {
        let vcpus = vcpus.to_vec();
        let sink = self.sink.clone();
        apply(&vcpus, &sink, &self.items);
        Outlet::fold(move |SetLogMask(items)| {
            ENABLED.set(&items);
            apply(&vcpus, &sink, &items);
        })
    }
}

/// Which tracing targets are on, by item.
struct Enabled(Mutex<Vec<&'static str>>);

static ENABLED: Enabled = Enabled(Mutex::new(Vec::new()));

impl Enabled {
    fn set(&self, items: &[&'static str]) {
        *self.0.lock() = items.to_vec();
        tracing::callsite::rebuild_interest_cache();
    }

    fn has(&self, target: &str) -> bool {
        self.0.lock().contains(&target)
    }
}

/// Errors of the emulator itself: always shown, as diagnostics.
struct Errors;

/// The text of an event: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write as _;
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name}: {value:?}"),
        };
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Errors {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::ERROR {
            let mut text = Text::default();
            event.record(&mut text);
            report::line(&format!("{}{}", text.message, text.fields));
        }
    }
}

/// Errors are always shown; a target named as an item of `-d` when that item is on.
fn subscribe(sink: &Sink, items: &[&'static str]) {
    use tracing_subscriber::filter::dynamic_filter_fn;
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    use tracing_subscriber::util::SubscriberInitExt;
    ENABLED.set(items);
    let sink = sink.clone();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(move || sink.clone())
        .with_ansi(false)
        .with_level(false)
        .with_target(false)
        .without_time()
        .with_filter(dynamic_filter_fn(|metadata, _| ENABLED.has(metadata.target())));
    // A second machine in one process (tests) keeps the first one's subscriber.
    let _ = tracing_subscriber::registry().with(layer).with(Errors).try_init();
}

fn apply(vcpus: &[Addr<Vcpu>], sink: &Sink, items: &[&'static str]) {
    let on = |item: &str| items.contains(&item);
    let wanted = disassemble::Wanted {
        guest: on("in_asm"),
        ir: on("op") || on("op_opt"),
        host: on("out_asm"),
    };
    for vcpu in vcpus {
        vcpu.do_send(LogTraps(on("int")));
        let sink = sink.clone();
        let observer = wanted.any().then(|| -> Observer {
            Box::new(move |block: &Translated<'_>| sink.write(&disassemble::render(block, wanted)))
        });
        vcpu.do_send(ObserveTranslation(observer));
    }
}
