//! The launcher against the machine: real servers that speak what the planes need, faults that heal, nothing left behind.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use infrastructure::{Process, Signal, TestStack, wait};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sqlx::{Connection, PgConnection};

const SOON: Duration = Duration::from_secs(30);

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

async fn make_topic(brokers: &str, name: &str) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().unwrap();
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    let results = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    results.into_iter().for_each(|result| drop(result.unwrap()));
}

/// Sends one record in a transaction.
fn produce(brokers: &str, topic: &str, payload: &str) {
    let mut config = client(brokers);
    config.set("transactional.id", format!("{topic}-producer"));
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(SOON).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<str, str>::to(topic).payload(payload)).unwrap();
    producer.commit_transaction(SOON).unwrap();
}

/// The first `count` records of a topic, as a reader of committed records sees them.
fn consume(brokers: &str, topic: &str, count: usize) -> Vec<String> {
    let mut config = client(brokers);
    config.set("group.id", "launcher-test").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let end = std::time::Instant::now() + SOON;
    let mut payloads = Vec::new();
    while payloads.len() < count {
        assert!(std::time::Instant::now() < end, "waited for {count} records of {topic}, got {payloads:?}");
        if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
            payloads.push(String::from_utf8(record.payload().unwrap().to_vec()).unwrap());
        }
    }
    payloads
}

