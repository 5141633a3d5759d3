//! Stage 9: what the view keeps in Redis, and the script calls that change it.

pub mod feed_cap;
pub mod header;
pub mod keys;
mod sabotage;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use contract::partition::{Partition, Topic};
use redis::Cmd;

use crate::projector::{Batch, Point};
use crate::redis_link::{LinkError, RedisLink};
use feed_cap::FeedCap;
use header::Header;
use keys::Keys;

/// How long a tombstone lives: longer than any token.
pub const TOMBSTONE_SECONDS: u32 = 24 * 3600;

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Why the view could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// Redis.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A header that no projector wrote.
    #[error(transparent)]
    Header(#[from] header::NotAHeader),
    /// An answer that no script of ours gives.
    #[error("a script answered {0:?}")]
    Answer(String),
}

/// What a script did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked; the header stands so now.
    Applied(Header),
    /// The view is at or past the batch already.
    Already(Header),
    /// The view is not yet where the batch begins.
    Hole(Header),
    /// The header is another one than the caller works on: gone, of another generation or server run.
    Fenced(Option<Header>),
    /// Somebody flips just now: ask again.
    Held,
}

impl Outcome {
    fn read(answer: (String, Vec<u8>)) -> Result<Self, ViewError> {
        let (word, bytes) = answer;
        let header = || Header::parse(&bytes);
        Ok(match word.as_str() {
            "applied" => Outcome::Applied(header()?),
            "already" => Outcome::Already(header()?),
            "hole" => Outcome::Hole(header()?),
            "held" => Outcome::Held,
            // A header that can't be read fences as well: it is void.
            "fenced" => Outcome::Fenced(header().ok()),
            _ => return Err(ViewError::Answer(word)),
        })
    }
}

#[derive(Debug, Clone)]
struct Shas {
    apply: String,
    swap: String,
    flip: String,
    watermark: String,
}

/// The view as one connection writes it.
#[derive(Debug, Clone)]
pub struct View {
    link: RedisLink,
    keys: Keys,
    shas: Shas,
}

/// Where batches of one partition go.
#[derive(Debug, Clone)]
pub struct Target {
    partition: Partition,
    generation: u64,
    header_key: String,
    feed_key: String,
    poison_key: String,
    hold_key: String,
    prefix: String,
    /// Only the serving generation is fed.
    feed: Option<Arc<Mutex<Feed>>>,
}

/// What is known of the change feed that batches are told in.
#[derive(Debug, Default)]
struct Feed {
    cap: FeedCap,
    measured: bool,
}

