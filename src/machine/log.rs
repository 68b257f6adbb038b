//! `-d` and `-D`: what is logged, where to, and the monitors' `log` that changes it.

use std::fs::File;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::sync::Arc;

use actix::Addr;
use parking_lot::Mutex;

use super::spec::LogSpec;
use crate::actors::outlet::Outlet;
use crate::cpu::dump::Registers;
use crate::cpu::hart::Hart;
use crate::cpu::vcpu::{LogTraps, ObserveExecution, ObserveTranslation, Vcpu};
use crate::jit::disassemble;
use crate::jit::engine::{EntryObserver, Observer, Translated};
use crate::qmp::error::os_words;
use crate::qmp::link::{SetLog, SwitchTrace};
use crate::{report, trace};

/// The log file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("Error opening logfile {path}: {}", os_words(.source))]
pub struct LogError {
    path: String,
    source: io::Error,
}

/// Create the file that a name stands for, in which `%d` is the process's number.
pub fn create(name: &str) -> Result<File, LogError> {
    let path = name.replace("%d", &std::process::id().to_string());
    File::create(&path).map_err(|source| LogError { path, source })
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

impl Sink {
    /// Write elsewhere from now on.
    fn redirect(&self, out: Box<dyn Write + Send>) {
        *self.0.lock() = out;
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
    filter: Filter,
}

/// `-dfilter`.
#[derive(Debug, Clone)]
struct Filter(Arc<[RangeInclusive<u64>]>);

impl Filter {
    fn shows(&self, pc: u64) -> bool {
        self.0.is_empty() || self.0.iter().any(|range| range.contains(&pc))
    }
}

impl Log {
    /// Open the log that `-d` and `-D` name and make it the target of tracing.
    pub fn open(spec: &LogSpec) -> Result<Self, LogError> {
        let out: Box<dyn Write + Send> = match &spec.file {
            None => Box::new(io::stderr()),
            Some(path) => Box::new(create(&path.to_string_lossy())?),
        };
        let sink = Sink(Arc::new(Mutex::new(out)));
        for (pattern, on) in &spec.trace {
            // Those who wrote it were told when it was read.
            let _ = trace::switch(pattern, *on);
        }
        subscribe(&sink, &spec.items);
        Ok(Self { sink, items: spec.items.clone(), filter: Filter(spec.filter.as_slice().into()) })
    }

    /// Set every vCPU up again when trace events are switched.
    pub fn follow_trace(&self, vcpus: &[Addr<Vcpu>]) -> Outlet<SwitchTrace> {
        let vcpus = vcpus.to_vec();
        let (sink, filter) = (self.sink.clone(), self.filter.clone());
        Outlet::fold(move |SwitchTrace| apply(&vcpus, &sink, &filter, &ENABLED.items()))
    }

    /// Set every vCPU up for the items of the command line; the outlet for changes of them.
    pub fn attach(&self, vcpus: &[Addr<Vcpu>]) -> Outlet<SetLog> {
        let vcpus = vcpus.to_vec();
        let (sink, filter) = (self.sink.clone(), self.filter.clone());
        apply(&vcpus, &sink, &filter, &self.items);
        Outlet::fold(move |change| match change {
            SetLog::Items(items) => {
                ENABLED.set(&items);
                apply(&vcpus, &sink, &filter, &items);
            }
            SetLog::Output(file) => sink.redirect(Box::new(file)),
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

    fn items(&self) -> Vec<&'static str> {
        self.0.lock().clone()
    }

    /// Whether an event goes to the log.
    fn shows(&self, event: &tracing::Metadata<'_>) -> bool {
        match event.target() {
            trace::TARGET => trace::is_on(event.name()),
            target => self.0.lock().contains(&target),
        }
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
        let mut text = Text::default();
        event.record(&mut text);
        report::line(&format!("{}{}", text.message, text.fields));
    }
}

/// Errors are always shown; a target named as an item of `-d` when that item is on.
fn subscribe(sink: &Sink, items: &[&'static str]) {
    use tracing::subscriber::Interest;
    use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
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
        .with_filter(
            // What is off is known at the call site, and costs a look at a flag there.
            dynamic_filter_fn(|metadata, _| ENABLED.shows(metadata)).with_callsite_filter(
                |metadata| match ENABLED.shows(metadata) {
                    true => Interest::always(),
                    false => Interest::never(),
                },
            ),
        );
    // A second machine in one process (tests) keeps the first one's subscriber.
    let errors = Errors.with_filter(LevelFilter::ERROR);
    let _ = tracing_subscriber::registry().with(layer).with(errors).try_init();
}

fn apply(vcpus: &[Addr<Vcpu>], sink: &Sink, filter: &Filter, items: &[&'static str]) {
    let on = |item: &str| items.contains(&item);
    let wanted = disassemble::Wanted {
        guest: on("in_asm"),
        ir: on("op") || on("op_opt"),
        host: on("out_asm"),
    };
    for vcpu in vcpus {
        vcpu.do_send(LogTraps(on("int") || trace::is_on("riscv_trap")));
        let observer = wanted.any().then(|| -> Observer {
            let (sink, filter) = (sink.clone(), filter.clone());
            Box::new(move |block: &Translated<'_>| {
                if filter.shows(block.page_va.wrapping_add(u64::from(block.block.start))) {
                    sink.write(&disassemble::render(block, wanted));
                }
            })
        });
        vcpu.do_send(ObserveTranslation(observer));
        let entries = Entries { traces: on("exec"), registers: on("cpu"), float: on("fpu") };
        let observer = (entries.traces || entries.registers).then(|| -> EntryObserver {
            let (sink, filter) = (sink.clone(), filter.clone());
            EntryObserver::new(move |hart: &Hart, code: Option<usize>| {
                if filter.shows(hart.state.pc) {
                    sink.write(&entries.render(hart, code));
                }
            })
        });
        let chained = observer.is_none() && !on("nochain");
        vcpu.do_send(ObserveExecution { observer, chained });
    }
}

/// What is shown of each block that is entered.
#[derive(Debug, Clone, Copy)]
struct Entries {
    traces: bool,
    registers: bool,
    float: bool,
}

impl Entries {
    /// In QEMU's layout. The numbers after the pc are what decides how code is translated: the
    /// privilege in bits 0 to 1 and `mstatus.FS` in bits 3 to 4.
    fn render(self, hart: &Hart, code: Option<usize>) -> String {
        let mut out = String::new();
        if self.traces {
            let (hartid, pc) = (hart.env.hartid, hart.state.pc);
            let flags = hart.state.privilege as u64 | (hart.state.mstatus >> 13 & 3) << 3;
            let code = code.unwrap_or_default();
            out = format!("Trace {hartid}: {code:#x} [00000000/{pc:016x}/{flags:08x}/00000000] \n");
        }
        if self.registers {
            Registers::of(hart).write(&mut out, self.float);
        }
        out
    }
}