async fn redis_run_id(url: &str) -> String {
    let mut connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await.unwrap();
    info.lines().find_map(|line| line.strip_prefix("run_id:")).expect("every Redis has one").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_carries_a_transaction() {
    let namespace = TestStack::shared().await.namespace("broker").await;
    let topic = format!("{}events", namespace.topic_prefix());
    make_topic(namespace.brokers(), &topic).await;
    produce(namespace.brokers(), &topic, "one");
    assert_eq!(consume(namespace.brokers(), &topic, 1), ["one"]);
}

#[tokio::test]
async fn postgres_streams_emitted_messages_to_the_planes_role() {
    let namespace = TestStack::shared().await.namespace("slot").await;
    let mut connection = PgConnection::connect(&namespace.database_url()).await.unwrap();
    let slot = namespace.slot();
    let make = "SELECT slot_name::text FROM pg_create_logical_replication_slot($1, 'pgoutput')";
    let made: String = sqlx::query_scalar(make).bind(&slot).fetch_one(&mut connection).await.unwrap();
    assert_eq!(made, slot);
    sqlx::query("CREATE PUBLICATION nothing").execute(&mut connection).await.unwrap();
    sqlx::query("SELECT pg_logical_emit_message(true, 'nexus', 'hello')").execute(&mut connection).await.unwrap();
    let read = "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, \
                'proto_version', '1', 'publication_names', 'nothing', 'messages', 'true')";
    let changes: Vec<Vec<u8>> = sqlx::query_scalar(read).bind(&slot).fetch_all(&mut connection).await.unwrap();
    assert!(changes.iter().any(|change| change.starts_with(b"M") && change.ends_with(b"hello")), "{changes:?}");

    let superuser: bool = sqlx::query_scalar("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(!superuser, "the planes run without a superuser's rights");
    for (setting, wanted) in [("wal_level", "logical"), ("fsync", "on"), ("synchronous_commit", "on")] {
        let value: String =
            sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&mut connection).await.unwrap();
        assert_eq!(value, wanted, "{setting}");
    }
    drop(connection);
    namespace.drop_database().await.unwrap();
    assert!(PgConnection::connect(&namespace.database_url()).await.is_err());
}

#[tokio::test]
async fn namespaces_share_neither_database_nor_names() {
    let stack = TestStack::shared().await;
    let (a, b) = (stack.namespace("same").await, stack.namespace("same").await);
    assert_ne!(a.database_url(), b.database_url());
    assert_ne!(a.slot(), b.slot());
    assert_ne!(a.topic_prefix(), b.topic_prefix());
    assert_ne!(a.redis_prefix(), b.redis_prefix());
    assert_eq!(a.servers().redis.pid(), b.servers().redis.pid(), "but they are in the same servers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_taken_away_comes_back_on_its_port_with_its_data() {
    let stack = TestStack::start().await.unwrap();
    let servers = stack.servers();
    let namespace = stack.namespace("faults").await;

    // Redis: stopped in order, it keeps its keys and has a new run id.
    let before = redis_run_id(namespace.redis_url()).await;
    let redis_client = redis::Client::open(namespace.redis_url()).unwrap();
    let mut connection = redis_client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("SET").arg("key").arg("kept").exec_async(&mut connection).await.unwrap();
    servers.redis.stop().await;
    assert_eq!(servers.redis.pid(), None);
    assert!(redis_client.get_multiplexed_async_connection().await.is_err());
    servers.redis.start().await.unwrap();
    assert_ne!(redis_run_id(namespace.redis_url()).await, before);
    let mut connection = redis_client.get_multiplexed_async_connection().await.unwrap();
    let kept: String = redis::cmd("GET").arg("key").query_async(&mut connection).await.unwrap();
    assert_eq!(kept, "kept");

    // Postgres: killed, it recovers what was committed.
    let mut connection = PgConnection::connect(&namespace.database_url()).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT 7 AS n").execute(&mut connection).await.unwrap();
    servers.postgres.kill().await;
    assert!(PgConnection::connect(&namespace.database_url()).await.is_err());
    servers.postgres.start().await.unwrap();
    let mut connection = PgConnection::connect(&namespace.database_url()).await.unwrap();
    let n: i32 = sqlx::query_scalar("SELECT n FROM kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(n, 7);

    // Frozen, backends included: the connection stays and nobody answers; thawed, the answer comes.
    servers.postgres.pause();
    let mut query = Box::pin(sqlx::query_scalar::<_, i32>("SELECT n FROM kept").fetch_one(&mut connection));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut query).await.is_err());
    servers.postgres.resume();
    assert_eq!(tokio::time::timeout(SOON, query).await.expect("thawed, it answers").unwrap(), 7);

    // The broker: killed, it keeps what it acknowledged.
    make_topic(namespace.brokers(), "kept").await;
    produce(namespace.brokers(), "kept", "one");
    servers.broker.kill().await;
    servers.broker.start().await.unwrap();
    produce(namespace.brokers(), "kept", "two");
    assert_eq!(consume(namespace.brokers(), "kept", 2), ["one", "two"]);
}

/// Not a test by itself: what [`nothing_outlives_a_killed_process`] starts and kills.
#[tokio::test]
async fn held_stack() {
    if std::env::var_os("LAUNCHER_TEST_HOLD").is_none() {
        return;
    }
    let stack = TestStack::shared().await;
    let servers = stack.servers();
    let pids = [&servers.postgres, &servers.broker, &servers.redis].map(|server| server.pid().unwrap().to_string());
    println!("held {} {}", pids.join(" "), servers.dir().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_outlives_a_killed_process() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "held_stack", "--nocapture"])
        .env("LAUNCHER_TEST_HOLD", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let held = lines.find_map(|line| line.unwrap().split_once("held ").map(|(_, rest)| rest.to_owned())).unwrap();
    let mut words = held.splitn(4, ' ');
    let processes: Vec<Process> =
        words.by_ref().take(3).map(|pid| Process::of(pid.parse().unwrap()).expect("it runs")).collect();
    let children: Vec<Process> = processes.iter().flat_map(Process::children).collect();
    assert!(!children.is_empty(), "Postgres has processes of its own");
    let dir = PathBuf::from(words.next().unwrap());
    assert!(dir.is_dir());
    // The hardest case: one of them is frozen at that time.
    processes[0].signal(Signal::STOP);
    child.kill().unwrap();
    child.wait().unwrap();
    for process in processes.iter().chain(&children) {
        assert!(process.wait_gone(SOON).await, "waited for {process:?} to end");
    }
    wait::until("the scratch directory to be removed", SOON, || async { (!dir.exists()).then_some(()) }).await.unwrap();
}

/// A stack as `nexus up` makes it, taken down when the test ends, however it ends.
struct Stack {
    home: PathBuf,
    scratch: tempfile::TempDir,
    janitor: Child,
}

impl Stack {
    fn new() -> Stack {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let home = scratch.path().join("home");
        let janitor = Command::new("setsid")
            .args(["sh", "-c", r#"read -r end; "$0" --home "$1" clean-data"#, env!("CARGO_BIN_EXE_nexus")])
            .arg(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Stack { home, scratch, janitor }
    }

    fn nexus(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        // Away from any `.env` of a developer's.
        self.nexus_in(Path::new("/"), args, env)
    }

    fn nexus_in(&self, dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexus"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NEXUS_")) {
            command.env_remove(name);
        }
        command.current_dir(dir).args(args).env("NEXUS_HOME", &self.home).envs(env.iter().copied()).output().unwrap()
    }

    fn process(&self, name: &str) -> Option<Process> {
        let text = std::fs::read_to_string(self.home.join("run").join(format!("{name}.pid"))).ok()?;
        Process::of(text.trim().parse().unwrap())
    }

    fn recorded(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(self.home.join("state.json")).unwrap()).unwrap()
    }

    fn env(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.home.join("env")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const AUTO: (&str, &str) = ("NEXUS_PORTS", "auto");

#[tokio::test]
async fn up_again_starts_only_what_is_missing_and_down_leaves_nothing() {
    let stack = Stack::new();
    let up = ["up", "--servers-only"];
    let first = stack.nexus(&up, &[AUTO]);
    assert!(first.status.success(), "{}", text(&first));
    let names = ["postgres", "broker", "redis"];
    let started = names.map(|name| stack.process(name).expect("up has returned"));
    assert_eq!(mode(&stack.home.join("env")), 0o600);
    assert_eq!(mode(&stack.home.join("state.json")), 0o600);
    assert_eq!(stack.env("NEXUS_HOME"), stack.home.canonicalize().unwrap().display().to_string());
    let mut connection = PgConnection::connect(&stack.env("NEXUS_DATABASE_URL")).await.unwrap();
    sqlx::query("CREATE TABLE kept ()").execute(&mut connection).await.unwrap();
    drop(connection);
    PgConnection::connect(&stack.env("NEXUS_DATABASE_ADMIN_URL")).await.unwrap();
    let (database, brokers) = (stack.env("NEXUS_DATABASE_URL"), stack.env("NEXUS_BROKERS"));

    // Redis is gone; the rest is not touched, ports and data stay, and what was sourced is no override.
    started[2].signal(Signal::KILL);
    assert!(started[2].wait_gone(SOON).await);
    let sourced = [("NEXUS_DATABASE_URL", database.as_str()), ("NEXUS_BROKERS", brokers.as_str())];
    let second = stack.nexus(&up, &sourced);
    assert!(second.status.success(), "{}", text(&second));
    assert_eq!(stack.process("postgres"), Some(started[0]));
    assert_eq!(stack.process("broker"), Some(started[1]));
    assert!(stack.process("redis").is_some_and(|redis| redis != started[2]));
    assert_eq!(stack.env("NEXUS_DATABASE_URL"), database);

    let running = names.map(|name| stack.process(name).unwrap());
    let down = stack.nexus(&["down"], &[]);
    assert!(down.status.success(), "{}", text(&down));
    assert!(running.iter().all(|process| !process.is_alive()));
    assert!(names.iter().all(|name| !stack.home.join(format!("run/{name}.pid")).exists()));
    assert_eq!(stack.nexus(&["status"], &[]).status.code(), Some(1));
    assert!(stack.nexus(&["down"], &[]).status.success(), "down again: nothing to do");

    let third = stack.nexus(&up, &[]);
    assert!(third.status.success(), "{}", text(&third));
    let mut connection = PgConnection::connect(&database).await.expect("the same port and password");
    sqlx::query("SELECT FROM kept").execute(&mut connection).await.expect("the same data");
    drop(connection);
    let running = names.map(|name| stack.process(name).unwrap());
    assert!(stack.nexus(&["clean-data"], &[]).status.success());
    assert!(running.iter().all(|process| !process.is_alive()));
    assert!(!stack.home.exists());
}

#[tokio::test]
async fn a_busy_port_is_named_and_auto_picks_another() {
    let stack = Stack::new();
    let up = ["up", "--servers-only"];
    assert!(stack.nexus(&up, &[AUTO]).status.success());
    assert!(stack.nexus(&["down"], &[]).status.success());
    // While it is down, this test takes the port of its Redis.
    let url = stack.env("NEXUS_REDIS_URL");
    let address = url.strip_prefix("redis://").unwrap().strip_suffix("/0").unwrap();
    let _taken = std::net::TcpListener::bind(address).unwrap();
    let refused = stack.nexus(&up, &[]);
    let said = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let port = address.rsplit_once(':').unwrap().1;
    for word in [&format!("port {port}"), "redis", &format!("(pid {})", std::process::id()), "NEXUS_PORTS=auto"] {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    for name in ["postgres", "broker", "redis"] {
        assert_eq!(stack.process(name), None, "nothing is started when a port is missing");
    }
    // And one that only the broker itself knows of.
    let internal = || stack.recorded()["ports"]["broker_internal"].as_u64().unwrap();
    let before = internal();
    let _also = std::net::TcpListener::bind(("127.0.0.1", u16::try_from(before).unwrap())).unwrap();
    let said = text(&stack.nexus(&up, &[]));
    assert!(said.contains(&format!("port {before}, which broker needs")), "{said}");
    let started = stack.nexus(&up, &[AUTO]);
    assert!(started.status.success(), "{}", text(&started));
    assert_ne!(stack.env("NEXUS_REDIS_URL"), url);
    assert_ne!(internal(), before);
}

#[test]
fn a_pid_that_belongs_to_somebody_else_is_left_alone() {
    let stack = Stack::new();
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    std::fs::create_dir_all(&stack.home).unwrap();
    let state = format!(
        r#"{{"ports":{{"postgres":1,"broker":2,"broker_internal":3,"broker_admin":4,"redis":5,"control":6,"dataplane":7}},
        "superuser_password":"x","password":"x","data":"{}","given":{{}},"settings":{{}},"api_key":null,
        "processes":{{"nexus-control":{{"pid":{},"start_time":1,"fingerprint":""}}}}}}"#,
        stack.home.join("data").display(),
        bystander.id()
    );
    std::fs::write(stack.home.join("state.json"), state).unwrap();
    let down = stack.nexus(&["down"], &[]);
    assert!(down.status.success(), "{}", text(&down));
    assert!(Process::of(bystander.id()).is_some(), "it was started at another time than the one on record");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn down_stops_the_containers_that_up_started_and_clean_data_takes_their_volumes() {
    let stack = Stack::new();
    // No Docker engine: a program that writes down what it is asked for, and answers where a key is made.
    let bin = stack.scratch.path().join("bin");
    let script = "#!/bin/sh\necho \"$*\" >> \"$0.log\"\ncase \"$*\" in *create-admin*) echo nxs_key ;; *ps) echo containers ;; esac";
    let make = r#"mkdir "$0" && printf '%s\n' "$1" > "$0/docker" && chmod 755 "$0/docker""#;
    assert!(Command::new("sh").args(["-c", make]).arg(&bin).arg(script).status().unwrap().success());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let asked = || std::fs::read_to_string(bin.join("docker.log")).unwrap();

    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let env = [("NEXUS_STACK", "compose"), ("PATH", path.as_str())];
    let up = stack.nexus_in(checkout, &["up"], &env);
    assert!(up.status.success(), "{}", text(&up));
    assert_eq!(stack.env("NEXUS_API_KEY"), "nxs_key");

    let status = text(&stack.nexus(&["status"], &[("PATH", path.as_str())]));
    assert!(status.contains("containers"), "{status}");

    let file = checkout.join("infrastructure/docker-compose.yml").canonicalize().unwrap();
    let down = format!("compose -f {} --profile planes down", file.display());
    for (command, wanted) in [("down", down.clone()), ("clean-data", format!("{down} --volumes"))] {
        let stopped = stack.nexus(&[command], &[("PATH", path.as_str())]);
        assert!(stopped.status.success(), "{}", text(&stopped));
        assert_eq!(asked().lines().last(), Some(wanted.as_str()));
    }
    assert!(!stack.home.exists());
    let before = asked();
    assert!(stack.nexus(&["down"], &[("PATH", path.as_str())]).status.success(), "down again: nothing to do");
    assert_eq!(asked(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_asks_the_servers_that_somebody_else_runs() {
    let namespace = TestStack::shared().await.namespace("status").await;
    let stack = Stack::new();
    std::fs::create_dir_all(&stack.home).unwrap();
    let names = ["postgres", "broker", "redis"];
    let table = |database: &str, brokers: &str, redis: &str| {
        let state = serde_json::json!({
            "ports": {"postgres": 1, "broker": 2, "broker_internal": 3, "broker_admin": 4, "redis": 5, "control": 6,
                "dataplane": 7},
            "superuser_password": "x", "password": "x", "data": stack.home.join("data"),
            "given": {"NEXUS_DATABASE_URL": database, "NEXUS_BROKERS": brokers, "NEXUS_REDIS_URL": redis},
            "settings": {}, "api_key": null, "processes": {}
        });
        std::fs::write(stack.home.join("state.json"), state.to_string()).unwrap();
        text(&stack.nexus(&["status"], &[]))
    };
    let has = |table: &str, name: &str, word: &str| {
        table.lines().any(|row| row.starts_with(name) && row.contains(&format!(" {word} ")))
    };
    let there = table(&namespace.database_url(), namespace.brokers(), namespace.redis_url());
    assert!(names.iter().all(|name| has(&there, name, "external")), "{there}");
    let gone = table("postgres://127.0.0.1:1/x", "127.0.0.1:1", "redis://127.0.0.1:1/0");
    assert!(names.iter().all(|name| has(&gone, name, "no answer")), "{gone}");
}

#[test]
fn logs_show_what_a_server_said() {
    let stack = Stack::new();
    std::fs::create_dir_all(stack.home.join("log")).unwrap();
    std::fs::write(stack.home.join("log/redis.log"), "first\nsecond\n").unwrap();
    assert_eq!(text(&stack.nexus(&["logs", "redis"], &[])), "first\nsecond\n");
    assert_eq!(text(&stack.nexus(&["logs"], &[])), "redis            first\nredis            second\n");
    let unknown = stack.nexus(&["logs", "zookeeper"], &[]);
    assert_eq!(unknown.status.code(), Some(1));
    let mut nothing = String::new();
    (&unknown.stdout[..]).read_to_string(&mut nothing).unwrap();
    assert_eq!(nothing, "");
}

fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777
}
