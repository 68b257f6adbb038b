//! From a line to a command's handler.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::arguments::{self, Argument, Arguments, is_space};
use super::registers;
use super::state::HmpState;
use super::table::{COMMANDS, is_permitted_before_the_start};
use crate::machine::message::{HartSnapshot, QueryHart, ReadMemory};
use crate::qmp::command::Command as _;
use crate::qmp::commands::machine::QueryCpusFast;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

/// A reply never grows beyond this many bytes.
const OUTPUT_LIMIT: usize = 4 << 20;

/// What an identifier is, for who has given something else.
pub(super) const IDENTIFIERS: &str =
    "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n";

/// A command of the human monitor.
#[derive(Debug)]
pub struct HmpCommand {
    /// The name and its alternatives, `cont|c`.
    pub names: &'static str,
    pub arguments: &'static [Argument],
    /// The arguments as help shows them.
    pub parameters: &'static str,
    pub help: &'static str,
    pub action: Action,
}

/// What a command does.
#[derive(Debug)]
pub enum Action {
    Run(for<'a> fn(&'a mut Call) -> Running<'a>),
    /// Sub-commands, looked up by the next word; without one they are listed.
    Table(&'static [HmpCommand]),
}

/// A handler at work; an error is printed after `Error: `.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<(), QmpError>> + 'a>>;

impl HmpCommand {
    /// Whether it may be executed now: not everything before the machine's start.
    pub fn is_available(&self, services: &Services) -> bool {
        !services.info.preconfig.is_waiting() || is_permitted_before_the_start(self.names)
    }

    /// Whether `name` is one of its names.
    pub fn is_called(&self, name: &str) -> bool {
        self.names.split('|').any(|own| own == name)
    }
}

/// What stands behind a line: whether a command may keep it waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// A session, which waits for a migration if it is told to.
    Waits,
    /// `human-monitor-command`.
    CannotWait,
}

/// A command being executed.
#[derive(Debug)]
pub struct Call {
    pub terminal: Terminal,
    pub services: Arc<Services>,
    pub state: HmpState,
    pub arguments: Arguments,
    /// Lines end `\n` here.
    pub out: String,
    /// The command ends the process: no prompt follows.
    pub ends: bool,
    /// The session is to wait for the migration that has been started.
    pub awaits_migration: bool,
}

impl Call {
    fn new(services: &Arc<Services>, state: HmpState, terminal: Terminal) -> Self {
        Self {
            terminal,
            services: Arc::clone(services),
            state,
            arguments: Arguments::default(),
            out: String::new(),
            ends: false,
            awaits_migration: false,
        }
    }

    /// A copy of a hart's state.
    pub async fn hart(&self, cpu: u32) -> Result<HartSnapshot, QmpError> {
        let peer = &self.services.link.query_hart;
        self.services.ask(peer, "hart state", QueryHart { cpu }).await
    }

    /// Whether the machine has a CPU at all.
    pub async fn has_cpu(&self) -> Result<bool, QmpError> {
        Ok(!(QueryCpusFast {}).run(&self.services).await?.is_empty())
    }

    /// Guest memory; `None` where there is none, an error when the machine does not answer.
    pub async fn read(&self, request: ReadMemory) -> Result<Option<Vec<u8>>, QmpError> {
        self.services.try_read("memory", request).await
    }

    /// True when the output has reached its limit; says so in it.
    pub fn is_full(&mut self) -> bool {
        if self.out.len() < OUTPUT_LIMIT {
            return false;
        }
        self.out.push_str("(output ends here: too long)\n");
        true
    }
}

/// What a line printed, and what is to be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HumanReply {
    /// Lines end `\n`.
    pub text: String,
    pub state: HmpState,
    pub ends: bool,
    pub awaits_migration: bool,
}

/// Execute a line.
pub async fn execute(
    services: &Arc<Services>,
    state: HmpState,
    line: &str,
    terminal: Terminal,
) -> HumanReply {
    let mut call = Call::new(services, state, terminal);
    if let Err(error) = run(&mut call, line).await {
        call.out.push_str(&format!("Error: {error}\n"));
        if error.desc.ends_with("expects an identifier") {
            call.out.push_str(IDENTIFIERS);
        }
    }
    let Call { out: text, state, ends, awaits_migration, .. } = call;
    HumanReply { text, state, ends, awaits_migration }
}

/// What a line prints, for a program; an error stays one.
pub async fn show(services: &Arc<Services>, line: &str) -> Result<String, QmpError> {
    let mut call = Call::new(services, HmpState::default(), Terminal::CannotWait);
    run(&mut call, line).await?;
    Ok(call.out)
}

/// Execute a line; the error is the command's own. What is wrong with the line is printed.
async fn run(call: &mut Call, line: &str) -> Result<(), QmpError> {
    if line.trim_matches(is_space).is_empty() {
        return Ok(());
    }
    let (command, rest) = match find(line) {
        Ok(found) => found,
        Err(typed) => {
            call.out.push_str(&format!("unknown command: '{typed}'\n"));
            return Ok(());
        }
    };
    if !command.is_available(&call.services) {
        let typed = line[..line.len() - rest.len()].trim_end_matches(is_space);
        call.out.push_str(&format!(
            "Command '{typed}' not available until machine initialization has completed.\n"
        ));
        return Ok(());
    }
    let Action::Run(handler) = &command.action else {
        let services = Arc::clone(&call.services);
        super::control::list(&services, &mut call.out, &[line.trim_matches(is_space)]);
        return Ok(());
    };
    let cpu = call.state.cpu;
    let needs_registers = rest.contains('$');
    let snapshot = if needs_registers { call.hart(cpu).await.ok() } else { None };
    let register = |name: &str| snapshot.as_ref().and_then(|s| registers::value(s, cpu, name));
    let mut last = *call.services.last_format.lock();
    let parsed = arguments::parse(command.names, command.arguments, rest, &mut last, &register);
    *call.services.last_format.lock() = last;
    match parsed {
        Ok(arguments) => call.arguments = arguments,
        Err(error) => {
            let typed = line[..line.len() - rest.len()].trim_end_matches(is_space);
            let hint = format!("{error}Try \"help {typed}\" for more information\n");
            call.out.push_str(&hint);
            return Ok(());
        }
    }
    handler(call).await
}

/// The command a line names and what follows the name; the error is what was typed as one.
fn find(line: &str) -> Result<(&'static HmpCommand, &str), &str> {
    let mut table = COMMANDS;
    let mut rest = line;
    loop {
        let start = rest.trim_start_matches(is_space);
        let end = start.find(|c: char| is_space(c) || c == '/').unwrap_or(start.len());
        let (name, after) = start.split_at(end);
        let typed = &line[..line.len() - after.len()];
        let command = table.iter().find(|command| command.is_called(name)).ok_or(typed)?;
        match command.action {
            Action::Table(inner) if !after.trim_start_matches(is_space).is_empty() => {
                table = inner;
                rest = after;
            }
            _ => return Ok((command, after.trim_start_matches(is_space))),
        }
    }
}
