//! Commands: what a caller asks to change, read from a body and checked as far as a body alone can tell.
//!
//! What depends on the current state (final statuses, targets that exist, names that are taken) is
//! the aggregate's to decide.

use uuid::Uuid;

use crate::blank::is_blank;
use crate::identity::{Kind, Role, is_name};
use crate::json::{Json, push_index, push_segment};
use crate::problem::{ERRORS_MAX, FieldError, NOT_FOUND, Problem};
use crate::signal::{Payload, Priority, Status, check_title};
use crate::time::Timestamp;

/// Most commands in one `:batch`.
pub const BATCH_COMMANDS_MAX: usize = 1000;

/// Create a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSignal {
    /// Its title.
    pub title: String,
    /// Its priority.
    pub priority: Priority,
    /// Its payload.
    pub payload: Payload,
    /// The identity it is for; whether it exists is checked against the state.
    pub target: Option<Uuid>,
}

/// Change a signal: a merge patch, member by member. `None` leaves a member as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PatchSignal {
    /// A new title.
    pub title: Option<String>,
    /// A new priority (a null became the default).
    pub priority: Option<Priority>,
    /// A new status.
    pub status: Option<Status>,
    /// What to do with the payload.
    pub payload: Option<PatchPayload>,
    /// A new target, or none.
    pub target: Option<Option<Uuid>>,
}

/// What a patch does to the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchPayload {
    /// `null`: back to `{}`.
    Reset,
    /// An object to merge in, as minified JSON text.
    Merge(String),
}

/// A change of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalCommand {
    /// Create one.
    Create(CreateSignal),
    /// Patch `id`.
    Update(Uuid, PatchSignal, Precondition),
    /// Delete `id`.
    Delete(Uuid, Precondition),
}

/// What `If-Match` (or `if_match` in a batch) asks of the entity's version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Nothing asked.
    #[default]
    None,
    /// `*`: any version, as long as the entity exists.
    Exists,
    /// One of these versions.
    AnyOf(Vec<u64>),
}

impl Precondition {
    /// Whether an existing entity of this version meets it.
    #[must_use]
    pub fn allows(&self, version: u64) -> bool {
        match self {
            Precondition::None | Precondition::Exists => true,
            Precondition::AnyOf(versions) => versions.contains(&version),
        }
    }
}

/// Create an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateIdentity {
    /// Its unique name.
    pub name: String,
    /// What people call it.
    pub display_name: Option<String>,
    /// Where to write to it.
    pub email: Option<String>,
    /// Who it is.
    pub kind: Kind,
    /// What it may do.
    pub role: Role,
    /// Whether its keys work.
    pub active: bool,
}

/// Change an identity. `None` leaves a member as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PatchIdentity {
    /// A new name.
    pub name: Option<String>,
    /// A new display name, or none.
    pub display_name: Option<Option<String>>,
    /// A new address, or none.
    pub email: Option<Option<String>>,
    /// A new kind (a null became the default).
    pub kind: Option<Kind>,
    /// A new role (a null became the default).
    pub role: Option<Role>,
    /// Whether its keys work (a null became the default, true).
    pub active: Option<bool>,
}

/// Make an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateKey {
    /// What the owner calls it, 1 to 200 characters.
    pub name: String,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
}

