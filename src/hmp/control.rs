//! Commands that act on the machine or on the monitor, and help.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::arguments;
use super::command::{Action, Call, HmpCommand};
use super::table::COMMANDS;
use crate::machine::log;
use crate::machine::message::SetOneInsnPerTb;
use crate::machine::spec::{LOG_ITEMS, is_log_name};
use crate::qmp::command::Command;
use crate::qmp::commands::{machine, status};
use crate::qmp::error::QmpError;
use crate::qmp::link::{Services, SetLog};

type Outcome = Result<(), QmpError>;

pub(super) async fn cont(call: &mut Call) -> Outcome {
    status::Cont {}.run(&call.services).await.map(drop)
}

pub(super) async fn stop(call: &mut Call) -> Outcome {
    status::Stop {}.run(&call.services).await.map(drop)
}

pub(super) async fn system_reset(call: &mut Call) -> Outcome {
    status::SystemReset {}.run(&call.services).await.map(drop)
}

pub(super) async fn system_powerdown(call: &mut Call) -> Outcome {
    status::SystemPowerdown {}.run(&call.services).await.map(drop)
}

pub(super) async fn quit(call: &mut Call) -> Outcome {
    status::Quit {}.run(&call.services).await?;
    call.ends = true;
    Ok(())
}

pub(super) async fn cpu(call: &mut Call) -> Outcome {
    let index = call.arguments.number("index").unwrap_or_default();
    let cpus = machine::QueryCpusFast {}.run(&call.services).await?;
    match cpus.iter().find(|cpu| i64::from(cpu.cpu_index) == index) {
        Some(cpu) => call.state.cpu = cpu.cpu_index,
        None => call.out.push_str("invalid CPU index\n"),
    }
    Ok(())
}

pub(super) async fn log(call: &mut Call) -> Outcome {
    match SetLog::parse(call.arguments.text("items").unwrap_or_default()) {
        Ok(items) => match call.services.link.log.send(items) {
            true => Ok(()),
            false => Err(QmpError::generic("The log has failed")),
        },
        Err(_) => {
            log_items(&mut call.out);
            Ok(())
        }
    }
}

pub(super) async fn one_insn_per_tb(call: &mut Call) -> Outcome {
    let services = Arc::clone(&call.services);
    let Some(setting) = &services.info.one_insn_per_tb else {
        call.out.push_str("This accelerator does not support setting one-insn-per-tb\n");
        return Ok(());
    };
    let on = match call.arguments.text("option") {
        None | Some("on") => true,
        Some("off") => false,
        Some(other) => {
            let _ = writeln!(call.out, "unexpected option {other}");
            return Ok(());
        }
    };
    let peer = &services.link.one_insn_per_tb;
    services.ask(peer, "one-insn-per-tb", SetOneInsnPerTb { on }).await?;
    setting.store(on, Ordering::Relaxed);
    Ok(())
}

pub(super) async fn logfile(call: &mut Call) -> Outcome {
    let name = call.arguments.text("filename").unwrap_or_default();
    if !is_log_name(name) {
        let _ = writeln!(call.out, "Bad logfile template: {name}");
        return Ok(());
    }
    match log::create(name) {
        Ok(file) => match call.services.link.log.send(SetLog::Output(file)) {
            true => Ok(()),
            false => Err(QmpError::generic("The log has failed")),
        },
        Err(error) => {
            let _ = writeln!(call.out, "{error}");
            Ok(())
        }
    }
}

fn log_items(out: &mut String) {
    out.push_str("Log items (comma separated):\n");
    out.push_str(&format!("{:<15} {}\n", "none", "log nothing any more"));
    for (name, meaning) in LOG_ITEMS {
        out.push_str(&format!("{name:<15} {meaning}\n"));
    }
}

pub(super) async fn help(call: &mut Call) -> Outcome {
    let line = call.arguments.text("name").unwrap_or_default();
    if line == "log" {
        log_items(&mut call.out);
    } else if let Some(words) = arguments::words(line) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let services = Arc::clone(&call.services);
        list(&services, &mut call.out, &words);
    }
    Ok(())
}

/// `info history`
pub(super) async fn history(call: &mut Call) -> Outcome {
    for (number, line) in call.state.history.iter().enumerate() {
        call.out.push_str(&format!("{number}: '{line}'\n"));
    }
    Ok(())
}

/// Explain the command that `words` name, or list the table they lead to.
pub(super) fn list(services: &Services, out: &mut String, words: &[&str]) {
    let mut table = COMMANDS;
    let mut prefix = String::new();
    for (i, word) in words.iter().enumerate() {
        let is_it =
            |command: &&HmpCommand| command.is_called(word) && command.is_available(services);
        let Some(command) = table.iter().find(is_it) else {
            out.push_str(&format!("unknown command: '{}'\n", words[..=i].join(" ")));
            return;
        };
        match command.action {
            Action::Table(inner) => {
                prefix.push_str(&format!("{word} "));
                table = inner;
            }
            Action::Run(_) => return explain(out, &prefix, command),
        }
    }
    for command in table.iter().filter(|command| command.is_available(services)) {
        explain(out, &prefix, command);
    }
}

fn explain(out: &mut String, prefix: &str, command: &HmpCommand) {
    let HmpCommand { names, parameters, help, .. } = command;
    out.push_str(&format!("{prefix}{names} {parameters} -- {help}\n"));
}
