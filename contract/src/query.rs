//! List queries and their cursors, the same on both planes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::problem::{BAD_CURSOR, BAD_QUERY, Problem};
use crate::signal::{Priority, Status};

/// Items of a page where the caller asks for no number.
pub const LIMIT_DEFAULT: usize = 50;
/// Most items of a page.
pub const LIMIT_MAX: usize = 500;

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// `/v1/signals`
    Signals,
    /// `/v1/identities`
    Identities,
}

/// In which order. Ties break by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Oldest first.
    Created,
    /// Newest first.
    CreatedDescending,
    /// Highest priority first, then oldest first.
    Priority,
}

impl Order {
    /// The word in a query.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Order::Created => "created",
            Order::CreatedDescending => "-created",
            Order::Priority => "priority",
        }
    }
}

/// Which signals; an empty mask means all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Filter {
    statuses: u8,
    priorities: u8,
}

impl Filter {
    /// The filter for these statuses and priorities; an empty list means all.
    #[must_use]
    pub fn new(statuses: &[Status], priorities: &[Priority]) -> Self {
        Self {
            statuses: statuses.iter().fold(0, |mask, s| mask | 1 << s.rank()),
            priorities: priorities.iter().fold(0, |mask, p| mask | 1 << p.rank()),
        }
    }

    /// Whether a signal with these fields passes.
    #[must_use]
    pub fn matches(self, status: Status, priority: Priority) -> bool {
        let passes = |mask: u8, rank: u8| mask == 0 || mask & (1 << rank) != 0;
        passes(self.statuses, status.rank()) && passes(self.priorities, priority.rank())
    }

    /// Whether every signal passes.
    #[must_use]
    pub fn is_all(self) -> bool {
        self == Self::default()
    }

    /// The statuses that pass.
    pub fn statuses(self) -> impl Iterator<Item = Status> {
        Status::ALL.iter().copied().filter(move |s| self.statuses == 0 || self.statuses & (1 << s.rank()) != 0)
    }

    /// The priorities that pass, highest first.
    pub fn priorities(self) -> impl Iterator<Item = Priority> {
        let passes = move |p: &Priority| self.priorities == 0 || self.priorities & (1 << p.rank()) != 0;
        Priority::ALL.iter().rev().copied().filter(passes)
    }
}

/// Where a page ended: the next one starts after this item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    /// The item's priority; only the order `priority` uses it.
    pub priority: Priority,
    /// The item.
    pub id: Uuid,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// What is listed.
    pub resource: Resource,
    /// Which of them.
    pub filter: Filter,
    /// In which order.
    pub order: Order,
    /// Most items.
    pub limit: usize,
    /// After which item.
    pub after: Option<After>,
    /// Whether `limit`, `order` or `cursor` was given, which do not go with a watch.
    pub paged: bool,
    /// Whether `order` was given.
    pub order_given: bool,
}

const FORMAT: u8 = 1;

