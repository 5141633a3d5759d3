//! What a failed transaction means: the one place where an SQLSTATE decides what is done about it.

use sqlx::Error;

/// Why a transaction did not come to its end. In every case but [`Failure::Unknown`] it is proven that
/// nothing happened: the commit was not sent, or Postgres answered it with an error.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It lost against another one; the next try may win.
    #[error("a conflict of transactions")]
    Conflict(#[source] Error),
    /// Postgres is away, going down, or short of something; no cause where it just did not answer.
    #[error("Postgres is away")]
    Away(#[source] Option<Error>),
    /// It refuses the data.
    #[error("Postgres refuses the data")]
    Data(#[source] Error),
    /// Something that the commands were decided on no longer stands: the epoch, a row's version, an idempotency key
    /// that was free.
    #[error("what the commands were decided on has changed in the meantime")]
    Stale,
    /// There are no tables, no rights, or no epoch yet.
    #[error("the database is not migrated")]
    Unmigrated(#[source] Option<Error>),
    /// A fault of ours.
    #[error("Postgres refuses the statement")]
    Fault(#[source] Error),
    /// The connection was lost at the commit, and the outcome could not be learned in time.
    #[error("the outcome is unknown")]
    Unknown,
}

impl Failure {
    /// What an error of a statement means that proves, or comes before the commit and so leaves, nothing done.
    pub(super) fn of(error: Error) -> Self {
        let Error::Database(refusal) = &error else {
            return match error {
                Error::Io(_)
                | Error::Tls(_)
                | Error::Protocol(_)
                | Error::PoolTimedOut
                | Error::PoolClosed
                | Error::WorkerCrashed => Failure::Away(Some(error)),
                _ => Failure::Fault(error),
            };
        };
        let code = refusal.code().unwrap_or_default().into_owned();
        match code.as_str() {
            // Raised by nexus.refuse_batch() alone: the statement that writes found something changed.
            "NX001" => Failure::Stale,
            // Serialization, deadlock, lock or statement time-out; a plan that a migration made stale.
            "40001" | "40P01" | "55P03" | "57014" | "0A000" | "26000" => Failure::Conflict(error),
            // A standby: it takes no writes, and gives no transaction its number.
            "25006" | "55000" => Failure::Away(Some(error)),
            "42P01" | "3F000" | "42501" | "42703" | "42883" => Failure::Unmigrated(Some(error)),
            _ => match &code[..code.len().min(2)] {
                "08" | "53" | "57" | "58" | "25" => Failure::Away(Some(error)),
                "22" | "23" | "54" => Failure::Data(error),
                _ => Failure::Fault(error),
            },
        }
    }

    /// What an error of connecting means: whatever it is, somebody may mend it while we run.
    pub(super) fn of_connecting(error: Error) -> Self {
        Failure::Away(Some(error))
    }

    /// Whether this answer to the commit proves that the transaction was rolled back.
    ///
    /// An error that Postgres reports is such a proof, unless it is on its way out: waiting for a
    /// standby, it ends a session with 57P01 after the local commit.
    pub(super) fn proves_rollback(error: &Error) -> bool {
        match error {
            Error::Database(refusal) => {
                let code = refusal.code().unwrap_or_default();
                !code.starts_with("08") && !code.starts_with("57P") && !code.starts_with("58")
            }
            _ => false,
        }
    }

    /// The word for it in metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Failure::Conflict(_) => "conflict",
            Failure::Away(_) => "connection",
            Failure::Data(_) => "data",
            Failure::Stale => "stale",
            Failure::Unmigrated(_) => "unmigrated",
            Failure::Fault(_) => "fault",
            Failure::Unknown => "unknown",
        }
    }
}
