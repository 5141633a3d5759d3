//! Stage 5: the walsender's frames become records, as the relay reads them.
//!
//! The frames are what a real Postgres decodes from its WAL after batches of the store; a thread sends them again and again
//! over loopback, so that what is measured is the reading end: the replication client, and our part, which is also
//! measured by itself.

use std::cell::{OnceCell, RefCell};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use contract::bundle::{self, BUNDLE_PREFIX};
use contract::id::Uuid;
use contract::time::Timestamp;
use control::relay::record::{Draft, Texts};
use control::topics::BATCH_BYTES_MAX;
use criterion::{Criterion, Throughput};
use pgwire_replication::config::ReplicationConfig;
use pgwire_replication::{ReplicationClient, ReplicationEvent};
use sqlx::{Connection, PgConnection, Row};
use tokio::runtime::Runtime;

use crate::database::{Database, create, creations};
use crate::event::created;
use crate::place::{self, PARTITIONS};
use crate::signals::signal;

/// Transactions, and the events in each.
const BATCHES: usize = 8;
const BATCH: u64 = 128;

/// The events of some batches as the walsender frames them, and whose they are.
struct Recorded {
    frames: Vec<u8>,
    ids: Vec<Uuid>,
}

/// Lets a real Postgres write the frames.
fn record() -> Recorded {
    let Database { namespace, store, .. } = Database::new("relay");
    place::run(async move {
        let slot = namespace.slot();
        let mut admin = PgConnection::connect(&namespace.database_admin_url()).await.expect("the superuser");
        let make = sqlx::query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')").bind(&slot);
        make.fetch_one(&mut admin).await.expect("a slot");
        let mut ids = Vec::new();
        for _ in 0..BATCHES {
            for answer in create(&store, &creations(BATCH)).await.1 {
                let location = answer.location.expect("a location");
                ids.push(location.rsplit('/').next().and_then(|id| id.parse().ok()).expect("an id"));
            }
        }
        let look = "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
                    'proto_version', '1', 'publication_names', 'nexus', 'messages', 'true')";
        let rows = sqlx::query(look).bind(&slot).fetch_all(&mut admin).await.expect("the changes");
        let drop = sqlx::query("SELECT pg_drop_replication_slot($1)").bind(&slot);
        drop.execute(&mut admin).await.expect("the slot is ours");
        let mut frames = Vec::new();
        for row in rows {
            let data: Vec<u8> = row.get("data");
            // CopyData around XLogData: tag, length, 'w', start and end of the WAL, the server's clock
            // (https://www.postgresql.org/docs/15/protocol-replication.html).
            frames.push(b'd');
            frames.extend(u32::try_from(4 + 25 + data.len()).expect("a small frame").to_be_bytes());
            frames.push(b'w');
            frames.extend([0; 24]);
            frames.extend(data);
        }
        Recorded { frames, ids }
    })
}

/// Speaks as much of the protocol as a client of a replication session asks for, and sends the frames whenever told to.
fn play(listener: &TcpListener, frames: &[u8], again: &Receiver<()>) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    skip_message(&mut stream)?; // the start-up message has no tag
    stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")?; // authenticated, ready for queries
    stream.read_exact(&mut [0])?;
    skip_message(&mut stream)?; // START_REPLICATION
    stream.write_all(b"W\0\0\0\x07\0\0\0")?; // copying both ways
    while again.recv().is_ok() {
        stream.write_all(frames)?;
    }
    Ok(())
}

fn skip_message(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let rest = u32::from_be_bytes(length).saturating_sub(4);
    stream.read_exact(&mut vec![0; rest as usize])
}

struct Reader {
    runtime: Runtime,
    client: RefCell<ReplicationClient>,
    again: SyncSender<()>,
    ids: Vec<Uuid>,
}

fn start() -> Reader {
    let Recorded { frames, ids } = record();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (again, told) = sync_channel(1);
    std::thread::spawn(move || play(&listener, &frames, &told));
    let runtime = place::single();
    // As the relay's own.
    let config = ReplicationConfig::new("127.0.0.1", "bench", "", "bench", "bench", "nexus")
        .with_port(port)
        .with_status_interval(Duration::from_secs(1))
        .with_wakeup_interval(Duration::from_secs(1))
        .with_buffer_size(128);
    let client = runtime.block_on(ReplicationClient::connect(config)).expect("a session");
    Reader { runtime, client: RefCell::new(client), again, ids }
}

impl Reader {
    /// Reads all events once, up to their records' headers; whose they were.
    #[allow(clippy::await_holding_refcell_ref, reason = "one thread, one reader")]
    async fn read(&self) -> Vec<Uuid> {
        let mut client = self.client.borrow_mut();
        let (mut texts, mut committed, mut ids) = (Texts::default(), Timestamp(0), Vec::with_capacity(self.ids.len()));
        while ids.len() < self.ids.len() {
            match client.recv().await.expect("frames").expect("more of them") {
                ReplicationEvent::Begin { commit_time_micros, .. } => committed = Timestamp(commit_time_micros),
                ReplicationEvent::Message { transactional: true, prefix, content, .. } => {
                    // Any other would never bring what is waited for.
                    assert_eq!(prefix, BUNDLE_PREFIX);
                    for event in bundle::split(content) {
                        let draft = Draft::read(&event, PARTITIONS, BATCH_BYTES_MAX, committed);
                        black_box(texts.headers(&draft, "nexus.signals", 1, ids.len() as u64 + 1));
                        assert!(!draft.is_poison());
                        ids.push(draft.id);
                    }
                }
                _ => {}
            }
        }
        ids
    }
}

pub fn bench(c: &mut Criterion) {
    let signal = signal(7);
    let content = created(&signal, &signal.render()).encode();
    let mut texts = Texts::default();
    let mut record = |content: &[u8]| {
        let draft = Draft::read(content, PARTITIONS, BATCH_BYTES_MAX, Timestamp(0));
        let headers = texts.headers(&draft, "nexus.signals", 1, 7);
        (draft.id, headers)
    };
    let (id, headers) = record(&content);
    assert_eq!((id, rdkafka::message::Headers::count(&headers)), (signal.id, 8));
    c.bench_function("relay/message_to_record", |b| b.iter(|| record(black_box(&content))));

    let reader = OnceCell::new();
    let mut group = c.benchmark_group("relay");
    group.throughput(Throughput::Elements(BATCHES as u64 * BATCH));
    group.bench_function("frames_to_records", |b| {
        let reader = reader.get_or_init(start);
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let begun = Instant::now();
                reader.again.send(()).expect("the sending thread");
                let ids = reader.runtime.block_on(reader.read());
                took += begun.elapsed();
                assert!(ids == reader.ids, "every event once, in commit order");
            }
            took
        });
    });
    group.finish();
}
