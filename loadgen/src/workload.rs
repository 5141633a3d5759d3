//! What each command is: kind, key, body.
//!
//! Every body is a change (an update that changes nothing has no event, and so no latency to
//! consistency), and every title names the run and the operation, so that whoever reads the signal
//! knows which command wrote it.

use std::io::Write as _;

use crate::document::{RunTag, format_uuid, parse_uuid};
use crate::keys::{PackedId, Pieces};
use crate::random::Random;

mod mix;
mod skew;

pub use mix::{Kind, Mix, MixError};
pub use skew::Skew;

/// No key yet: a create.
const NO_KEY: u32 = u32::MAX;
/// Random text that payloads are cut from.
const PAD_BYTES: usize = 64 * 1024;
const PRIORITIES: [&str; 4] = ["low", "normal", "high", "critical"];

/// One command, chosen and not yet rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub kind: Kind,
    /// Number of the operation in this run, from 1.
    pub op: u64,
    key: u32,
}

/// What a run's commands look like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Shares of the kinds.
    pub mix: Mix,
    /// How keys are chosen for updates and deletes.
    pub skew: Skew,
    /// Smallest and largest length of the random text in a payload, in bytes.
    pub payload_bytes: (usize, usize),
    /// Commands in a batch request.
    pub batch_size: usize,
    /// Send an `Idempotency-Key` with every request.
    pub idempotency: bool,
}

/// The fixed part of every request.
#[derive(Debug, Clone)]
pub struct Address {
    /// `Host`.
    pub authority: String,
    /// Path before `/v1`.
    pub prefix: String,
    /// The caller's key.
    pub api_key: String,
}

#[derive(Debug, Clone, Copy)]
struct Key {
    id: PackedId,
    version: u32,
    in_flight: u16,
    /// An outcome on this key is unknown, so its version can't be foretold.
    unsure: bool,
    /// Place in `live`; `NO_KEY` when it is not there (deleted, or being deleted).
    place: u32,
}

/// Chooses and renders commands, and knows the keys they may be about.
#[derive(Debug)]
pub struct Workload {
    shape: Shape,
    run: RunTag,
    random: Random,
    keys: Pieces<Key>,
    free: Vec<u32>,
    live: Vec<u32>,
    next_op: u64,
    pad: Vec<u8>,
    common: String,
    prefix: String,
    body: Vec<u8>,
}

impl Workload {
    /// A workload without keys; the same seed and the same answers give the same commands.
    #[must_use]
    pub fn new(shape: Shape, run: RunTag, seed: u64, address: &Address) -> Self {
        let mut random = Random::new(seed);
        let alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ.";
        let pad = (0..PAD_BYTES).map(|_| alphabet[random.below(alphabet.len())]).collect();
        Self {
            shape,
            run,
            random,
            keys: Pieces::default(),
            free: Vec::new(),
            live: Vec::new(),
            next_op: 1,
            pad,
            common: format!(
                "Host: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
                address.authority, address.api_key
            ),
            prefix: address.prefix.clone(),
            body: Vec::new(),
        }
    }

    /// Signals that updates and deletes can choose from.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// The operations of the next request: one, or those of a batch. `only` overrides the mix.
    pub fn choose(&mut self, only: Option<Kind>) -> Vec<Operation> {
        let kind = only.unwrap_or_else(|| self.shape.mix.pick(&mut self.random));
        if kind != Kind::Batch {
            return vec![self.choose_one(kind)];
        }
        let size = self.shape.batch_size;
        (0..size)
            .map(|_| {
                let kind = self.shape.mix.pick_single(&mut self.random);
                self.choose_one(kind)
            })
            .collect()
    }

    fn choose_one(&mut self, kind: Kind) -> Operation {
        let op = self.next_op;
        self.next_op += 1;
        let key = match kind {
            Kind::Update => self.pick_live(),
            Kind::Delete => self.pick_idle(),
            Kind::Create | Kind::Batch => None,
        };
        let Some(key) = key else {
            return Operation { kind: Kind::Create, op, key: NO_KEY };
        };
        self.keys[key as usize].in_flight += 1;
        if kind == Kind::Delete {
            self.remove_live(key);
        }
        Operation { kind, op, key }
    }

    fn pick_live(&mut self) -> Option<u32> {
        let place = self.shape.skew.pick(self.live.len(), &mut self.random)?;
        self.live.get(place).copied()
    }

    /// A live key with nothing in flight on it, if some tries find one.
    fn pick_idle(&mut self) -> Option<u32> {
        (0..16).find_map(|_| self.pick_live().filter(|&key| self.keys[key as usize].in_flight == 0))
    }

