//! Finds the rows that a batch names, then folds its commands.

use contract::command::SignalCommand;
use contract::signal::{Payload, Priority, Signal, Status};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::fold::{Fold, Surroundings};
use super::opening::Opening;
use super::sql::{PgTime, count};
use super::transaction::Mode;
use super::write::Changes;
use crate::request::{Answer, Request, Work};

/// The columns of a signal, in the order of [`from_row`].
macro_rules! signal_columns {
    () => {
        "id, title, priority, status, payload::text AS payload, target, created_by, created_at, updated_at, version"
    };
}
pub(super) use signal_columns;

// In id order: two batches that share signals wait for each other, but never in a ring.
const LOCK: &str = "SELECT FROM nexus.signals WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE";
const FIND: &str = concat!(
    "SELECT named.id AS named, s.*, gone.version AS gone FROM unnest($1::uuid[]) AS named (id) ",
    "LEFT JOIN (SELECT ",
    signal_columns!(),
    " FROM nexus.signals) s ON s.id = named.id LEFT JOIN nexus.deleted_signals gone ON gone.id = named.id"
);

/// The answers to `requests`, in their order, and what is to be written for them to be true.
pub(super) async fn prepare(
    connection: &mut PgConnection,
    opening: &Opening,
    around: Surroundings<'_>,
    requests: &[&Request],
    mode: Mode,
) -> Result<(Vec<Answer>, Changes), sqlx::Error> {
    let settled: Vec<Option<Answer>> = requests.iter().map(|request| opening.settled(request)).collect();
    let open = requests.iter().zip(&settled).filter(|(_, settled)| settled.is_none()).map(|(request, _)| *request);
    let mut ids: Vec<Uuid> = commands(open).filter_map(named).collect();
    ids.sort_unstable();
    ids.dedup();
    let (mut rows, mut deleted) = (Vec::new(), Vec::new());
    if !ids.is_empty() {
        if mode == Mode::Careful {
            sqlx::query(LOCK).bind(&ids).execute(&mut *connection).await?;
        }
        for row in sqlx::query(FIND).bind(&ids).fetch_all(connection).await? {
            if row.try_get::<Option<Uuid>, _>("id")?.is_some() {
                rows.push(from_row(&row)?);
            } else if let Some(version) = row.try_get("gone")? {
                deleted.push((row.try_get("named")?, count(version)));
            }
        }
    }
    let mut fold = Fold::new(around, rows, deleted);
    let answers = requests
        .iter()
        .zip(settled)
        .map(|(request, settled)| settled.unwrap_or_else(|| fold.answer(request)))
        .collect();
    Ok((answers, fold.finish()))
}

/// The identities that the commands of `requests` name as targets.
pub(super) fn targets(requests: &[&Request]) -> Vec<Uuid> {
    let target = |command: &SignalCommand| match command {
        SignalCommand::Create(create) => create.target,
        SignalCommand::Update(_, patch, _) => patch.target.flatten(),
        SignalCommand::Delete(..) => None,
    };
    let mut ids: Vec<Uuid> = commands(requests.iter().copied()).filter_map(target).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn commands<'r>(requests: impl Iterator<Item = &'r Request>) -> impl Iterator<Item = &'r SignalCommand> {
    requests.flat_map(|request| {
        let (one, many): (Option<&SignalCommand>, &[Result<SignalCommand, _>]) = match &request.work {
            Work::Signal(command) => (Some(command), &[]),
            Work::Batch(entries) => (None, entries),
            _ => (None, &[]),
        };
        one.into_iter().chain(many.iter().filter_map(|entry| entry.as_ref().ok()))
    })
}

fn named(command: &SignalCommand) -> Option<Uuid> {
    match command {
        SignalCommand::Create(_) => None,
        SignalCommand::Update(id, ..) | SignalCommand::Delete(id, _) => Some(*id),
    }
}

/// The signal in a row of [`signal_columns`].
pub(super) fn from_row(row: &PgRow) -> Result<Signal, sqlx::Error> {
    let priority: i16 = row.try_get("priority")?;
    let status: i16 = row.try_get("status")?;
    let (created_at, updated_at): (PgTime, PgTime) = (row.try_get("created_at")?, row.try_get("updated_at")?);
    Ok(Signal {
        id: row.try_get("id")?,
        title: row.try_get("title")?,
        priority: ranked(Priority::ALL, priority)?,
        status: ranked(Status::ALL, status)?,
        payload: Payload::from_stored(row.try_get("payload")?),
        target: row.try_get("target")?,
        created_by: row.try_get("created_by")?,
        created_at: created_at.0,
        updated_at: updated_at.0,
        version: count(row.try_get("version")?),
    })
}

/// The word with this rank.
pub(super) fn ranked<T: Copy>(all: &[T], rank: i16) -> Result<T, sqlx::Error> {
    let found = usize::try_from(rank).ok().and_then(|rank| all.get(rank)).copied();
    found.ok_or_else(|| sqlx::Error::Decode(format!("no word has the rank {rank}").into()))
}
