//! The source and the destination with mocked channel, machine and monitor, and against each other.

mod destination;
mod mapped;
mod mocks;
mod multifd;
mod postcopy;
mod source;