/// Reads an object's members one by one and collects what is wrong with them.
struct Fields<'j, 'a> {
    members: &'j [(crate::json::Text<'a>, Json<'a>)],
    pointer: String,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl<'j, 'a> Fields<'j, 'a> {
    fn new(json: &'j Json<'a>, pointer: &str) -> Result<Self, Vec<FieldError>> {
        match json {
            Json::Object(members) => {
                Ok(Self { members, pointer: pointer.to_owned(), known: Vec::new(), errors: Vec::new() })
            }
            _ => Err(vec![FieldError::new(pointer, "must be a JSON object")]),
        }
    }

    fn place(&self, name: &str) -> String {
        let mut pointer = self.pointer.clone();
        push_segment(&mut pointer, name);
        pointer
    }

    fn fail(&mut self, name: &str, detail: impl Into<String>) {
        let place = self.place(name);
        self.errors.push(FieldError::new(place, detail));
    }

    fn take(&mut self, name: &'static str) -> Option<&'j Json<'a>> {
        self.known.push(name);
        self.members.iter().find(|(key, _)| key.value == name).map(|(_, value)| value)
    }

    /// A string that can be stored; another type or a flaw is an error.
    fn text(&mut self, name: &'static str, value: &Json<'_>) -> Option<String> {
        match value {
            Json::String(text) => {
                if let Some(flaw) = text.flaw {
                    self.fail(name, flaw);
                    return None;
                }
                Some(text.value.clone().into_owned())
            }
            _ => {
                self.fail(name, "must be a string");
                None
            }
        }
    }

    /// A string of 1 to `max` characters that is not [blank](is_blank).
    fn line(&mut self, name: &'static str, value: &Json<'_>, max: usize) -> Option<String> {
        let text = self.text(name, value)?;
        if is_blank(&text) {
            self.fail(name, "must not be blank");
            None
        } else if text.chars().count() > max {
            self.fail(name, format!("must have at most {max} characters"));
            None
        } else {
            Some(text)
        }
    }

    fn title(&mut self, value: &Json<'_>) -> Option<String> {
        let text = self.text("title", value)?;
        match check_title(&text) {
            Ok(()) => Some(text),
            Err(detail) => {
                self.fail("title", detail);
                None
            }
        }
    }

    fn word<T>(
        &mut self,
        name: &'static str,
        value: &Json<'_>,
        parse: fn(&str) -> Option<T>,
        expected: fn() -> String,
    ) -> Option<T> {
        let found = match value {
            Json::String(text) => parse(&text.value),
            _ => None,
        };
        if found.is_none() {
            self.fail(name, expected());
        }
        found
    }

    fn id_or_null(&mut self, name: &'static str, value: &Json<'_>) -> Option<Option<Uuid>> {
        match value {
            Json::Null => Some(None),
            Json::String(text) => match crate::id::parse(&text.value) {
                Some(id) => Some(Some(id)),
                None => {
                    self.fail(name, "must be the id of an identity");
                    None
                }
            },
            _ => {
                self.fail(name, "must be the id of an identity, or null");
                None
            }
        }
    }

    fn payload(&mut self, value: &Json<'_>) -> Option<Payload> {
        let place = self.place("payload");
        match Payload::from_json(value, &place) {
            Ok(payload) => Some(payload),
            Err(errors) => {
                self.errors.extend(errors);
                None
            }
        }
    }

    fn finish<T>(mut self, value: Option<T>, server_sets: &[&str]) -> Result<T, Vec<FieldError>> {
        for (name, _) in self.members {
            if self.errors.len() > ERRORS_MAX {
                break;
            }
            if !self.known.iter().any(|known| *known == name.value) {
                let detail = if server_sets.contains(&name.value.as_ref()) {
                    "is set by the server"
                } else {
                    "is not a known member"
                };
                self.fail(&name.value, detail);
            }
        }
        if self.errors.len() > ERRORS_MAX {
            self.errors.truncate(ERRORS_MAX);
            self.errors.push(FieldError::new(self.pointer, "breaks more rules, which are not listed"));
        }
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(self.errors),
        }
    }
}

const SIGNAL_SERVER_SETS: [&str; 5] = ["id", "created_by", "created_at", "updated_at", "version"];
const IDENTITY_SERVER_SETS: [&str; 4] = ["id", "created_at", "updated_at", "version"];

impl CreateSignal {
    /// Reads the body of a creation; `pointer` is where it stands in the request's body.
    ///
    /// # Errors
    /// One [`FieldError`] for each broken rule.
    pub fn from_json(json: &Json<'_>, pointer: &str) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(json, pointer)?;
        let title = match fields.take("title") {
            Some(value) => fields.title(value),
            None => {
                fields.fail("title", "is required");
                None
            }
        };
        let priority = match fields.take("priority") {
            Some(value) => fields.word("priority", value, Priority::parse, Priority::expected),
            None => Some(Priority::Normal),
        };
        let payload = match fields.take("payload") {
            Some(value) => fields.payload(value),
            None => Some(Payload::empty()),
        };
        let target = match fields.take("target") {
            Some(value) => fields.id_or_null("target", value),
            None => Some(None),
        };
        if fields.take("status").is_some() {
            fields.fail("status", "starts as pending; change it with a PATCH");
        }
        let command = match (title, priority, payload, target) {
            (Some(title), Some(priority), Some(payload), Some(target)) => {
                Some(Self { title, priority, payload, target })
            }
            _ => None,
        };
        fields.finish(command, &SIGNAL_SERVER_SETS)
    }
}