impl Feed {
    fn change<T>(feed: &Mutex<Self>, change: impl FnOnce(&mut Self) -> T) -> T {
        change(&mut feed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Target {
    /// The serving generation: feed entries are written, holds are heeded.
    #[must_use]
    pub fn serving(keys: &Keys, partition: Partition, generation: u64) -> Self {
        Self {
            partition,
            generation,
            header_key: keys.header(partition),
            feed_key: keys.feed(partition),
            poison_key: keys.poison(partition, generation),
            hold_key: keys.hold(partition),
            prefix: keys.generation(partition, generation),
            feed: Some(Arc::default()),
        }
    }

    /// A generation that is filled where reads are 503 anyway: no feed.
    #[must_use]
    pub fn filling(keys: &Keys, partition: Partition, generation: u64) -> Self {
        Self { feed: None, ..Self::serving(keys, partition, generation) }
    }

    /// A generation that is filled beside the serving one.
    #[must_use]
    pub fn beside(keys: &Keys, partition: Partition, generation: u64) -> Self {
        Self { header_key: keys.side_header(partition, generation), ..Self::filling(keys, partition, generation) }
    }
}

/// A batch as a script call that can be repeated.
#[derive(Debug)]
pub struct ApplyCall {
    command: Cmd,
    /// The feed, and its key.
    feed: Option<(Arc<Mutex<Feed>>, String)>,
}

impl View {
    /// The view over a new link, its scripts loaded.
    ///
    /// # Errors
    /// Redis.
    pub async fn open(mut link: RedisLink, keys: Keys) -> Result<Self, LinkError> {
        let mut load = async |script: &str| -> Result<String, LinkError> {
            link.query(redis::cmd("SCRIPT").arg("LOAD").arg(script)).await
        };
        let shas = Shas {
            apply: load(&sabotage::apply_script()).await?,
            swap: load(include_str!("view/swap.lua")).await?,
            flip: load(include_str!("view/flip.lua")).await?,
            watermark: load(include_str!("view/watermark.lua")).await?,
        };
        Ok(Self { link, keys, shas })
    }

    /// The names of the keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The run of the server.
    #[must_use]
    pub fn run_id(&self) -> &str {
        self.link.run_id()
    }

    /// The link.
    pub fn link(&mut self) -> &mut RedisLink {
        &mut self.link
    }

    /// The header of a partition, as stored and as read; none where there is none or nothing readable.
    ///
    /// # Errors
    /// Redis.
    pub async fn header(&mut self, partition: Partition) -> Result<(Vec<u8>, Option<Header>), ViewError> {
        let key = self.keys.header(partition);
        let stored: Option<Vec<u8>> = self.link.query(redis::cmd("GET").arg(key)).await?;
        let stored = stored.unwrap_or_default();
        let header = Header::parse(&stored).ok();
        Ok((stored, header))
    }

    /// The call that applies `batch` to `target`. `document` gives the JSON of a change's record.
    ///
    /// `careful`: an earlier call for numbers in this batch may have failed midway, so the ids are taken
    /// out of every other index, not only the one that their document names.
    pub fn apply_call<M>(
        &self,
        target: &Target,
        batch: &Batch<M>,
        careful: bool,
        document: impl Fn(&M) -> &[u8],
    ) -> ApplyCall {
        let count = batch.len();
        let mut metas = Vec::with_capacity(count * 53);
        for change in batch.changes() {
            let mut text = [0; 36];
            metas.extend_from_slice(change.id.as_bytes());
            metas.extend_from_slice(change.id.hyphenated().encode_lower(&mut text).as_bytes());
            metas.push(if change.repair { b'1' } else { b'0' });
        }
        let mut command = Cmd::with_capacity(24 + count + 2 * batch.marks().len(), batch.bytes() + count * 96 + 600);
        command.arg("EVALSHA").arg(&self.shas.apply).arg(4);
        command.arg(&target.header_key).arg(&target.feed_key).arg(&target.poison_key).arg(&target.hold_key);
        command.arg(self.link.run_id()).arg(target.generation);
        command.arg(batch.from.epoch).arg(batch.from.seq).arg(batch.to.epoch).arg(batch.to.seq);
        command.arg(batch.offset).arg(now_ms()).arg(&target.prefix);
        command.arg(target.feed.as_ref().map_or(0, |feed| Feed::change(feed, |feed| feed.cap.push(count))));
        command.arg(u8::from(target.partition.topic != Topic::Keys)).arg(u8::from(careful)).arg(TOMBSTONE_SECONDS);
        command.arg(&metas[..]).arg(batch.marks().len());
        for mark in batch.marks() {
            command.arg(mark.id.hyphenated().to_string()).arg(format!("{} {}", mark.seq, mark.reason));
        }
        let mut stored = Vec::new();
        for change in batch.changes() {
            stored.clear();
            keys::push_document_head(&mut stored, change.version, change.code);
            stored.extend_from_slice(document(&change.record));
            command.arg(&stored[..]);
        }
        ApplyCall { command, feed: target.feed.clone().map(|feed| (feed, target.feed_key.clone())) }
    }

    /// What the script made of a batch.
    ///
    /// # Errors
    /// Redis; the batch may have been applied, or half of it: repeat it over a new link.
    ///
    /// # Cancel safety
    /// The call goes on in Redis; repeat it.
    pub async fn apply(&mut self, call: &ApplyCall) -> Result<Outcome, ViewError> {
        if let Some((feed, key)) = &call.feed
            && !Feed::change(feed, |feed| std::mem::replace(&mut feed.measured, true))
        {
            self.measure(feed, key).await;
        }
        Outcome::read(self.link.query(&call.command).await?)
    }

    /// Notes how large the feed is that others have written. Where that can't be told, it may for a while
    /// take twice its bytes.
    async fn measure(&mut self, feed: &Mutex<Feed>, key: &str) {
        let entries = self.link.query::<usize>(redis::cmd("XLEN").arg(key)).await;
        let usage = redis::cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0).to_owned();
        match (entries, self.link.query::<Option<usize>>(&usage).await) {
            (Ok(entries), Ok(bytes)) => Feed::change(feed, |feed| feed.cap.found(entries, bytes.unwrap_or(0))),
            (Err(error), _) | (_, Err(error)) => tracing::debug!(key, %error, "the change feed's size is not known"),
        }
    }

    /// Replaces a partition's header by `new` where it still is `seen`.
    ///
    /// # Errors
    /// Redis.
    pub async fn swap(&mut self, partition: Partition, seen: &[u8], new: &Header) -> Result<Outcome, ViewError> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.shas.swap).arg(1).arg(self.keys.header(partition)).arg(seen).arg(new.to_string());
        Outcome::read(self.link.query(&command).await?)
    }

    /// Makes the generation of `filled` the serving one, in place of that of `serving`, while `hold` holds.
    ///
    /// # Errors
    /// Redis.
    pub async fn flip(
        &mut self,
        partition: Partition,
        serving: &Header,
        filled: &Header,
        hold: &str,
    ) -> Result<Outcome, ViewError> {
        let now = now_ms();
        let new = Header { ready: true, applied_ms: now, ..filled.clone() };
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.shas.flip).arg(4);
        command.arg(self.keys.header(partition)).arg(self.keys.side_header(partition, filled.generation));
        command.arg(self.keys.generations(partition)).arg(self.keys.hold(partition));
        command.arg(serving.to_string()).arg(filled.to_string()).arg(new.to_string());
        command.arg(serving.generation).arg(filled.generation).arg(now).arg(hold);
        Outcome::read(self.link.query(&command).await?)
    }

    /// Stores a watermark record unless a newer one is there, and the layout.
    ///
    /// # Errors
    /// Redis.
    pub async fn store_watermark(
        &mut self,
        json: &[u8],
        epoch: u64,
        time: i64,
        partitions: u16,
    ) -> Result<(), ViewError> {
        let mut value = json.to_vec();
        value.extend_from_slice(format!("\n{}", now_ms()).as_bytes());
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.shas.watermark).arg(1).arg(self.keys.watermark()).arg(value).arg(epoch).arg(time);
        let _: u8 = self.link.query(&command).await?;
        let layout = format!("1 {partitions}");
        let () = self.link.query(redis::cmd("SET").arg(self.keys.layout()).arg(layout)).await?;
        Ok(())
    }
}

impl Header {
    /// Where the partition stands.
    #[must_use]
    pub fn point(&self) -> Point {
        Point { epoch: self.epoch, seq: self.seq }
    }
}
