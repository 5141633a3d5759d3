//! A Redis, a view in it, a view server in front of it, and a client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use contract::identity::{Identity, KeyRecord, Kind, Role, format_secret};
use contract::partition::{Partition, Topic};
use contract::signal::{Payload, Priority, Signal, Status};
use contract::time::Timestamp;
use contract::token::{Entry, Token};
use dataplane::serve::serve_reads_on;
use dataplane::view::header::Header;
use dataplane::view::keys::{CODE_NONE, CODE_PLAIN, Keys, hex16, push_document_head, signal_code};
use dataplane::{ReadSettings, Readings};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use redis::aio::MultiplexedConnection;
use runtime::shutdown::Shutdown;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OnceCell};
use uuid::Uuid;

/// Longer than anything here takes, shorter than patience.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A `redis-server` of the tests' own; ends with this value.
pub struct RedisServer {
    pub port: u16,
    dir: std::path::PathBuf,
    child: Child,
}

impl RedisServer {
    pub async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = std::env::temp_dir().join(format!("nexus-read-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let server = Self { port, child: launch(port, &dir), dir };
        server.answers().await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    async fn answers(&self) {
        let client = redis::Client::open(self.url()).unwrap();
        until("Redis answers", async || client.get_multiplexed_async_connection().await.ok()).await;
    }

    /// Ends it without a word, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same port, empty.
    pub async fn restart(&mut self) {
        self.kill();
        self.child = launch(self.port, &self.dir);
        self.answers().await;
    }
}

fn launch(port: u16, dir: &std::path::Path) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What `condition` gives, asked again and again until the deadline.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "waited {DEADLINE:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    read: ReadSettings,
}

/// One change of one signal or identity.
#[derive(Debug, Clone)]
pub struct Change {
    pub topic: Topic,
    pub id: Uuid,
    pub version: u64,
    pub code: u8,
    pub json: Vec<u8>,
}

impl Change {
    pub fn signal(signal: &Signal) -> Self {
        let code = signal_code(signal.priority, signal.status);
        Self { topic: Topic::Signals, id: signal.id, version: signal.version, code, json: signal.render() }
    }

    pub fn delete(topic: Topic, id: Uuid, version: u64) -> Self {
        Self { topic, id, version, code: CODE_NONE, json: Vec::new() }
    }
}

/// A caller.
#[derive(Debug, Clone)]
pub struct Caller {
    pub secret: String,
    pub record: KeyRecord,
    pub identity: Uuid,
}

struct Written {
    headers: BTreeMap<Partition, Header>,
    codes: BTreeMap<Uuid, u8>,
    connection: MultiplexedConnection,
}

/// A view of its own, and its server.
pub struct World {
    pub keys: Keys,
    pub partitions: u16,
    pub address: SocketAddr,
    pub admin: Caller,
    written: Mutex<Written>,
    shutdown: Shutdown,
}

static REDIS: OnceCell<(u16, u32)> = OnceCell::const_new();
static COUNTER: AtomicU32 = AtomicU32::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// A different number each time.
pub fn random() -> u64 {
    let mut x = RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) ^ u64::from(std::process::id());
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 31)
}

/// The Redis of this test binary. A watcher process ends it when this one is gone, however it goes.
async fn shared_redis() -> String {
    let (port, _) = REDIS
        .get_or_init(|| async {
            let server = RedisServer::start().await;
            let found = (server.port, server.child.id());
            let script = format!(
                "while kill -0 {} 2>/dev/null; do sleep 0.2; done; kill {}; rm -rf '{}'",
                std::process::id(),
                server.child.id(),
                server.dir.display()
            );
            let mut watcher = Command::new("sh");
            watcher.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // Never waited for: it outlives this process, by a moment.
            std::mem::forget(watcher.spawn().unwrap());
            std::mem::forget(server);
            found
        })
        .await;
    format!("redis://127.0.0.1:{port}/0")
}

pub async fn run_id(connection: &mut MultiplexedConnection) -> String {
    let info: String = redis::cmd("INFO").arg("server").query_async(connection).await.unwrap();
    info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().trim().to_owned()
}

pub const EPOCH: u64 = 1_790_000_000_000;

impl World {
    /// A view with an admin in it and nothing else, and its server, ready.
    pub async fn start() -> Self {
        Self::start_on(&shared_redis().await, 4, true).await
    }