impl PatchSignal {
    /// Reads a merge patch; `pointer` is where it stands in the request's body.
    ///
    /// # Errors
    /// One [`FieldError`] for each broken rule.
    pub fn from_json(json: &Json<'_>, pointer: &str) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(json, pointer)?;
        let mut patch = Self::default();
        if let Some(value) = fields.take("title") {
            patch.title = fields.title(value);
        }
        if let Some(value) = fields.take("priority") {
            patch.priority = match value {
                Json::Null => Some(Priority::Normal),
                value => fields.word("priority", value, Priority::parse, Priority::expected),
            };
        }
        if let Some(value) = fields.take("status") {
            patch.status = fields.word("status", value, Status::parse, Status::expected);
        }
        if let Some(value) = fields.take("payload") {
            patch.payload = match value {
                Json::Null => Some(PatchPayload::Reset),
                value => fields.payload(value).map(|payload| PatchPayload::Merge(payload.as_str().to_owned())),
            };
        }
        if let Some(value) = fields.take("target") {
            patch.target = fields.id_or_null("target", value);
        }
        fields.finish(Some(patch), &SIGNAL_SERVER_SETS)
    }
}

impl CreateIdentity {
    /// Reads the body of a creation.
    ///
    /// # Errors
    /// One [`FieldError`] for each broken rule.
    pub fn from_json(json: &Json<'_>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(json, "")?;
        if fields.take("name").is_none() {
            fields.fail("name", "is required");
        }
        let PatchIdentity { name, display_name, email, kind, role, active } = identity_members(&mut fields);
        let (kind, role) = (kind.unwrap_or(Kind::Human), role.unwrap_or(Role::Reader));
        let command = name.map(|name| Self {
            name,
            display_name: display_name.flatten(),
            email: email.flatten(),
            kind,
            role,
            active: active.unwrap_or(true),
        });
        fields.finish(command, &IDENTITY_SERVER_SETS)
    }
}

impl PatchIdentity {
    /// Reads a merge patch.
    ///
    /// # Errors
    /// One [`FieldError`] for each broken rule.
    pub fn from_json(json: &Json<'_>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(json, "")?;
        let patch = identity_members(&mut fields);
        fields.finish(Some(patch), &IDENTITY_SERVER_SETS)
    }
}

fn identity_members(fields: &mut Fields<'_, '_>) -> PatchIdentity {
    let mut patch = PatchIdentity::default();
    if let Some(value) = fields.take("name")
        && let Some(name) = fields.text("name", value)
    {
        if is_name(&name) {
            patch.name = Some(name);
        } else {
            fields.fail("name", "must match [a-z0-9][a-z0-9._-]{0,63}");
        }
    }
    if let Some(value) = fields.take("display_name") {
        patch.display_name = match value {
            Json::Null => Some(None),
            value => fields.line("display_name", value, 200).map(Some),
        };
    }
    if let Some(value) = fields.take("email") {
        patch.email = match value {
            Json::Null => Some(None),
            value => fields.line("email", value, 254).and_then(|email| {
                // Only what every address has; the owner finds out the rest by writing to it.
                let quoted = |user: &str| user.len() > 2 && user.starts_with('"') && user.ends_with('"');
                let whole = email.rsplit_once('@').is_some_and(|(user, host)| {
                    !user.is_empty() && !host.is_empty() && (!user.contains('@') || quoted(user))
                });
                if !whole || email.chars().any(|c| c.is_whitespace() || c.is_control()) {
                    fields.fail("email", "must be an e-mail address");
                    return None;
                }
                Some(Some(email))
            }),
        };
    }
    if let Some(value) = fields.take("kind") {
        patch.kind = match value {
            Json::Null => Some(Kind::Human),
            value => fields.word("kind", value, Kind::parse, Kind::expected),
        };
    }
    if let Some(value) = fields.take("role") {
        patch.role = match value {
            Json::Null => Some(Role::Reader),
            value => fields.word("role", value, Role::parse, Role::expected),
        };
    }
    if let Some(value) = fields.take("active") {
        patch.active = match value {
            Json::Null => Some(true),
            Json::Bool(active) => Some(*active),
            _ => {
                fields.fail("active", "must be true or false");
                None
            }
        };
    }
    patch
}

