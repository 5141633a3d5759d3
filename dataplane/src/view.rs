//! What the view keeps in Redis: names, headers, and the scripts that change it.

pub mod header;
pub mod keys;