    /// On a given Redis; unless `filled`, without any view.
    pub async fn start_on(url: &str, partitions: u16, filled: bool) -> Self {
        let prefix = format!("t{}:", COUNTER.fetch_add(1, Ordering::Relaxed));
        let mut connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
        connection.set_response_timeout(DEADLINE);
        let listener = runtime::serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let read = Arguments::parse_from(["test"]).read;
        let readings = Readings { redis_url: url.to_owned(), redis_prefix: prefix.clone(), projector: None };
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        tokio::spawn(async move { serve_reads_on(listener, read, readings, stop).await.unwrap() });
        let admin = Self::caller(Role::Admin);
        let written = Written { headers: BTreeMap::new(), codes: BTreeMap::new(), connection };
        let world = Self {
            keys: Keys::new(&prefix),
            partitions,
            address,
            admin: admin.clone(),
            written: written.into(),
            shutdown,
        };
        if filled {
            world.fill(EPOCH).await;
            world.write_caller(&admin).await;
            world.ready().await;
        }
        world
    }

    /// Writes empty headers of a new generation that was filled from `base`, and the layout.
    pub async fn fill(&self, base: u64) {
        let mut written = self.written.lock().await;
        let run_id = run_id(&mut written.connection).await;
        let mut pipeline = redis::pipe();
        pipeline.set(self.keys.layout(), format!("1 {}", self.partitions)).ignore();
        for partition in Partition::all(self.partitions) {
            let generation = written.headers.get(&partition).map_or(base, |header| header.generation + 1);
            let header = Header {
                generation,
                epoch: base,
                history: 0,
                seq: 0,
                offset: -1,
                run_id: run_id.clone(),
                ready: true,
                partitions: self.partitions,
                applied_ms: 1,
                base,
            };
            pipeline.set(self.keys.header(partition), header.to_string()).ignore();
            written.headers.insert(partition, header);
        }
        written.codes.clear();
        pipeline.exec_async(&mut written.connection).await.unwrap();
    }

    pub async fn ready(&self) {
        until("the server is ready", async || (self.get("/readyz", &[]).await.status == 200).then_some(())).await;
    }

    /// Changes the headers of all partitions.
    pub async fn set_headers(&self, change: impl Fn(&mut Header)) {
        let mut written = self.written.lock().await;
        let mut pipeline = redis::pipe();
        let Written { headers, connection, .. } = &mut *written;
        for (partition, header) in headers {
            change(header);
            pipeline.set(self.keys.header(*partition), header.to_string()).ignore();
        }
        pipeline.exec_async(connection).await.unwrap();
    }

