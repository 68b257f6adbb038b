//! Arguments in, exit code out.

use std::io::Write;
use std::process::ExitCode;

use understudy::cli::process::{self, PidFile, Role};
use understudy::cli::{self, Invocation};
use understudy::machine::{self, spec::MachineSpec};
use understudy::{report, teardown, threads};

fn main() -> ExitCode {
    let program = cli::program_name(std::env::args_os().next());
    let code = match cli::parse(std::env::args_os()) {
        Ok(Invocation::Print(text)) => print(&text).map_or_else(
            |error| {
                report::early(&program, &report::sentence(&error));
                1
            },
            |()| 0,
        ),
        Ok(Invocation::Run { spec, warnings }) => {
            report::configure(&spec);
            threads::configure(&spec);
            for warning in warnings {
                report::line(&warning);
            }
            run(*spec).unwrap_or_else(|error| {
                report::line(&report::sentence(&error));
                1
            })
        }
        Err(error) => {
            report::early(&program, &error.to_string());
            1
        }
    };
    // As the shell sees it: the low eight bits.
    ExitCode::from(code as u8)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `-help | head` has read enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn run(spec: MachineSpec) -> anyhow::Result<i32> {
    let readiness = match process::start(spec.process.daemonize)? {
        Role::Parent(code) => return Ok(code),
        Role::Machine(readiness) => readiness,
    };
    if spec.process.async_teardown {
        teardown::share_memory()?;
    }
    if let Some(sandbox) = spec.process.sandbox {
        // Before there is any other thread: all that are to come have the filter too.
        sandbox.enter()?;
    }
    let pid_file = spec.process.pidfile.as_deref().map(PidFile::create).transpose()?;
    let kept_to = spec.process.clone();
    let confine = || Ok(process::confine(&kept_to)?);
    let ready = || Ok(readiness.announce()?);
    let code = machine::run::run(spec, &machine::greeter::image(), confine, ready);
    drop(pid_file);
    code
}