    fn remove_live(&mut self, key: u32) {
        let place = self.keys[key as usize].place;
        if place == NO_KEY {
            return;
        }
        self.live.swap_remove(place as usize);
        if let Some(&moved) = self.live.get(place as usize) {
            self.keys[moved as usize].place = place;
        }
        self.keys[key as usize].place = NO_KEY;
    }

    /// The entity that an operation is about; `None` for a create.
    #[must_use]
    pub fn id_of(&self, operation: Operation) -> Option<u128> {
        self.keys.get(operation.key as usize).map(|key| key.id.into())
    }

    /// The version that a deletion will have, if that can be foretold: nothing else is in flight
    /// on its key, and every earlier outcome is known.
    #[must_use]
    pub fn version_of_delete(&self, operation: Operation) -> Option<u32> {
        let key = self.keys.get(operation.key as usize)?;
        (!key.unsure).then_some(key.version + 1)
    }

    /// Takes note of an accepted operation; for a create, of the new entity.
    pub fn accepted(&mut self, operation: Operation, id: u128, version: u32) {
        match operation.kind {
            Kind::Create | Kind::Batch => {
                let key = Key {
                    id: id.into(),
                    version,
                    in_flight: 0,
                    unsure: false,
                    place: u32::try_from(self.live.len()).unwrap_or(NO_KEY),
                };
                let index = if let Some(index) = self.free.pop() {
                    self.keys[index as usize] = key;
                    index
                } else {
                    self.keys.push(key);
                    u32::try_from(self.keys.len() - 1).unwrap_or(NO_KEY)
                };
                self.live.push(index);
            }
            Kind::Update => {
                let key = &mut self.keys[operation.key as usize];
                key.version = key.version.max(version);
                self.done(operation);
            }
            Kind::Delete => {
                self.done(operation);
                self.free.push(operation.key);
            }
        }
    }

    /// Takes note of an operation that changed nothing.
    pub fn refused(&mut self, operation: Operation) {
        if operation.key == NO_KEY {
            return;
        }
        self.done(operation);
        // A delete that was refused leaves the signal where it was.
        let key = operation.key;
        if operation.kind == Kind::Delete && self.keys[key as usize].place == NO_KEY {
            self.keys[key as usize].place = u32::try_from(self.live.len()).unwrap_or(NO_KEY);
            self.live.push(key);
        }
    }

    /// Takes note of an operation whose outcome nobody knows yet; it stays in flight, so that
    /// nothing is deleted that may still change.
    pub fn unknown(&mut self, operation: Operation) {
        if let Some(key) = self.keys.get_mut(operation.key as usize) {
            key.unsure = true;
        }
    }

    /// Takes note that an entity is gone that we did not delete: a 404 for a command on it.
    pub fn vanished(&mut self, operation: Operation) {
        if operation.key != NO_KEY {
            self.done(operation);
            self.remove_live(operation.key);
        }
    }

    fn done(&mut self, operation: Operation) {
        if let Some(key) = self.keys.get_mut(operation.key as usize) {
            key.in_flight = key.in_flight.saturating_sub(1);
        }
    }

    /// Writes the whole HTTP request for `operations` (more than one: a batch) to `out`.
    pub fn render(&mut self, operations: &[Operation], batch: bool, out: &mut Vec<u8>) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        let first = operations[0];
        // Writing to a vector can't fail.
        if batch {
            body.extend_from_slice(b"{\"commands\":[");
            for (i, &operation) in operations.iter().enumerate() {
                if i > 0 {
                    body.push(b',');
                }
                self.render_in_batch(operation, &mut body);
            }
            body.extend_from_slice(b"]}");
            let _ = write!(out, "POST {}/v1/signals:batch HTTP/1.1\r\n", self.prefix);
        } else {
            match first.kind {
                Kind::Create | Kind::Batch => {
                    self.render_signal(first, &mut body);
                    let _ = write!(out, "POST {}/v1/signals HTTP/1.1\r\n", self.prefix);
                }
                Kind::Update | Kind::Delete => {
                    let method = if first.kind == Kind::Update { "PATCH" } else { "DELETE" };
                    if first.kind == Kind::Update {
                        self.render_signal(first, &mut body);
                    }
                    let _ = write!(out, "{method} {}/v1/signals/", self.prefix);
                    out.extend_from_slice(&format_uuid(self.keys[first.key as usize].id.into()));
                    out.extend_from_slice(b" HTTP/1.1\r\n");
                }
            }
        }
        out.extend_from_slice(self.common.as_bytes());
        if self.shape.idempotency {
            out.extend_from_slice(b"Idempotency-Key: lg-");
            out.extend_from_slice(&self.run);
            let _ = write!(out, "-{}\r\n", first.op);
        }
        let _ = write!(out, "Content-Length: {}\r\n\r\n", body.len());
        out.extend_from_slice(&body);
        self.body = body;
    }

    fn render_in_batch(&mut self, operation: Operation, body: &mut Vec<u8>) {
        let name = operation.kind.name();
        let _ = write!(body, "{{\"op\":\"{name}\"");
        if let Some(id) = self.id_of(operation) {
            body.extend_from_slice(b",\"id\":\"");
            body.extend_from_slice(&format_uuid(id));
            body.push(b'"');
        }
        if operation.kind != Kind::Delete {
            body.extend_from_slice(b",\"signal\":");
            self.render_signal(operation, body);
        }
        body.push(b'}');
    }

    fn render_signal(&mut self, operation: Operation, body: &mut Vec<u8>) {
        body.extend_from_slice(b"{\"title\":\"lg-");
        body.extend_from_slice(&self.run);
        let _ = write!(body, "-{}\"", operation.op);
        // A quarter of the updates move the signal in the priority order.
        if operation.kind == Kind::Create || self.random.below(4) == 0 {
            let priority = PRIORITIES[self.random.below(PRIORITIES.len())];
            let _ = write!(body, ",\"priority\":\"{priority}\"");
        }
        let (least, most) = self.shape.payload_bytes;
        let length = (least + self.random.below(most - least + 1)).min(PAD_BYTES);
        let from = self.random.below(PAD_BYTES - length + 1);
        body.extend_from_slice(b",\"payload\":{\"text\":\"");
        body.extend_from_slice(&self.pad[from..from + length]);
        body.extend_from_slice(b"\"}}");
    }
}