impl CreateKey {
    /// Reads the body of a key's creation. `now` is the time by which an expiry must lie ahead.
    ///
    /// # Errors
    /// One [`FieldError`] for each broken rule.
    pub fn from_json(json: &Json<'_>, now: Timestamp) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(json, "")?;
        let name = match fields.take("name") {
            Some(value) => fields.line("name", value, 200),
            None => {
                fields.fail("name", "is required");
                None
            }
        };
        let expires_at = match fields.take("expires_at") {
            None | Some(Json::Null) => None,
            Some(value) => fields.text("expires_at", value).and_then(|text| match Timestamp::parse(&text) {
                Some(time) if time > now => Some(time),
                Some(_) => {
                    fields.fail("expires_at", "must lie in the future");
                    None
                }
                None => {
                    fields.fail("expires_at", "must be a time as in RFC 3339, such as 2030-01-31T12:00:00Z");
                    None
                }
            }),
        };
        fields.finish(name.map(|name| Self { name, expires_at }), &["id", "hint", "secret", "created_at"])
    }
}

/// Reads the body of a `:batch`: one command, or the problem that rejects it, for each entry.
///
/// # Errors
/// A [`FieldError`] list when the frame itself is wrong, so that no entry can be read.
pub fn batch_from_json(json: &Json<'_>) -> Result<Vec<Result<SignalCommand, Problem>>, Vec<FieldError>> {
    let mut fields = Fields::new(json, "")?;
    let entries = match fields.take("commands") {
        Some(Json::Array(entries)) if entries.is_empty() => {
            fields.fail("commands", "must hold at least one command");
            None
        }
        Some(Json::Array(entries)) if entries.len() > BATCH_COMMANDS_MAX => {
            fields.fail("commands", format!("must hold at most {BATCH_COMMANDS_MAX} commands"));
            None
        }
        Some(Json::Array(entries)) => Some(entries),
        Some(_) => {
            fields.fail("commands", "must be an array");
            None
        }
        None => {
            fields.fail("commands", "is required");
            None
        }
    };
    let entries = fields.finish(entries, &[])?;
    Ok(entries.iter().enumerate().map(|(i, entry)| batch_entry(entry, i)).collect())
}

fn batch_entry(json: &Json<'_>, index: usize) -> Result<SignalCommand, Problem> {
    let mut pointer = String::from("/commands");
    push_index(&mut pointer, index);
    let invalid = Problem::validation;
    let mut fields = Fields::new(json, &pointer).map_err(invalid)?;
    let op = match fields.take("op") {
        Some(Json::String(text)) => text.value.clone().into_owned(),
        _ => String::new(),
    };
    let id = fields.take("id");
    let signal = fields.take("signal");
    let if_match = fields.take("if_match");
    let place = fields.place("signal");
    let mut precondition = Precondition::None;
    if let Some(value) = if_match {
        match value {
            Json::Number(text) => match text.parse::<u64>() {
                Ok(version) if version > 0 => precondition = Precondition::AnyOf(vec![version]),
                _ => fields.fail("if_match", "must be a version, an integer from 1"),
            },
            _ => fields.fail("if_match", "must be a version, an integer from 1"),
        }
    }
    let forbid = |fields: &mut Fields<'_, '_>, name: &'static str, present: bool| {
        if present {
            fields.fail(name, format!("does not go with op {op:?}"));
        }
    };
    // A text that is no UUID names nothing that exists; a missing or mistyped id is a broken rule.
    let mut unknown_id = None;
    let mut entity = |fields: &mut Fields<'_, '_>| match id {
        Some(Json::String(text)) => match crate::id::parse(&text.value) {
            Some(id) => Some(id),
            None => {
                unknown_id = Some(crate::id::excerpt(&text.value));
                Some(Uuid::nil())
            }
        },
        Some(_) => {
            fields.fail("id", "must be a string");
            None
        }
        None => {
            fields.fail("id", "is required");
            None
        }
    };
    let command = match op.as_str() {
        "create" => {
            forbid(&mut fields, "id", id.is_some());
            forbid(&mut fields, "if_match", if_match.is_some());
            sub_command(&mut fields, signal, |json| CreateSignal::from_json(json, &place)).map(SignalCommand::Create)
        }
        "update" => {
            let id = entity(&mut fields);
            let patch = sub_command(&mut fields, signal, |json| PatchSignal::from_json(json, &place));
            id.zip(patch).map(|(id, patch)| SignalCommand::Update(id, patch, precondition))
        }
        "delete" => {
            forbid(&mut fields, "signal", signal.is_some());
            entity(&mut fields).map(|id| SignalCommand::Delete(id, precondition))
        }
        _ => {
            fields.fail("op", "must be one of create, update, delete");
            None
        }
    };
    let command = fields.finish(command, &[]).map_err(invalid)?;
    match unknown_id {
        Some(shown) => Err(Problem::new(&NOT_FOUND, format!("no signal has the id {shown}"))),
        None => Ok(command),
    }
}

