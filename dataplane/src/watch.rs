//! Watches: changes of the view as server-sent events.
//!
//! `position`: what an event's id holds. `entry`: the change feed's entries. `scope`: what a watch is
//! about. `hub`: reads each changed document once and renders it once for all watches of a scope.
//! `lookup`: what a change led to. `replay`: what a watch missed. `stream`: one watch from its first event to its last.

pub mod entry;
pub mod hub;
pub mod lookup;
pub mod position;
pub mod replay;
pub mod scope;
pub mod stream;
