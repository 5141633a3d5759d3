//! The design that most teams start with: see `README.md` beside this file.

pub mod apply;
pub mod commands;
mod http;
mod store;
pub mod view;

/// Header of a record that says what happened: `created`, `updated` or `deleted`.
pub const TYPE: &str = "type";

/// What one event does to Redis, in one call; Benthos calls the same.
/// `KEYS` 1 the document's key; `ARGV` 1 the channel, 2 the type, 3 the document, or id and version of a deleted one.
pub const APPLY: &str = "if ARGV[2] == 'deleted' then redis.call('SET', KEYS[1], ARGV[3], 'EX', 86400) \
    else redis.call('SET', KEYS[1], ARGV[3]) end \
    redis.call('PUBLISH', ARGV[1], ARGV[2] .. ' ' .. ARGV[3]) return 1";

/// The key of a document.
pub fn document_key(prefix: &str, id: &str) -> String {
    format!("{prefix}d:{id}")
}

/// The channel on which changes are told.
pub fn channel(prefix: &str) -> String {
    format!("{prefix}changes")
}