fn sub_command<T>(
    fields: &mut Fields<'_, '_>,
    json: Option<&Json<'_>>,
    read: impl FnOnce(&Json<'_>) -> Result<T, Vec<FieldError>>,
) -> Option<T> {
    let Some(json) = json else {
        fields.fail("signal", "is required");
        return None;
    };
    match read(json) {
        Ok(value) => Some(value),
        Err(errors) => {
            fields.errors.extend(errors);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers<T: std::fmt::Debug>(result: Result<T, Vec<FieldError>>) -> Vec<String> {
        result.expect_err("refused").into_iter().map(|e| e.pointer).collect()
    }

    fn json(text: &str) -> Json<'_> {
        Json::parse(text.as_bytes()).expect("valid")
    }

    #[test]
    fn every_broken_rule_of_a_creation_has_its_pointer() {
        for (body, expected) in [
            ("[]", vec![""]),
            ("{}", vec!["/title"]),
            (r#"{"title":" "}"#, vec!["/title"]),
            (r#"{"title":"\u200b"}"#, vec!["/title"]),
            (r#"{"title":null}"#, vec!["/title"]),
            (r#"{"title":"\u0000"}"#, vec!["/title"]),
            (r#"{"title":"x","priority":"urgent"}"#, vec!["/priority"]),
            (r#"{"title":"x","priority":null}"#, vec!["/priority"]),
            (r#"{"title":"x","payload":[]}"#, vec!["/payload"]),
            (r#"{"title":"x","payload":{"a":["\ud800"]}}"#, vec!["/payload/a/0"]),
            (r#"{"title":"x","target":"me"}"#, vec!["/target"]),
            (r#"{"title":"x","target":7}"#, vec!["/target"]),
            (r#"{"title":"x","status":"active"}"#, vec!["/status"]),
            (r#"{"title":"x","version":1,"a/b":0}"#, vec!["/version", "/a~1b"]),
            (r#"{"title":7,"priority":1,"colour":"red"}"#, vec!["/title", "/priority", "/colour"]),
        ] {
            assert_eq!(pointers(CreateSignal::from_json(&json(body), "")), expected, "{body}");
        }
    }

    #[test]
    fn a_body_of_a_million_errors_is_answered_with_few() {
        let unknown: Vec<_> = (0..10_000).map(|i| format!("\"m{i}\":0")).collect();
        let body = format!("{{{}}}", unknown.join(","));
        let errors = CreateSignal::from_json(&json(&body), "").expect_err("refused");
        assert_eq!(errors.len(), ERRORS_MAX + 1);
        assert_eq!(errors.last().map(|error| error.detail.as_str()), Some("breaks more rules, which are not listed"));
        let long = format!("{{\"title\":\"x\",\"{}\":0}}", "é".repeat(100_000));
        let pointer = pointers(CreateSignal::from_json(&json(&long), "")).pop().expect("one");
        assert!(pointer.len() < 520 && pointer.ends_with('…'), "{pointer}");
    }

    #[test]
    fn nulls_of_a_patch_reset_or_are_refused() {
        let patch =
            PatchSignal::from_json(&json(r#"{"target":null,"payload":null,"priority":null}"#), "").expect("accepted");
        let expected = PatchSignal {
            target: Some(None),
            payload: Some(PatchPayload::Reset),
            priority: Some(Priority::Normal),
            ..PatchSignal::default()
        };
        assert_eq!(patch, expected);
        assert_eq!(
            pointers(PatchSignal::from_json(&json(r#"{"title":null,"status":null}"#), "")),
            ["/title", "/status"]
        );
        assert_eq!(pointers(PatchSignal::from_json(&json(r#"{"created_by":null}"#), "")), ["/created_by"]);
    }

    #[test]
    fn a_batch_rejects_entries_one_by_one() {
        let body = json(
            r#"{"commands":[{"op":"create","signal":{"title":"a"}},{"op":"update","id":"nope","signal":{}},
            {"op":"delete","id":"01923456-789a-7bcd-8123-456789abcdef","if_match":3},{"op":"drop"},
            {"op":"create","signal":{"title":""}},{"op":"create","id":"x","signal":{"title":"a"}},7]}"#,
        );
        let entries = batch_from_json(&body).expect("a frame");
        let told: Vec<String> = entries
            .iter()
            .map(|entry| match entry {
                Ok(_) => "ok".to_owned(),
                Err(p) => {
                    format!("{} {}", p.kind.status, p.errors.iter().map(|e| e.pointer.as_str()).collect::<String>())
                }
            })
            .collect();
        assert_eq!(
            told,
            [
                "ok",
                "404 ",
                "ok",
                "422 /commands/3/op",
                "422 /commands/4/signal/title",
                "422 /commands/5/id",
                "422 /commands/6"
            ]
        );
        for frame in ["{}", r#"{"commands":{}}"#, r#"{"commands":[]}"#, r#"{"commands":[{}],"x":1}"#] {
            assert!(batch_from_json(&json(frame)).is_err(), "{frame}");
        }
    }

    #[test]
    fn an_address_has_one_at_sign_outside_of_quotes() {
        let errors = |email: &str| {
            let body = format!(r#"{{"name":"n","email":{}}}"#, serde_json::to_string(email).expect("JSON"));
            CreateIdentity::from_json(&Json::parse(body.as_bytes()).expect("JSON")).is_err()
        };
        for good in ["a@b", "\"a@b\"@c", "a+b@c.example"] {
            assert!(!errors(good), "{good}");
        }
        for bad in ["a", "@", "a@", "@b", "a@b@c", "a b@c"] {
            assert!(errors(bad), "{bad}");
        }
    }

    #[test]
    fn identities_and_keys_are_checked() {
        assert_eq!(pointers(CreateIdentity::from_json(&json("{}"))), ["/name"]);
        assert_eq!(
            pointers(CreateIdentity::from_json(&json(
                r#"{"name":"A","role":"root","kind":1,"active":"yes","email":"x","id":1}"#
            ))),
            ["/name", "/email", "/kind", "/role", "/active", "/id"]
        );
        let made = CreateIdentity::from_json(&json(r#"{"name":"bot","email":null}"#)).expect("accepted");
        assert_eq!((made.kind, made.role, made.active), (Kind::Human, Role::Reader, true));
        assert_eq!(pointers(PatchIdentity::from_json(&json(r#"{"name":null}"#))), ["/name"]);
        let now = Timestamp(1_000_000);
        assert_eq!(
            pointers(CreateKey::from_json(&json(r#"{"expires_at":"1970-01-01T00:00:01Z"}"#), now)),
            ["/name", "/expires_at"]
        );
        assert_eq!(pointers(CreateKey::from_json(&json(r#"{"name":"\u3164"}"#), now)), ["/name"]);
        assert!(CreateKey::from_json(&json(r#"{"name":"ci","expires_at":"1970-01-01T00:00:02Z"}"#), now).is_ok());
    }
}
