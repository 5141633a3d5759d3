//! Compares Postgres with the view, over HTTP, entity by entity.
//!
//! Both planes are walked page by page; each entity adds the hash of its document to one of 4,096
//! buckets, so that a walk of millions needs no memory. Where buckets differ, the walks are
//! repeated and the entities in them are compared one by one; only a difference that two
//! comparisons in a row show the same is one, so that a live system can be verified, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::value::RawValue;

use crate::client::{Exchange, ExchangeError};
use crate::document::{self, uuid_text};

const BUCKETS: usize = 4096;
const PAGE: usize = 500;
/// How often a difference is looked at again before it counts.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_millis(700);
/// Differences that are put into words.
const EXAMPLES_MAX: usize = 20;

/// Why a walk did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No answer.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// Another status than 200.
    #[error("{plane} answered {path} with {status}: {detail}")]
    Status {
        /// Which plane.
        plane: &'static str,
        /// What was asked.
        path: String,
        /// Status.
        status: u16,
        /// The problem's detail.
        detail: String,
    },
    /// Not a page.
    #[error("{plane} answered {path} with something that is no page")]
    Page {
        /// Which plane.
        plane: &'static str,
        /// What was asked.
        path: String,
        /// Why.
        #[source]
        source: Option<serde_json::Error>,
    },
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Entities that Postgres has.
    pub entities: u64,
    /// Entities that differ, or that only one plane has.
    pub different: u64,
    /// The first of them in words.
    pub examples: Vec<String>,
}

/// One entity as a walk shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entity {
    version: u32,
    hash: u64,
}

/// What Postgres and the view show of an entity, where that differs.
type Differences = BTreeMap<u128, (Option<Entity>, Option<Entity>)>;

#[derive(Debug)]
struct Walked {
    buckets: Vec<u64>,
    count: u64,
    kept: BTreeMap<u128, Entity>,
}

/// Called for each entity of the view's walk with id and version.
pub type Visit<'a> = &'a mut dyn FnMut(u128, u32);

/// Compares the signals of both planes.
///
/// # Errors
/// A plane can't be walked.
pub fn compare(control: &mut Exchange, view: &mut Exchange, visit: Visit<'_>) -> Result<Comparison, VerifyError> {
    let nothing = BTreeSet::new();
    let a = walk(control, "the control plane", &nothing, &mut |_, _| {})?;
    let b = walk(view, "the data plane", &nothing, visit)?;
    let mut suspects = differing(&a, &b);
    let mut comparison = Comparison { entities: a.count, ..Comparison::default() };
    let mut before: Option<Differences> = None;
    for _ in 0..LOOKS {
        if suspects.is_empty() {
            return Ok(comparison);
        }
        std::thread::sleep(PAUSE);
        let a = walk(control, "the control plane", &suspects, &mut |_, _| {})?;
        let b = walk(view, "the data plane", &suspects, &mut |_, _| {})?;
        comparison.entities = a.count;
        let ids: BTreeSet<u128> = a.kept.keys().chain(b.kept.keys()).copied().collect();
        let mut different: Differences = ids
            .into_iter()
            .map(|id| (id, (a.kept.get(&id).copied(), b.kept.get(&id).copied())))
            .filter(|(_, (a, b))| a != b)
            .collect();
        if let Some(before) = &before {
            different.retain(|id, pair| before.get(id) == Some(pair));
            comparison.different = different.len() as u64;
            comparison.examples = different
                .iter()
                .take(EXAMPLES_MAX)
                .map(|(id, (a, b))| format!("{}: {}", uuid_text(*id), in_words(*a, *b)))
                .collect();
            return Ok(comparison);
        }
        suspects.retain(|&bucket| different.keys().any(|&id| bucket_of(id) == bucket));
        before = Some(different);
    }
    Ok(comparison)
}

fn in_words(postgres: Option<Entity>, view: Option<Entity>) -> String {
    match (postgres, view) {
        (Some(a), None) => format!("Postgres has version {}, the view nothing", a.version),
        (None, Some(b)) => format!("the view has version {}, Postgres nothing", b.version),
        (Some(a), Some(b)) if a.version == b.version => {
            format!("version {} differs in its bytes", a.version)
        }
        (Some(a), Some(b)) => {
            format!("Postgres has version {}, the view version {}", a.version, b.version)
        }
        (None, None) => "gone".to_owned(),
    }
}

fn bucket_of(id: u128) -> usize {
    crate::random::mix((id >> 64) as u64 ^ id as u64) as usize % BUCKETS
}

fn differing(a: &Walked, b: &Walked) -> BTreeSet<usize> {
    (0..BUCKETS).filter(|&i| a.buckets[i] != b.buckets[i]).collect()
}

fn walk(
    exchange: &mut Exchange,
    plane: &'static str,
    keep: &BTreeSet<usize>,
    visit: Visit<'_>,
) -> Result<Walked, VerifyError> {
    #[derive(serde::Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
        next_cursor: Option<String>,
    }
    let mut walked = Walked { buckets: vec![0; BUCKETS], count: 0, kept: BTreeMap::new() };
    let mut path = format!("/v1/signals?order=created&limit={PAGE}");
    loop {
        let reply = exchange.get(&path)?;
        if reply.status != 200 {
            let detail = problem_detail(&reply.body);
            return Err(VerifyError::Status { plane, path, status: reply.status, detail });
        }
        let page: Page<'_> = serde_json::from_slice(&reply.body).map_err(|error| VerifyError::Page {
            plane,
            path: path.clone(),
            source: Some(error),
        })?;
        for item in &page.items {
            let bytes = item.get().as_bytes();
            let read = document::parse(bytes, b"--------").ok_or_else(|| VerifyError::Page {
                plane,
                path: path.clone(),
                source: None,
            })?;
            let bucket = bucket_of(read.id);
            // Sums, not exclusive ors: an entity that appears twice must not cancel out.
            walked.buckets[bucket] = walked.buckets[bucket].wrapping_add(crate::random::mix(read.hash));
            walked.count += 1;
            if keep.contains(&bucket) {
                walked.kept.insert(read.id, Entity { version: read.version, hash: read.hash });
            }
            visit(read.id, read.version);
        }
        match page.next_cursor {
            Some(cursor) => {
                path = format!("/v1/signals?order=created&limit={PAGE}&cursor={}", query(&cursor));
            }
            None => return Ok(walked),
        }
    }
}

/// Percent-encodes a query value.
fn query(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// What a problem document says, for people.
#[must_use]
pub fn problem_detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        detail: String,
    }
    serde_json::from_slice::<Problem>(body).map_or_else(|_| "no problem document".to_owned(), |problem| problem.detail)
}
