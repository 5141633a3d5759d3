//! The view server over real sockets and a real Redis, into which the tests write what a projector would.
#![allow(clippy::unwrap_used)]

#[path = "read/world.rs"]
mod world;

#[path = "read/access.rs"]
mod access;
#[path = "read/lists.rs"]
mod lists;
#[path = "read/one.rs"]
mod one;
#[path = "read/redis_away.rs"]
mod redis_away;
#[path = "read/tokens.rs"]
mod tokens;
#[path = "read/watches.rs"]
mod watches;