impl ListQuery {
    /// Reads a query's parameters, percent-decoded and in their order. `default_order` is the plane's,
    /// `orders` what it offers; `others` are parameters that the caller reads itself.
    ///
    /// # Errors
    /// [`BAD_QUERY`] for an unknown or repeated parameter or a value out of range, [`BAD_CURSOR`] for a
    /// cursor of another list.
    pub fn parse<'q>(
        resource: Resource,
        parameters: impl IntoIterator<Item = (&'q str, &'q str)>,
        default_order: Order,
        orders: &[Order],
        others: &[&str],
    ) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::new(&BAD_QUERY, detail);
        let mut query = Self {
            resource,
            filter: Filter::default(),
            order: default_order,
            limit: LIMIT_DEFAULT,
            after: None,
            paged: false,
            order_given: false,
        };
        let mut cursor = None;
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in parameters {
            if seen.contains(&name) {
                return Err(bad(format!(
                    "the parameter {name:?} stands twice; lists take commas, as in status=pending,active"
                )));
            }
            seen.push(name);
            match name {
                "status" if resource == Resource::Signals => {
                    query.filter.statuses = mask(value, "status", Status::parse, Status::rank, Status::expected)?;
                }
                "priority" if resource == Resource::Signals => {
                    query.filter.priorities =
                        mask(value, "priority", Priority::parse, Priority::rank, Priority::expected)?;
                }
                "order" => {
                    let order = orders.iter().copied().find(|order| order.as_str() == value);
                    query.order = order.ok_or_else(|| {
                        let words: Vec<&str> = orders.iter().map(|order| order.as_str()).collect();
                        bad(format!("order must be one of {}", words.join(", ")))
                    })?;
                    (query.paged, query.order_given) = (true, true);
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    let plain = value.bytes().all(|b| b.is_ascii_digit());
                    query.limit =
                        limit.filter(|_| plain).ok_or_else(|| bad(format!("limit must be 1 to {LIMIT_MAX}")))?;
                    query.paged = true;
                }
                "cursor" => {
                    cursor = Some(value);
                    query.paged = true;
                }
                other if others.contains(&other) => {}
                other => return Err(bad(format!("the parameter {other:?} is not known here"))),
            }
        }
        if let Some(cursor) = cursor {
            query.after = Some(query.read_cursor(cursor).ok_or_else(|| {
                Problem::new(&BAD_CURSOR, "the cursor is malformed or belongs to another list, filter or order")
            })?);
        }
        Ok(query)
    }

    fn stamp(&self) -> [u8; 4] {
        let resource = match self.resource {
            Resource::Signals => b's',
            Resource::Identities => b'i',
        };
        let order = match self.order {
            Order::Created => 0,
            Order::CreatedDescending => 1,
            Order::Priority => 2,
        };
        [FORMAT, resource, order, self.filter.statuses | self.filter.priorities << 4]
    }

    /// The cursor of the page that follows the item `after`.
    #[must_use]
    pub fn cursor(&self, after: After) -> String {
        let mut out = self.stamp().to_vec();
        out.push(after.priority.rank());
        out.extend_from_slice(after.id.as_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
        URL_SAFE_NO_PAD.encode(out)
    }

    fn read_cursor(&self, text: &str) -> Option<After> {
        let mut bytes = [0; 25];
        if text.len() != 34 || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()? != 25 {
            return None;
        }
        let (body, sum) = bytes.split_at(21);
        if crc32c::crc32c(body).to_be_bytes() != sum || body[..4] != self.stamp() {
            return None;
        }
        let priority = *Priority::ALL.get(usize::from(body[4]))?;
        Some(After { priority, id: Uuid::from_slice(&body[5..21]).ok()? })
    }

    /// The query string of the page that follows, for the `Link` header; without `?`.
    #[must_use]
    pub fn next_query(&self, cursor: &str) -> String {
        let mut out = String::new();
        if self.filter.statuses != 0 {
            let words: Vec<&str> = self.filter.statuses().map(Status::as_str).collect();
            out.push_str(&format!("status={}&", words.join(",")));
        }
        if self.filter.priorities != 0 {
            let words: Vec<&str> = self.filter.priorities().map(Priority::as_str).collect();
            out.push_str(&format!("priority={}&", words.join(",")));
        }
        if self.order_given {
            out.push_str(&format!("order={}&", self.order.as_str()));
        }
        out.push_str(&format!("limit={}&cursor={cursor}", self.limit));
        out
    }
}

fn mask<T: Copy>(
    list: &str,
    name: &str,
    parse: fn(&str) -> Option<T>,
    rank: fn(T) -> u8,
    expected: fn() -> String,
) -> Result<u8, Problem> {
    let mut mask = 0;
    for word in list.split(',') {
        let value = parse(word).ok_or_else(|| {
            Problem::new(&BAD_QUERY, format!("{name}: {word:?} {}, or several of them with commas between", expected()))
        })?;
        mask |= 1 << rank(value);
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORDERS: [Order; 3] = [Order::Created, Order::CreatedDescending, Order::Priority];

    fn read(parameters: &[(&'static str, &str)]) -> Result<ListQuery, Problem> {
        ListQuery::parse(Resource::Signals, parameters.iter().copied(), Order::Priority, &ORDERS, &["from"])
    }

    #[test]
    fn bad_queries_are_named() {
        for parameters in [
            vec![("limit", "0")],
            vec![("limit", "501")],
            vec![("limit", "+5")],
            vec![("limit", "")],
            vec![("order", "title")],
            vec![("status", "")],
            vec![("status", "pending,")],
            vec![("priority", "urgent")],
            vec![("colour", "red")],
            vec![("limit", "5"), ("limit", "5")],
        ] {
            assert_eq!(read(&parameters).expect_err("refused").kind.code, "bad-query", "{parameters:?}");
        }
        for cursor in ["", "x", "nowhere", &"A".repeat(34)] {
            assert_eq!(read(&[("cursor", cursor)]).expect_err("refused").kind.code, "bad-cursor", "{cursor}");
        }
        assert!(read(&[("from", "now"), ("status", "pending,active")]).is_ok());
    }

    proptest! {
        #[test]
        fn a_cursor_is_good_for_its_own_list_alone(id: u128, rank in 0_usize..4, other in 1_usize..3) {
            let query = read(&[("status", "active,pending")]).expect("good");
            let after = After { priority: Priority::ALL[rank], id: Uuid::from_u128(id) };
            let cursor = query.cursor(after);
            prop_assert_eq!(read(&[("status", "pending,active"), ("cursor", &cursor)]).expect("good").after, Some(after));
            let strangers = [vec![("cursor", cursor.as_str())], vec![("status", "active,pending"), ("order", "created"), ("cursor", &cursor)],
                vec![("status", "active"), ("cursor", &cursor)]];
            prop_assert!(read(&strangers[0]).is_err() && read(&strangers[other]).is_err());
        }

        #[test]
        fn reading_never_panics(cursor in "\\PC{0,60}") {
            let _ = read(&[("cursor", &cursor)]);
        }
    }
}
