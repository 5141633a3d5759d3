//! Identities and their keys: one request, one transaction, one at a time.
//!
//! Rules that look at several rows (unique names, the last active admin) hold because an advisory
//! lock lets one such transaction run at a time, in all processes. They are rare.

use bytes::Bytes;
use contract::command::{CreateIdentity, CreateKey, PatchIdentity, Precondition};
use contract::event::{Change, Event};
use contract::identity::{Identity, Kind, Role, format_secret};
use contract::partition::Topic;
use contract::problem::{NOT_FOUND, Problem};
use contract::time::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::fold::Surroundings;
use super::keys::{self, Key};
use super::opening::Opening;
use super::random::{self, Random};
use super::signals::ranked;
use super::sql::{PgTime, bigint, count};
use super::stamp::Touched;
use super::write::{Changes, Kept};
use crate::aggregate::identity::{self as rules, Others};
use crate::request::{Answer, Invalidates, Request, Work};

/// Waits for its turn, and keeps it until the transaction ends.
pub(super) async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Any number will do, as long as nobody else uses it: "nexus" in ASCII.
    const TURN: i64 = 0x6e_6578_7573;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(TURN).execute(connection).await.map(drop)
}

/// The answers to `requests`, which the queue makes one, its rows already written, and what else is to
/// be written for them to be true.
pub(super) async fn prepare(
    connection: &mut PgConnection,
    opening: &Opening,
    around: Surroundings<'_>,
    requests: &[&Request],
) -> Result<(Vec<Answer>, Changes), sqlx::Error> {
    let mut work = Administration { connection, around, changes: Changes::default() };
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        answers.push(match opening.settled(request) {
            Some(answer) => answer,
            None => work.answer(request).await?,
        });
    }
    Ok((answers, work.changes))
}

struct Administration<'a> {
    connection: &'a mut PgConnection,
    around: Surroundings<'a>,
    changes: Changes,
}

/// The rejection is a value; the error is Postgres'.
type Decided = Result<Result<Answer, Problem>, sqlx::Error>;

macro_rules! accept {
    ($decision:expr) => {
        match $decision {
            Ok(accepted) => accepted,
            Err(problem) => return Ok(Err(problem)),
        }
    };
}

