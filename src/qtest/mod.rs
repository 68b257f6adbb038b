//! qtest: a line protocol through which a program outside reads and writes guest memory and
//! device registers, steps the virtual clock and watches interrupt lines (QEMU's
//! `docs/devel/testing/qtest`). Programs written against QEMU's libqtest drive this machine by it.
//!
//! `command` is the language, `gpio` the devices and their interrupt lines by QOM path, `stepped` the clock under
//! `-accel qtest`, `log` the transcript, `session` the actor that puts them together.
#![forbid(unsafe_code)]

pub mod command;
pub mod gpio;
pub mod log;
pub mod session;
pub mod stepped;
