//! The command service: parse, decide, commit, publish, answer.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use contract::command::{CreateSignal, PatchSignal, Precondition, SignalCommand};
use contract::json::Json;
use contract::problem::Problem;
use contract::time::Timestamp;
use control::aggregate::{Decision, Situation, State, decide};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::LOCATION;
use hyper::{Method, Request, StatusCode};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::TYPE;
use super::http::{self, Answer, problem};
use super::store::{self, Event};

/// Where the service is and what it uses.
#[derive(Debug, Clone, clap::Args)]
pub struct CommandsOptions {
    /// Where to listen
    #[arg(long)]
    pub listen: SocketAddr,
    /// Postgres
    #[arg(long, env = "PEERS_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The one API key
    #[arg(long)]
    pub api_key: String,
    /// Connections to Postgres
    #[arg(long, default_value_t = 16)]
    pub pool: u32,
    /// Write an outbox row instead of publishing
    #[arg(long)]
    pub outbox: bool,
    /// The broker
    #[arg(long)]
    pub brokers: String,
    /// The topic to publish to
    #[arg(long)]
    pub topic: String,
}

/// How long a publication may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
const PAGE: i64 = 500;

struct Service {
    pool: PgPool,
    /// None: the outbox is written instead.
    producer: Option<FutureProducer>,
    topic: String,
    actor: Uuid,
}

/// What a request comes to.
enum Refusal {
    Problem(Problem),
    Database(sqlx::Error),
    Publication(rdkafka::error::KafkaError),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Refusal::Database(error)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Refusal::Problem(problem)
    }
}

/// Serves until the process is ended.
///
/// # Errors
/// Postgres or the port can't be had.
pub async fn serve(options: CommandsOptions) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new()
        .min_connections(options.pool)
        .max_connections(options.pool)
        .test_before_acquire(false) // a round trip for each command
        .connect(&options.database_url)
        .await?;
    let producer = if options.outbox {
        None
    } else {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &options.brokers).set("acks", crate::systems::ACKS).set("linger.ms", "0");
        config.set("enable.idempotence", "true").set("socket.nagle.disable", "true");
        Some(config.create()?)
    };
    let service = Arc::new(Service { pool, producer, topic: options.topic, actor: Uuid::from_u128(1) });
    http::serve(options.listen, &options.api_key, move |request| {
        let service = service.clone();
        async move { service.handle(request).await }
    })
    .await
}

fn random() -> u64 {
    // Seeded by the system, and anew each time.
    RandomState::new().build_hasher().finish()
}

impl Service {
    async fn handle(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        let rest = path.strip_prefix("/v1/signals").map(str::to_owned);
        let id = rest.as_deref().and_then(|rest| rest.strip_prefix('/')).and_then(contract::id::parse);
        match (request.method().clone(), rest.as_deref(), id) {
            (Method::GET, Some(""), _) => self.list(&request).await,
            (Method::POST, Some(""), _) => self.command(request, None).await,
            (Method::PATCH | Method::DELETE, _, Some(id)) => self.command(request, Some(id)).await,
            _ => problem(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }

    async fn list(&self, request: &Request<Incoming>) -> Answer {
        let after = http::parameter(request, "cursor").and_then(contract::id::parse).unwrap_or(Uuid::nil());
        let limit = http::parameter(request, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE).min(PAGE);
        match store::page(&self.pool, after, limit).await {
            Ok(signals) => {
                let last = signals.last().map(|signal| signal.id.to_string());
                let more = signals.len() == limit as usize;
                let documents: Vec<Vec<u8>> = signals.iter().map(contract::signal::Signal::render).collect();
                http::page(&documents, last.as_deref().filter(|_| more))
            }
            Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        }
    }

    async fn command(&self, request: Request<Incoming>, id: Option<Uuid>) -> Answer {
        let method = request.method().clone();
        let Ok(body) = request.into_body().collect().await else {
            return problem(StatusCode::BAD_REQUEST, "the body ends early");
        };
        match self.accept(&method, id, &body.to_bytes()).await {
            Ok((decision, None)) => match decision {
                State::Live(signal) => http::signal(StatusCode::OK, signal.render(), signal.version),
                _ => problem(StatusCode::NOT_FOUND, "there is nothing here"),
            },
            Ok((_, Some(event))) => match method {
                Method::DELETE => {
                    let mut answer = http::json(StatusCode::NO_CONTENT, "");
                    answer.headers_mut().remove(hyper::header::CONTENT_TYPE);
                    answer
                }
                Method::PATCH => http::signal(StatusCode::OK, event.document, event.version),
                _ => {
                    let mut answer = http::signal(StatusCode::CREATED, event.document, event.version);
                    if let Ok(value) = format!("/v1/signals/{}", event.id).parse() {
                        answer.headers_mut().insert(LOCATION, value);
                    }
                    answer
                }
            },
            Err(Refusal::Problem(refused)) => {
                let status = StatusCode::from_u16(refused.kind.status).unwrap_or(StatusCode::BAD_REQUEST);
                problem(status, &refused.detail)
            }
            Err(Refusal::Database(error)) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
            // Committed all the same: the hole of this design.
            Err(Refusal::Publication(error)) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        }
    }

    /// One transaction. Returns the state before, and the event unless nothing changed.
    async fn accept(&self, method: &Method, id: Option<Uuid>, body: &[u8]) -> Result<(State, Option<Event>), Refusal> {
        let command = command_of(method, id, body)?;
        let mut transaction = self.pool.begin().await?;
        let state = match id {
            Some(id) => store::lock(&mut transaction, id).await?,
            None => State::Missing,
        };
        let situation = Situation {
            now: Timestamp::now(),
            actor: self.actor,
            random: random(),
            knows_identity: &|_| true,
            pointer: "",
        };
        let decision = decide(&state, &command, situation)?;
        let id = match (&decision, id) {
            (Decision::Created(signal), _) => signal.id,
            (_, id) => id.unwrap_or_default(),
        };
        let event = store::store(&mut transaction, id, &decision).await?;
        if let (Some(event), None) = (&event, &self.producer) {
            let row = contract::id::v7(Timestamp::now(), random());
            store::outbox(&mut transaction, row, event).await?;
        }
        transaction.commit().await?;
        if let (Some(event), Some(producer)) = (&event, &self.producer) {
            self.publish(producer, event).await?;
        }
        Ok((state, event))
    }

    #[expect(clippy::disallowed_methods, reason = "what most teams would write")]
    async fn publish(&self, producer: &FutureProducer, event: &Event) -> Result<(), Refusal> {
        let id = event.id.to_string();
        let headers = OwnedHeaders::new().insert(Header { key: TYPE, value: Some(event.kind) });
        let record = FutureRecord::to(&self.topic).key(&id).payload(&event.document).headers(headers);
        match producer.send(record, PUBLISH_TIMEOUT).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(Refusal::Publication(error)),
        }
    }
}

fn command_of(method: &Method, id: Option<Uuid>, body: &[u8]) -> Result<SignalCommand, Problem> {
    let parse = || Json::parse(body).map_err(|error| Problem::new(&contract::problem::BAD_JSON, error.to_string()));
    Ok(match (method, id) {
        (&Method::DELETE, Some(id)) => SignalCommand::Delete(id, Precondition::default()),
        (_, Some(id)) => {
            let patch = PatchSignal::from_json(&parse()?, "").map_err(Problem::validation)?;
            SignalCommand::Update(id, patch, Precondition::default())
        }
        (_, None) => SignalCommand::Create(CreateSignal::from_json(&parse()?, "").map_err(Problem::validation)?),
    })
}
