//! What a command does to a signal: `(state, command) → change or rejection`. Pure.

pub mod identity;

use contract::command::{CreateSignal, PatchPayload, PatchSignal, Precondition, SignalCommand};
use contract::event::Change;
use contract::json::Json;
use contract::problem::{FINAL_STATUS, FieldError, NOT_FOUND, PRECONDITION_FAILED, Problem};
use contract::signal::{Payload, Signal, Status};
use contract::time::Timestamp;
use uuid::Uuid;

/// What is known of a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing: it never was, or is long gone.
    Missing,
    /// It exists.
    Live(Signal),
    /// It was deleted, by this version.
    Deleted(u64),
}

/// What a decision depends on besides state and command.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// The time of the decision.
    pub now: Timestamp,
    /// Who commands.
    pub actor: Uuid,
    /// Random bits for the id of a creation.
    pub random: u64,
    /// Whether an identity exists.
    pub knows_identity: &'a dyn Fn(Uuid) -> bool,
    /// Where the signal stands in the request's body, for pointers in rejections.
    pub pointer: &'a str,
}

/// What an accepted command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The signal comes to be.
    Created(Signal),
    /// It gets this state.
    Updated(Signal),
    /// It stays as it is; no event.
    Unchanged,
    /// It goes, by this version.
    Deleted(u64),
}

impl Decision {
    /// The change that its event tells; none for no change.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        match self {
            Decision::Created(_) => Some(Change::Created),
            Decision::Updated(_) => Some(Change::Updated),
            Decision::Unchanged => None,
            Decision::Deleted(_) => Some(Change::Deleted),
        }
    }
}

/// The decision on `command` in `state`.
///
/// # Errors
/// The rejection. Of several reasons the first of: an unknown target (422), no such signal (404), a
/// payload past its bounds after merging (422), another version than asked for (412), a final status (409).
pub fn decide(state: &State, command: &SignalCommand, situation: Situation<'_>) -> Result<Decision, Problem> {
    match command {
        SignalCommand::Create(create) => create_signal(create, situation),
        SignalCommand::Update(_, patch, precondition) => update(state, patch, precondition, situation),
        SignalCommand::Delete(_, precondition) => {
            let signal = live(state)?;
            check_version(precondition, signal.version)?;
            Ok(Decision::Deleted(signal.version + 1))
        }
    }
}

fn create_signal(create: &CreateSignal, situation: Situation<'_>) -> Result<Decision, Problem> {
    check_target(create.target, situation)?;
    let CreateSignal { title, priority, payload, target } = create.clone();
    Ok(Decision::Created(Signal {
        id: contract::id::v7(situation.now, situation.random),
        title,
        priority,
        status: Status::Pending,
        payload,
        target,
        created_by: situation.actor,
        created_at: situation.now,
        updated_at: situation.now,
        version: 1,
    }))
}

fn update(
    state: &State,
    patch: &PatchSignal,
    precondition: &Precondition,
    situation: Situation<'_>,
) -> Result<Decision, Problem> {
    check_target(patch.target.flatten(), situation)?;
    let old = live(state)?;
    let payload = match &patch.payload {
        None => None,
        Some(PatchPayload::Reset) => Some(Payload::empty()),
        Some(PatchPayload::Merge(text)) => Some(merge(&old.payload, text, situation.pointer)?),
    };
    check_version(precondition, old.version)?;
    if let Some(status) = patch.status
        && status != old.status
        && old.status.is_final()
    {
        let detail = format!("the signal is {}, which is final", old.status);
        return Err(Problem::new(&FINAL_STATUS, detail));
    }
    let mut new = Signal {
        title: patch.title.clone().unwrap_or_else(|| old.title.clone()),
        priority: patch.priority.unwrap_or(old.priority),
        status: patch.status.unwrap_or(old.status),
        payload: payload.unwrap_or_else(|| old.payload.clone()),
        target: patch.target.unwrap_or(old.target),
        ..old.clone()
    };
    if new == *old {
        return Ok(Decision::Unchanged);
    }
    // Another process' clock may be ahead of ours; times of one signal never go back.
    new.updated_at = situation.now.max(old.updated_at);
    new.version = old.version + 1;
    Ok(Decision::Updated(new))
}

fn merge(old: &Payload, patch: &str, pointer: &str) -> Result<Payload, Problem> {
    let place = format!("{pointer}/payload");
    let unreadable = |_| Problem::validation(vec![FieldError::new(place.clone(), "can't be merged")]);
    let mut merged = Json::parse(old.as_str().as_bytes()).map_err(unreadable)?;
    merged.merge(&Json::parse(patch.as_bytes()).map_err(unreadable)?);
    Payload::from_json(&merged, &place).map_err(|errors| {
        let after = |error: FieldError| FieldError { detail: format!("merged, it {}", error.detail), ..error };
        Problem::validation(errors.into_iter().map(after).collect())
    })
}

fn check_target(target: Option<Uuid>, situation: Situation<'_>) -> Result<(), Problem> {
    match target {
        Some(id) if !(situation.knows_identity)(id) => {
            let pointer = format!("{}/target", situation.pointer);
            Err(Problem::validation(vec![FieldError::new(pointer, "must be the id of an existing identity")]))
        }
        _ => Ok(()),
    }
}

fn live(state: &State) -> Result<&Signal, Problem> {
    match state {
        State::Live(signal) => Ok(signal),
        State::Deleted(version) => {
            Err(Problem::new(&NOT_FOUND, "the signal was deleted").with_deleted_version(*version))
        }
        State::Missing => Err(Problem::new(&NOT_FOUND, "there is no signal with this id")),
    }
}

/// Whether the precondition allows a change of an entity of this version.
///
/// # Errors
/// 412, naming both versions.
pub(crate) fn check_version(precondition: &Precondition, version: u64) -> Result<(), Problem> {
    if precondition.allows(version) {
        return Ok(());
    }
    Err(Problem::new(&PRECONDITION_FAILED, format!("the current version is {version}")))
}

#[cfg(test)]
mod tests;
