//! The whole way of a command, with real servers and the real executables: every promise of ARCHITECTURE.md that needs
//! more than one part to be kept.

mod away;
mod client;
mod crash;
mod life;
mod refill;
mod rights;
mod token;
mod topics;
