//! placeholder
pub mod cli;
