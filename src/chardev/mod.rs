//! Character devices: back ends (stdio, pty, socket, file, pipe, ring buffer, null, mux) as
//! mailbox actors, and the messages between them and their front ends (UART, virtio console,
//! monitors).

pub mod message;
pub mod spec;