    /// Runs commands on the view's Redis.
    pub async fn redis<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        command.query_async(&mut self.written.lock().await.connection).await.unwrap()
    }

    /// Applies changes as a projector does: one script call per partition and batch.
    pub async fn apply(&self, changes: &[Change]) {
        let mut written = self.written.lock().await;
        let mut by_partition: BTreeMap<Partition, Vec<&Change>> = BTreeMap::new();
        for change in changes {
            by_partition.entry(Partition::of(change.topic, change.id, self.partitions)).or_default().push(change);
        }
        for (partition, changes) in by_partition {
            let Written { headers, codes, connection } = &mut *written;
            let header = headers.get_mut(&partition).unwrap();
            let generation = header.generation;
            let first = header.seq + 1;
            header.seq += changes.len() as u64;
            let mut pipeline = redis::pipe();
            pipeline.atomic();
            let mut named = Vec::new();
            for change in &changes {
                let before = codes.get(&change.id).copied().unwrap_or(CODE_NONE);
                let kind = match (before, change.code) {
                    (_, CODE_NONE) => b'd',
                    (CODE_NONE, _) => b'c',
                    _ => b'u',
                };
                named.extend_from_slice(change.id.to_string().as_bytes());
                named.extend_from_slice(&hex16(change.version));
                named.extend_from_slice(&[kind, before, change.code]);
                codes.insert(change.id, change.code);
                let index = |code| self.keys.index(partition, generation, code);
                if before != CODE_NONE && before != change.code && partition.topic != Topic::Keys {
                    pipeline.zrem(index(before), change.id.as_bytes()).ignore();
                }
                if change.code != CODE_NONE && partition.topic != Topic::Keys {
                    pipeline.zadd(index(change.code), change.id.as_bytes(), 0).ignore();
                }
                let mut stored = Vec::new();
                push_document_head(&mut stored, change.version, change.code);
                stored.extend_from_slice(&change.json);
                pipeline.set(self.keys.document(partition, generation, change.id), stored).ignore();
            }
            pipeline
                .cmd("XADD")
                .arg(self.keys.feed(partition))
                .arg("*")
                .arg("e")
                .arg(header.epoch)
                .arg("f")
                .arg(first)
                .arg("t")
                .arg(header.seq)
                .arg("k")
                .arg(named)
                .ignore();
            pipeline.set(self.keys.header(partition), header.to_string()).ignore();
            pipeline.exec_async(connection).await.unwrap();
        }
    }

    /// A caller whom the view does not know yet.
    pub fn caller(role: Role) -> Caller {
        let (id, identity) = (Uuid::from_u64_pair(random(), random()), contract::id::v7(Timestamp::now(), random()));
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&random().to_be_bytes());
        let secret = format_secret(id, &bytes);
        let sha256 = Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let record = KeyRecord { id, identity, role, active: true, sha256, expires_at: None, version: 1 };
        Caller { secret, record, identity }
    }

    pub async fn write_key(&self, record: &KeyRecord) {
        let change = Change {
            topic: Topic::Keys,
            id: record.id,
            version: record.version,
            code: CODE_PLAIN,
            json: record.render(),
        };
        self.apply(&[change]).await;
    }

    pub async fn write_caller(&self, caller: &Caller) {
        let identity = identity(caller);
        let json = identity.render();
        let change = Change { topic: Topic::Identities, id: identity.id, version: 1, code: CODE_PLAIN, json };
        self.apply(&[change]).await;
        self.write_key(&caller.record).await;
    }

    /// A caller whom the view knows.
    pub async fn known(&self, role: Role) -> Caller {
        let caller = Self::caller(role);
        self.write_caller(&caller).await;
        caller
    }

    /// The token of a command that left `id` at `version`.
    pub fn token(&self, topic: Topic, id: Uuid, version: u64) -> Token {
        Token {
            history: 0,
            epoch: EPOCH,
            issued_ms: u64::try_from(Timestamp::now().millis()).unwrap(),
            unproven: None,
            entries: vec![Entry { partition: Partition::of(topic, id, self.partitions), id, version }],
        }
    }

    /// A `GET` as the admin.
    pub async fn read(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.read_as(&self.admin, path, headers).await
    }

    pub async fn read_as(&self, caller: &Caller, path: &str, headers: &[(&str, &str)]) -> Answer {
        let bearer = format!("Bearer {}", caller.secret);
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        self.get(path, &all).await
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let response = send(self.address, path, headers).await;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect()).await.expect("an end of the answer").unwrap();
        Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Panics unless it is this problem.
    pub fn is(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code().as_str()), (status, code), "{:?}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
    }
}

pub async fn send(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> http::Response<Incoming> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::get(path).header("host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    tokio::time::timeout(DEADLINE, sender.send_request(request)).await.expect("an answer").unwrap()
}

pub fn identity(caller: &Caller) -> Identity {
    Identity {
        id: caller.identity,
        name: format!("n{}", &caller.identity.simple().to_string()[16..]),
        display_name: None,
        email: None,
        kind: Kind::Human,
        role: caller.record.role,
        active: true,
        created_at: contract::id::created_at(caller.identity),
        updated_at: contract::id::created_at(caller.identity),
        version: 1,
    }
}

/// A new signal, created a little after all before.
pub fn signal(priority: Priority, status: Status) -> Signal {
    static CLOCK: std::sync::OnceLock<contract::id::RisingClock> = std::sync::OnceLock::new();
    let time = CLOCK.get_or_init(Default::default).now();
    Signal {
        id: contract::id::v7(time, random()),
        title: "a title with \"quotes\"".into(),
        priority,
        status,
        payload: Payload::from_stored(r#"{"n":1.50,"a":[]}"#.into()),
        target: None,
        created_by: Uuid::from_u128(5),
        created_at: time,
        updated_at: time,
        version: 1,
    }
}
