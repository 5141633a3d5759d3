//! Documents out of the view: one round trip for any number of them, their partitions' headers included.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

use contract::partition::Partition;
use redis::{RedisError, RedisResult};
use uuid::Uuid;

use crate::document::Document;
use crate::link::Link;
use crate::view::header::Header;
use crate::view::keys::Keys;
use crate::wire::{Commands, Values};

/// How often a read looks again when the generation changed under it.
const ROUNDS_MAX: usize = 4;

/// Why the view can't be read. Each is a 503, decided in one place ([`crate::http`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Redis does not answer.
    #[error("Redis is away")]
    Away,
    /// A partition has no header, is being filled, or was written on another run of the server.
    #[error("the view is being filled")]
    NotReady,
    /// A queue is full.
    #[error("too many reads wait")]
    Overloaded,
}

/// One answer: what the serving generation holds of an entity, and its partition's header.
#[derive(Debug, Clone)]
pub struct Found {
    /// The document or tombstone; `None` where there is nothing.
    pub document: Option<Document>,
    /// The header that came in the same command.
    pub header: Arc<Header>,
}

/// What every read of the view shares: the names of its keys, and the generations last seen.
#[derive(Debug)]
pub struct View {
    /// The names.
    pub keys: Keys,
    generations: [AtomicU64; GENERATIONS],
    history: AtomicU64,
    signals: AtomicU16,
}

/// Places for the generations of all partitions there may be ([`contract::partition::PARTITIONS_MAX`]).
const GENERATIONS: usize = 2 + contract::partition::PARTITIONS_MAX as usize;

impl View {
    /// The view below `keys`.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            generations: [const { AtomicU64::new(0) }; GENERATIONS],
            history: AtomicU64::new(0),
            signals: AtomicU16::new(0),
        }
    }

    fn place(partition: Partition) -> usize {
        use contract::partition::Topic;
        match partition.topic {
            Topic::Identities => 0,
            Topic::Keys => 1,
            Topic::Signals => (2 + usize::from(partition.index)).min(GENERATIONS - 1),
        }
    }

    /// The generation that last served the partition; 0 where none was seen yet.
    #[must_use]
    pub fn generation(&self, partition: Partition) -> u64 {
        self.generations[Self::place(partition)].load(Relaxed)
    }

    /// Notes the generation that serves the partition.
    pub fn saw(&self, partition: Partition, generation: u64) {
        self.generations[Self::place(partition)].store(generation, Relaxed);
    }

    /// The number of partitions of signals; `None` until the view said it.
    #[must_use]
    pub fn signals(&self) -> Option<u16> {
        Some(self.signals.load(Relaxed)).filter(|signals| *signals > 0)
    }

    /// Notes the number of partitions of signals.
    pub fn saw_signals(&self, signals: u16) {
        self.signals.store(signals, Relaxed);
    }

    /// Notes the history that the relay's records are in.
    pub fn saw_history(&self, history: u64) {
        self.history.fetch_max(history, Relaxed);
    }

    /// The header in `stored`, where it may be read on this link.
    ///
    /// # Errors
    /// [`ReadError::NotReady`]: absent, not ready, of another run of the server, or of a history that
    /// the database has left.
    pub fn check(&self, link: &Link, stored: Option<&[u8]>) -> Result<Header, ReadError> {
        let header = Header::parse(stored.ok_or(ReadError::NotReady)?).map_err(|_| ReadError::NotReady)?;
        if header.serves_on(&link.run_id) && header.history >= self.history.load(Relaxed) {
            Ok(header)
        } else {
            Err(ReadError::NotReady)
        }
    }

    /// What the view holds of each of `wants`, in their order, in one round trip (more only where a
    /// generation changed). Of each partition, header and documents come from one command, so they agree.
    ///
    /// # Errors
    /// The inner ones are [`ReadError::NotReady`], partition by partition; the outer one is Redis'.
    pub async fn fetch(&self, link: &Link, wants: &[(Partition, Uuid)]) -> RedisResult<Vec<Result<Found, ReadError>>> {
        let mut found: Vec<Result<Found, ReadError>> = vec![Err(ReadError::NotReady); wants.len()];
        let mut open: Vec<usize> = (0..wants.len()).collect();
        open.sort_by_key(|place| wants[*place].0);
        let mut id = [0; 36];
        for _ in 0..ROUNDS_MAX {
            if open.is_empty() {
                break;
            }
            let mut commands = Commands::default();
            // With the generation that the names were made of.
            let mut asked: Vec<(&[usize], u64)> = Vec::with_capacity(8);
            for places in open.chunk_by(|a, b| wants[*a].0 == wants[*b].0) {
                let partition = wants[places[0]].0;
                let generation = self.generation(partition);
                asked.push((places, generation));
                let mut stem = self.keys.generation(partition, generation);
                stem.push_str("d:");
                commands.command(2 + places.len(), "MGET").arg(self.keys.header(partition).as_bytes());
                for place in places {
                    let id = wants[*place].1.hyphenated().encode_lower(&mut id);
                    commands.joined(stem.as_bytes(), id.as_bytes());
                }
            }
            let answer = link.wire.ask(commands).await?;
            let mut values = Values::of(&answer);
            let mut changed = Vec::new();
            for (places, generation) in asked {
                if values.array()? != Some(1 + places.len()) {
                    return Err(unexpected());
                }
                let header = self.check(link, values.string()?).map(Arc::new);
                let partition = wants[places[0]].0;
                if let Ok(header) = &header
                    && header.generation != generation
                {
                    self.saw(partition, header.generation);
                    changed.extend_from_slice(places);
                }
                for place in places {
                    let document = values.string()?.and_then(Document::of);
                    if let Ok(header) = &header
                        && header.generation == generation
                    {
                        found[*place] = Ok(Found { document, header: Arc::clone(header) });
                    }
                }
            }
            open = changed;
        }
        Ok(found)
    }
}

/// Redis answered something that the command can't have as its answer.
pub(crate) fn unexpected() -> RedisError {
    RedisError::from((redis::ErrorKind::UnexpectedReturnType, "an answer of another shape than its command's"))
}
