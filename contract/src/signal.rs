//! A signal: the prioritized directive that the product carries.

use std::fmt;

use uuid::Uuid;

use crate::blank::is_blank;
use crate::json::{Json, write_string};
use crate::problem::FieldError;
use crate::time::Timestamp;

/// Most characters (Unicode scalar values) of a title.
pub const TITLE_CHARS_MAX: usize = 200;
/// Most bytes of a payload, insignificant space removed.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Deepest nesting of a payload; a flat object is 1 deep.
pub const PAYLOAD_DEPTH_MAX: usize = 64;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word that stands for it everywhere.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// The value that this word stands for.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)* _ => None }
            }

            /// Its place in [`Self::ALL`].
            #[must_use]
            pub fn rank(self) -> u8 { self as u8 }

            /// What a message says it may be.
            #[must_use]
            pub fn expected() -> String {
                let words: Vec<&str> = Self::ALL.iter().map(|v| v.as_str()).collect();
                format!("must be one of {}", words.join(", "))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    };
}
pub(crate) use words;

words! {
    /// How urgent a signal is, least first.
    Priority {
        /// Can wait.
        Low = "low",
        /// The default.
        Normal = "normal",
        /// Before the normal ones.
        High = "high",
        /// Before all others.
        Critical = "critical",
    }
}

words! {
    /// Where a signal stands.
    Status {
        /// Where every signal starts.
        Pending = "pending",
        /// Being acted on.
        Active = "active",
        /// Done; final.
        Completed = "completed",
        /// Given up; final.
        Cancelled = "cancelled",
    }
}

impl Status {
    /// Whether the status can't change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Status::Completed | Status::Cancelled)
    }
}

/// A JSON object as text: member order and number spelling kept, insignificant space removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(String);

impl Payload {
    /// `{}`
    #[must_use]
    pub fn empty() -> Self {
        Self("{}".to_owned())
    }

    /// The payload that `json` is, checked against every bound.
    ///
    /// # Errors
    /// One [`FieldError`] at or below `pointer` for each broken rule.
    pub fn from_json(json: &Json<'_>, pointer: &str) -> Result<Self, Vec<FieldError>> {
        if !matches!(json, Json::Object(_)) {
            return Err(vec![FieldError::new(pointer, "must be a JSON object")]);
        }
        let mut text = String::new();
        json.write(&mut text);
        if text.len() > PAYLOAD_BYTES_MAX {
            let detail = format!("must have at most {PAYLOAD_BYTES_MAX} bytes; it has {}", text.len());
            return Err(vec![FieldError::new(pointer, detail)]);
        }
        let mut errors = json.flaws(pointer);
        if json.depth() > PAYLOAD_DEPTH_MAX {
            errors.push(FieldError::new(pointer, format!("must be nested at most {PAYLOAD_DEPTH_MAX} deep")));
        }
        if errors.is_empty() { Ok(Self(text)) } else { Err(errors) }
    }

    /// What Postgres gives back for a payload that [`Payload::from_json`] made.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A signal's full state: what an event carries and both planes answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// UUIDv7, made by the server.
    pub id: Uuid,
    /// 1 to [`TITLE_CHARS_MAX`] characters, not [blank](is_blank).
    pub title: String,
    /// How urgent.
    pub priority: Priority,
    /// Where it stands.
    pub status: Status,
    /// The caller's own data.
    pub payload: Payload,
    /// The identity it is for.
    pub target: Option<Uuid>,
    /// The identity that created it.
    pub created_by: Uuid,
    /// When it was created; equals the time in `id`.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts its changes from 1.
    pub version: u64,
}

impl Signal {
    /// The signal as JSON: the very bytes that event, view and both planes carry.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        use std::fmt::Write as _;
        let mut out = String::with_capacity(360 + self.title.len() + self.payload.0.len());
        let mut id = [0; 36];
        out.push_str("{\"id\":\"");
        out.push_str(self.id.hyphenated().encode_lower(&mut id));
        out.push_str("\",\"title\":");
        write_string(&mut out, &self.title);
        out.push_str(",\"priority\":\"");
        out.push_str(self.priority.as_str());
        out.push_str("\",\"status\":\"");
        out.push_str(self.status.as_str());
        out.push_str("\",\"payload\":");
        out.push_str(&self.payload.0);
        out.push_str(",\"target\":");
        write_id_or_null(&mut out, self.target);
        out.push_str(",\"created_by\":");
        write_id_or_null(&mut out, Some(self.created_by));
        let (created, updated, version) = (self.created_at, self.updated_at, self.version);
        // Writing to a String can't fail.
        let _ = write!(out, ",\"created_at\":\"{created}\",\"updated_at\":\"{updated}\",\"version\":{version}}}");
        out.into_bytes()
    }
}

/// Writes an id as a JSON string, or `null`.
pub(crate) fn write_id_or_null(out: &mut String, id: Option<Uuid>) {
    match id {
        Some(id) => {
            let mut text = [0; 36];
            out.push('"');
            out.push_str(id.hyphenated().encode_lower(&mut text));
            out.push('"');
        }
        None => out.push_str("null"),
    }
}

/// Checks a title.
///
/// # Errors
/// What the rule asks for.
pub fn check_title(title: &str) -> Result<(), String> {
    if is_blank(title) {
        Err("must not be blank".to_owned())
    } else if title.chars().count() > TITLE_CHARS_MAX {
        Err(format!("must have at most {TITLE_CHARS_MAX} characters"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_renders_to_the_golden_bytes() {
        let signal = Signal {
            id: Uuid::from_u64_pair(0x0192_3456_789a_7bcd, 0x8123_4567_89ab_cdef),
            title: "say \"hi\"".into(),
            priority: Priority::High,
            status: Status::Pending,
            payload: Payload::from_stored(r#"{"b":1.0,"a":[]}"#.into()),
            target: None,
            created_by: Uuid::from_u64_pair(1, 2),
            created_at: Timestamp(1_790_000_000_000_001),
            updated_at: Timestamp(1_790_000_000_500_000),
            version: 3,
        };
        assert_eq!(
            String::from_utf8(signal.render()).expect("UTF-8"),
            concat!(
                r#"{"id":"01923456-789a-7bcd-8123-456789abcdef","title":"say \"hi\"","priority":"high","status":"pending","#,
                r#""payload":{"b":1.0,"a":[]},"target":null,"created_by":"00000000-0000-0001-0000-000000000002","#,
                r#""created_at":"2026-09-21T14:13:20.000001Z","updated_at":"2026-09-21T14:13:20.500000Z","version":3}"#
            )
        );
    }

    #[test]
    fn titles_and_payloads_keep_their_bounds() {
        assert!(check_title("x").is_ok() && check_title(&"é".repeat(200)).is_ok());
        for bad in ["", " \u{3000}\n", "\u{200b}", &"é".repeat(201)] {
            assert!(check_title(bad).is_err(), "{bad:?}");
        }
        let nested = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
        let payload = |text: &str| Payload::from_json(&Json::parse(text.as_bytes()).expect("valid"), "/payload");
        assert!(payload(&nested(64)).is_ok() && payload(&nested(65)).is_err());
        let filled = |n: usize| format!("{{\"a\": \"{}\"}}", "x".repeat(n - 8));
        assert!(payload(&filled(PAYLOAD_BYTES_MAX)).is_ok() && payload(&filled(PAYLOAD_BYTES_MAX + 1)).is_err());
        assert!(payload("[]").is_err() && payload("null").is_err());
    }
}