impl Administration<'_> {
    async fn answer(&mut self, request: &Request) -> Result<Answer, sqlx::Error> {
        let mut touched = Touched::default();
        let mut replay = None;
        let decided = match &request.work {
            Work::CreateIdentity(command) => self.create_identity(request, command, &mut touched).await?,
            Work::UpdateIdentity(id, patch, precondition) => {
                self.update_identity(request, *id, patch, precondition, &mut touched).await?
            }
            Work::DeleteIdentity(id, precondition) => {
                self.delete_identity(request, *id, precondition, &mut touched).await?
            }
            Work::CreateKey(identity, command) => {
                self.create_key(request, *identity, command, &mut touched, &mut replay).await?
            }
            Work::RevokeKey(identity, key) => self.revoke_key(request, *identity, *key, &mut touched).await?,
            Work::Invalid(problem) => Err(problem.clone()),
            Work::Signal(_) | Work::Batch(_) => unreachable!("signals have batches of their own"),
        };
        let mut answer = decided.unwrap_or_else(|problem| Answer::rejected(&problem, &request.request_id));
        answer.token = touched.token(self.around.stamp, self.around.clock.now());
        self.changes.kept.extend(Kept::of(request, &answer, replay));
        Ok(answer)
    }

    async fn create_identity(&mut self, request: &Request, command: &CreateIdentity, touched: &mut Touched) -> Decided {
        let others = self.others(Uuid::nil(), Some(&command.name)).await?;
        let (now, random) = (self.around.clock.now(), Random::default().next());
        let identity = accept!(rules::create(command, others, now, random));
        let insert = "INSERT INTO nexus.identities
                      (id, name, display_name, email, kind, role, active, created_at, updated_at, version)
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        self.store_identity(insert, &identity).await?;
        let body = self.emit_identity(request, &identity, Change::Created, touched);
        let location = Some(format!("/v1/identities/{}", identity.id));
        Ok(Ok(Answer { etag: Some(identity.version), location, ..Answer::ok(201, body) }))
    }

    async fn update_identity(
        &mut self,
        request: &Request,
        id: Uuid,
        patch: &PatchIdentity,
        precondition: &Precondition,
        touched: &mut Touched,
    ) -> Decided {
        let old = load(&mut *self.connection, id).await?;
        let others = self.others(id, patch.name.as_deref()).await?;
        let now = self.around.clock.now();
        let new = accept!(rules::patch(old.as_ref(), patch, precondition, others, now));
        let (Some(old), Some(new)) = (&old, &new) else {
            // Nothing changes: the token is for what is there.
            let identity = accept!(rules::existing(old.as_ref()));
            touched.unchanged(Topic::Identities, id, identity.version, self.around.partitions);
            return Ok(Ok(Answer { etag: Some(identity.version), ..Answer::ok(200, identity.render()) }));
        };
        let update = "UPDATE nexus.identities
                      SET name = $2, display_name = $3, email = $4, kind = $5, role = $6, active = $7,
                          created_at = $8, updated_at = $9, version = $10
                      WHERE id = $1";
        self.store_identity(update, new).await?;
        let body = self.emit_identity(request, new, Change::Updated, touched);
        if (old.role, old.active) != (new.role, new.active) {
            let raise = "UPDATE nexus.api_keys SET version = version + 1 WHERE identity = $1";
            sqlx::query(raise).bind(id).execute(&mut *self.connection).await?;
            for key in keys::of_identity(&mut *self.connection, id).await? {
                self.emit_key(request, &key, new, Change::Updated, touched);
            }
        }
        let invalidates = Invalidates { identities: vec![id], keys: Vec::new() };
        Ok(Ok(Answer { etag: Some(new.version), invalidates, ..Answer::ok(200, body) }))
    }

    async fn delete_identity(
        &mut self,
        request: &Request,
        id: Uuid,
        precondition: &Precondition,
        touched: &mut Touched,
    ) -> Decided {
        let old = load(&mut *self.connection, id).await?;
        let others = self.others(id, None).await?;
        let version = accept!(rules::delete(old.as_ref(), precondition, others));
        let revoked = keys::of_identity(&mut *self.connection, id).await?;
        for key in &revoked {
            self.emit_gone(request, Topic::Keys, key.id, key.version + 1, touched);
        }
        sqlx::query("DELETE FROM nexus.api_keys WHERE identity = $1").bind(id).execute(&mut *self.connection).await?;
        sqlx::query("DELETE FROM nexus.identities WHERE id = $1").bind(id).execute(&mut *self.connection).await?;
        self.emit_gone(request, Topic::Identities, id, version, touched);
        let invalidates = Invalidates { identities: vec![id], keys: revoked.iter().map(|key| key.id).collect() };
        Ok(Ok(Answer { invalidates, ..Answer::ok(204, Bytes::new()) }))
    }

    async fn create_key(
        &mut self,
        request: &Request,
        identity: Uuid,
        command: &CreateKey,
        touched: &mut Touched,
        replay: &mut Option<Bytes>,
    ) -> Decided {
        let owner = load(&mut *self.connection, identity).await?;
        let owner = accept!(rules::existing(owner.as_ref()));
        let now = self.around.clock.now();
        let id = contract::id::v7(now, Random::default().next());
        let mut bits = [0; 32];
        random::fill(&mut bits);
        let secret = format_secret(id, &bits);
        let key = Key::new(id, identity, command.name.clone(), &secret, now, command.expires_at);
        key.insert(self.connection).await?;
        self.emit_key(request, &key, owner, Change::Created, touched);
        // The identity is in another partition than its key; who waits for the key means both.
        touched.unchanged(Topic::Identities, identity, owner.version, self.around.partitions);
        *replay = Some(key.render(None).into());
        Ok(Ok(Answer::ok(201, key.render(Some(&secret)))))
    }

    async fn revoke_key(&mut self, request: &Request, identity: Uuid, key: Uuid, touched: &mut Touched) -> Decided {
        let delete = "DELETE FROM nexus.api_keys WHERE id = $1 AND identity = $2 RETURNING version";
        let row = sqlx::query(delete).bind(key).bind(identity).fetch_optional(&mut *self.connection).await?;
        let Some(row) = row else {
            return Ok(Err(Problem::new(&NOT_FOUND, "this identity has no key with this id")));
        };
        let version = count(row.try_get("version")?) + 1;
        self.emit_gone(request, Topic::Keys, key, version, touched);
        let invalidates = Invalidates { keys: vec![key], identities: Vec::new() };
        Ok(Ok(Answer { invalidates, ..Answer::ok(204, Bytes::new()) }))
    }

    async fn others(&mut self, id: Uuid, name: Option<&str>) -> Result<Others, sqlx::Error> {
        let look = "SELECT EXISTS (SELECT FROM nexus.identities WHERE name = $2 AND id <> $1) AS have_name,
                           EXISTS (SELECT FROM nexus.identities WHERE active AND role = $3 AND id <> $1) AS have_admin";
        let look = sqlx::query(look).bind(id).bind(name).bind(i16::from(Role::Admin.rank()));
        let row = look.fetch_one(&mut *self.connection).await?;
        Ok(Others { have_name: row.try_get("have_name")?, have_active_admin: row.try_get("have_admin")? })
    }

    async fn store_identity(&mut self, statement: &'static str, identity: &Identity) -> Result<(), sqlx::Error> {
        let query = sqlx::query(statement)
            .bind(identity.id)
            .bind(&identity.name)
            .bind(&identity.display_name)
            .bind(&identity.email)
            .bind(i16::from(identity.kind.rank()))
            .bind(i16::from(identity.role.rank()))
            .bind(identity.active)
            .bind(PgTime(identity.created_at))
            .bind(PgTime(identity.updated_at))
            .bind(bigint(identity.version));
        query.execute(&mut *self.connection).await.map(drop)
    }

    fn emit_identity(
        &mut self,
        request: &Request,
        identity: &Identity,
        change: Change,
        touched: &mut Touched,
    ) -> Bytes {
        let body = Bytes::from(identity.render());
        let (topic, time) = (Topic::Identities, identity.updated_at);
        self.emit(request, topic, identity.id, change, identity.version, time, &body, touched);
        body
    }

    fn emit_key(&mut self, request: &Request, key: &Key, owner: &Identity, change: Change, touched: &mut Touched) {
        let (value, now) = (key.record(owner).render(), self.around.clock.now());
        self.emit(request, Topic::Keys, key.id, change, key.version, now, &value, touched);
    }

    fn emit_gone(&mut self, request: &Request, topic: Topic, id: Uuid, version: u64, touched: &mut Touched) {
        let now = self.around.clock.now();
        self.emit(request, topic, id, Change::Deleted, version, now, b"", touched);
    }

    #[allow(clippy::too_many_arguments)]
    fn emit(
        &mut self,
        request: &Request,
        topic: Topic,
        id: Uuid,
        change: Change,
        version: u64,
        time: Timestamp,
        value: &[u8],
        touched: &mut Touched,
    ) {
        let traceparent = request.traceparent.as_str();
        self.changes.events.push(&Event { topic, id, change, version, time, traceparent, value });
        touched.event(topic, id, version, self.around.partitions);
    }
}

/// The identity in a row.
pub(super) fn from_row(row: &PgRow) -> Result<Identity, sqlx::Error> {
    let (created_at, updated_at): (PgTime, PgTime) = (row.try_get("created_at")?, row.try_get("updated_at")?);
    Ok(Identity {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        display_name: row.try_get("display_name")?,
        email: row.try_get("email")?,
        kind: ranked(Kind::ALL, row.try_get("kind")?)?,
        role: ranked(Role::ALL, row.try_get("role")?)?,
        active: row.try_get("active")?,
        created_at: created_at.0,
        updated_at: updated_at.0,
        version: count(row.try_get("version")?),
    })
}

/// One identity.
pub(super) async fn load<'e>(executor: impl sqlx::PgExecutor<'e>, id: Uuid) -> Result<Option<Identity>, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM nexus.identities WHERE id = $1").bind(id).fetch_optional(executor).await?;
    row.as_ref().map(from_row).transpose()
}