/// One entry of a batch's `results`.
#[derive(Debug, serde::Deserialize)]
pub struct BatchResult {
    /// As the single command's.
    pub status: u16,
    /// The entity.
    pub id: Option<String>,
    /// Its version.
    pub version: Option<u32>,
}

impl BatchResult {
    /// The entity's id, if it is one.
    #[must_use]
    pub fn uuid(&self) -> Option<u128> {
        parse_uuid(self.id.as_deref()?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(mix: &str) -> Workload {
        let shape = Shape {
            mix: mix.parse().unwrap(),
            skew: Skew::Uniform,
            payload_bytes: (10, 20),
            batch_size: 3,
            idempotency: true,
        };
        let address = Address { authority: "h:1".to_owned(), prefix: String::new(), api_key: "nxs_k".to_owned() };
        Workload::new(shape, *b"00000001", 7, &address)
    }

    #[test]
    fn without_keys_every_command_is_a_create() {
        let mut workload = workload("update=50,delete=50");
        assert_eq!(workload.choose(None)[0].kind, Kind::Create);
    }

    #[test]
    fn nothing_is_deleted_while_something_is_in_flight_on_it() {
        let mut workload = workload("update=50,delete=50");
        let create = workload.choose(Some(Kind::Create))[0];
        workload.accepted(create, 7, 1);
        let update = workload.choose(Some(Kind::Update))[0];
        assert_eq!(workload.id_of(update), Some(7));
        assert_eq!(workload.choose(Some(Kind::Delete))[0].kind, Kind::Create);
        workload.accepted(update, 7, 2);
        let delete = workload.choose(Some(Kind::Delete))[0];
        assert_eq!(delete.kind, Kind::Delete);
        assert_eq!(workload.version_of_delete(delete), Some(3));
        assert_eq!(workload.choose(Some(Kind::Update))[0].kind, Kind::Create);
    }

    #[test]
    fn keys_take_under_40_bytes_each_and_the_room_of_deleted_ones_is_used_again() {
        let mut workload = workload("create=1");
        let bytes = |workload: &Workload| {
            workload.keys.heap_bytes() + (workload.live.capacity() + workload.free.capacity()) * size_of::<u32>()
        };
        for id in 0..100_000 {
            let create = workload.choose(Some(Kind::Create))[0];
            workload.accepted(create, id, 1);
        }
        assert!(bytes(&workload) <= 100_000 * 40, "{}", bytes(&workload));
        for id in 100_000..200_000 {
            let delete = workload.choose(Some(Kind::Delete))[0];
            workload.accepted(delete, 0, 2);
            let create = workload.choose(Some(Kind::Create))[0];
            workload.accepted(create, id, 1);
        }
        assert!(bytes(&workload) <= 100_000 * 40, "{}", bytes(&workload));
    }

    #[test]
    fn requests_are_whole_and_their_bodies_are_json() {
        let mut workload = workload("create=1");
        let create = workload.choose(Some(Kind::Create));
        let mut request = Vec::new();
        workload.render(&create, false, &mut request);
        let text = String::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /v1/signals HTTP/1.1\r\nHost: h:1\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(head.contains("Idempotency-Key: lg-00000001-1"));
        let signal: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(signal["title"], "lg-00000001-1");
    }
}
