//! Arguments in, exit code out.

use std::io::Write;
use std::process::ExitCode;

use understudy::cli::process::{self, PidFile, Role};
use understudy::cli::{self, Invocation};
use understudy::machine::{self, spec::MachineSpec};

fn main() -> ExitCode {
    let program = cli::program_name(std::env::args_os().next());
    let result = match cli::parse(std::env::args_os()) {
        Ok(Invocation::Print(text)) => print(&text),
        Ok(Invocation::Run { spec, warnings }) => {
            for warning in warnings {
                complain(&program, &warning);
            }
            run(*spec)
        }
        Err(error) => Err(error.into()),
    };
    match result {
        // As the shell sees it: the low eight bits.
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            complain(&program, &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A line on standard error; that nobody can see it is not reported.
fn complain(program: &str, line: &str) {
    let _ = writeln!(std::io::stderr(), "{program}: {line}");
}

fn print(text: &str) -> anyhow::Result<i32> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `-help | head` has read enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(0),
    }
}

fn run(spec: MachineSpec) -> anyhow::Result<i32> {
    let readiness = match process::start(spec.process.daemonize)? {
        Role::Parent(code) => return Ok(code),
        Role::Machine(readiness) => readiness,
    };
    let pid_file = spec.process.pidfile.as_deref().map(PidFile::create).transpose()?;
    let code = machine::run::run(spec, &machine::greeter::image(), || Ok(readiness.announce()?));
    drop(pid_file);
    code
}
