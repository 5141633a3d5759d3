//! Folds the commands of a batch through the aggregate, in their order: rows as they were read and
//! requests in, answers and what is to be written out. No I/O.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use bytes::Bytes;
use contract::command::SignalCommand;
use contract::event::{Change, Event};
use contract::id::RisingClock;
use contract::partition::Topic;
use contract::problem::Problem;
use contract::signal::Signal;
use uuid::Uuid;

use super::random::Random;
use super::stamp::{Stamp, Touched};
use super::write::{Changes, Kept};
use crate::aggregate::{Decision, Situation, State, decide};
use crate::request::{Answer, Request, Work};

/// What the decisions of a batch depend on besides its rows.
pub(super) struct Surroundings<'a> {
    pub(super) stamp: &'a Stamp,
    /// Those of the named targets that exist.
    pub(super) identities: &'a HashSet<Uuid>,
    pub(super) partitions: u16,
    pub(super) clock: &'a RisingClock,
}

/// A batch under way.
pub(super) struct Fold<'a> {
    around: Surroundings<'a>,
    entities: HashMap<Uuid, Entity>,
    /// Ids in the order of their first change, so that what is written has an order too.
    order: Vec<Uuid>,
    random: Random,
    changes: Changes,
}

struct Entity {
    state: State,
    /// The version of the row that stood there before.
    stored: Option<u64>,
    changed: bool,
}

/// One accepted command.
struct Accepted {
    change: Option<Change>,
    id: Uuid,
    version: u64,
    body: Bytes,
}

impl Accepted {
    fn status(&self) -> u16 {
        match self.change {
            Some(Change::Created) => 201,
            Some(Change::Deleted) => 204,
            _ => 200,
        }
    }
}

impl<'a> Fold<'a> {
    /// A fold over the rows of all signals that the requests name, and the remembered deletions.
    pub(super) fn new(around: Surroundings<'a>, rows: Vec<Signal>, deleted: Vec<(Uuid, u64)>) -> Self {
        let live = rows
            .into_iter()
            .map(|row| (row.id, Entity { stored: Some(row.version), state: State::Live(row), changed: false }));
        let gone = deleted
            .into_iter()
            .map(|(id, version)| (id, Entity { state: State::Deleted(version), stored: None, changed: false }));
        let entities = gone.chain(live).collect();
        Self { around, entities, order: Vec::new(), random: Random::default(), changes: Changes::default() }
    }

    /// The answer to a request on signals.
    pub(super) fn answer(&mut self, request: &Request) -> Answer {
        let mut touched = Touched::default();
        let mut answer = match &request.work {
            Work::Signal(command) => match self.apply(request, command, "", &mut touched) {
                Ok(accepted) => single(accepted),
                Err(problem) => Answer::rejected(&problem, &request.request_id),
            },
            Work::Batch(entries) => self.batch(request, entries, &mut touched),
            Work::Invalid(problem) => Answer::rejected(problem, &request.request_id),
            // The queue gives each of these a transaction of its own.
            _ => unreachable!("administration is no part of a batch"),
        };
        answer.token = touched.token(self.around.stamp, self.around.clock.now());
        self.changes.kept.extend(Kept::of(request, &answer, None));
        answer
    }

    fn batch(
        &mut self,
        request: &Request,
        entries: &[Result<SignalCommand, Problem>],
        touched: &mut Touched,
    ) -> Answer {
        let mut body = String::from("{\"results\":[");
        for (place, entry) in entries.iter().enumerate() {
            if place > 0 {
                body.push(',');
            }
            let pointer = format!("/commands/{place}/signal");
            let result = match entry {
                Ok(command) => self.apply(request, command, &pointer, touched),
                Err(problem) => Err(problem.clone()),
            };
            // Writing to a String can't fail.
            let _ = match result {
                Ok(accepted) => {
                    let (status, Accepted { id, version, .. }) = (accepted.status(), accepted);
                    write!(body, "{{\"status\":{status},\"id\":\"{id}\",\"version\":{version}}}")
                }
                Err(problem) => {
                    let document = problem.to_json(None);
                    let (status, error) = (problem.kind.status, String::from_utf8_lossy(&document));
                    write!(body, "{{\"status\":{status},\"error\":{error}}}")
                }
            };
        }
        body.push_str("]}");
        Answer::ok(200, body)
    }

    fn apply(
        &mut self,
        request: &Request,
        command: &SignalCommand,
        pointer: &str,
        touched: &mut Touched,
    ) -> Result<Accepted, Problem> {
        let named = match command {
            SignalCommand::Create(_) => None,
            SignalCommand::Update(id, ..) | SignalCommand::Delete(id, _) => Some(*id),
        };
        let missing = State::Missing;
        let state = named.and_then(|id| self.entities.get(&id)).map_or(&missing, |entity| &entity.state);
        let now = self.around.clock.now();
        let identities = self.around.identities;
        let situation = Situation {
            now,
            actor: request.caller.identity,
            random: self.random.next(),
            knows_identity: &|id| identities.contains(&id),
            pointer,
        };
        let decision = decide(state, command, situation)?;
        let change = decision.change();
        let (id, version, time, body, next) = match (decision, state) {
            (Decision::Created(signal) | Decision::Updated(signal), _) => {
                let body = Bytes::from(signal.render());
                (signal.id, signal.version, signal.updated_at, body, Some(State::Live(signal)))
            }
            (Decision::Unchanged, State::Live(signal)) => {
                (signal.id, signal.version, signal.updated_at, Bytes::from(signal.render()), None)
            }
            (Decision::Deleted(version), State::Live(signal)) => {
                let time = now.max(signal.updated_at);
                (signal.id, version, time, Bytes::new(), Some(State::Deleted(version)))
            }
            (Decision::Unchanged | Decision::Deleted(_), _) => unreachable!("only a live signal stays or goes"),
        };
        let partitions = self.around.partitions;
        if let (Some(change), Some(state)) = (change, next) {
            touched.event(Topic::Signals, id, version, partitions);
            let traceparent = request.traceparent.as_str();
            let event = Event { topic: Topic::Signals, id, change, version, time, traceparent, value: &body };
            self.changes.events.push(&event);
            self.set(id, state);
        } else {
            touched.unchanged(Topic::Signals, id, version, partitions);
        }
        Ok(Accepted { change, id, version, body })
    }

    fn set(&mut self, id: Uuid, state: State) {
        let entity = self.entities.entry(id).or_insert(Entity { state: State::Missing, stored: None, changed: false });
        entity.state = state;
        if !entity.changed {
            entity.changed = true;
            self.order.push(id);
        }
    }

    /// What is to be written: each row once, as the last command left it.
    pub(super) fn finish(mut self) -> Changes {
        // Rows were locked in this order; keeping it costs nothing.
        self.order.sort_unstable();
        for id in self.order {
            let Some(entity) = self.entities.remove(&id) else { continue };
            match entity.state {
                State::Live(signal) => match entity.stored {
                    Some(was) => self.changes.updated.push((signal, was)),
                    None => self.changes.created.push(signal),
                },
                State::Deleted(version) => {
                    if let Some(was) = entity.stored {
                        self.changes.deleted.push((id, was));
                    }
                    self.changes.tombstones.push((id, version));
                }
                State::Missing => {}
            }
        }
        self.changes
    }
}

fn single(accepted: Accepted) -> Answer {
    let status = accepted.status();
    let Accepted { id, version, body, .. } = accepted;
    let mut answer = Answer::ok(status, body);
    if status != 204 {
        answer.etag = Some(version);
    }
    if status == 201 {
        answer.location = Some(format!("/v1/signals/{id}"));
    }
    answer
}
