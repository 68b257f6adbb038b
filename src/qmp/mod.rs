//! QMP: the JSON dialect, sessions over character devices, the typed commands, and the `Monitor`
//! actor that executes them against the machine. HMP (`crate::hmp`) uses the same commands.
#![forbid(unsafe_code)]

pub mod command;
pub mod commands;
mod dotted;
pub mod error;
pub mod event;
pub mod hash_order;
pub mod json;
pub mod lexer;
pub mod link;
pub mod migration;
pub mod monitor;
pub mod parser;
pub mod schema;
pub mod session;
pub mod throttle;
pub mod visit;
