//! Reads with a token: one that is met already, and one that waits for the projector: from the beginning of the script call
//! that makes it true to the reader's being told.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::signal::{Priority, Signal};
use contract::time::Timestamp;
use contract::token::{Entry, Token};
use criterion::Criterion;
use dataplane::token_wait::Demand;
use tokio::sync::Mutex;

use crate::place::{self, PARTITIONS};
use crate::signals::signal;
use crate::view::{Place, home};
use crate::writer::{EPOCH, Written};

const LIFETIME: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a reader's first look takes: by then it waits.
const SETTLED: Duration = Duration::from_millis(2);

/// A signal that is changed again and again.
struct Changing {
    place: Arc<Place>,
    signal: Signal,
}

fn start(place: Arc<Place>) -> Arc<Mutex<Changing>> {
    // Behind all others of its view, in every list.
    let signal = Signal { priority: Priority::Low, version: 0, ..signal(1_000_000) };
    let mut changing = Changing { place, signal };
    let changing = place::run(async move {
        // Until the feed's reader is there, who waits is woken by its arrival only.
        changing.wait().await;
        changing
    });
    Arc::new(Mutex::new(changing))
}

impl Changing {
    /// What the token of the command that made the present version asks for.
    fn demand(&self) -> Demand {
        let issued_ms = u64::try_from(Timestamp::now().millis()).expect("after 1970");
        let entry = Entry { partition: home(self.signal.id), id: self.signal.id, version: self.signal.version };
        let token = Token { history: 0, epoch: EPOCH, issued_ms, unproven: None, entries: vec![entry] };
        let token = Token::decode(&token.encode()).expect("a token");
        Demand::of(&[token], PARTITIONS, issued_ms, LIFETIME).expect("a demand")
    }

    async fn is_shown(&self) {
        let shown = self.place.document(self.signal.id).await.expect("a document");
        assert_eq!(shown, (self.signal.version, self.signal.render()), "the view shows what the token named");
    }

    async fn met(&mut self) -> Duration {
        let demand = self.demand();
        let begun = Instant::now();
        let met = self.place.tokens.met(&demand, (begun + PATIENCE).into()).await;
        let took = begun.elapsed();
        assert_eq!(met, Ok(()));
        took
    }

    async fn wait(&mut self) -> Duration {
        self.signal.version += 1;
        let (demand, place) = (self.demand(), Arc::clone(&self.place));
        let deadline = (Instant::now() + PATIENCE).into();
        let reader = tokio::spawn(async move {
            let met = place.tokens.met(&demand, deadline).await;
            (met, Instant::now())
        });
        tokio::time::sleep(SETTLED).await;
        assert!(!reader.is_finished(), "met before the view could show it");
        let change = Written::of(&self.signal);
        let mut writer = self.place.writer.lock().await;
        let begun = Instant::now();
        writer.apply(home(change.id), &[change]).await;
        drop(writer);
        let (met, at) = reader.await.expect("the reader");
        assert_eq!(met, Ok(()));
        self.is_shown().await;
        at.saturating_duration_since(begun)
    }
}

/// Runs in the view that the reads were measured in, as `place` gives it.
pub fn bench(c: &mut Criterion, place: impl Fn() -> Arc<Place>) {
    let changing = OnceCell::new();
    let mut group = c.benchmark_group("token");
    group.bench_function("met_at_once", |b| {
        let changing = changing.get_or_init(|| start(place()));
        b.iter_custom(|rounds| {
            let changing = Arc::clone(changing);
            place::run(async move {
                let (mut changing, mut took) = (changing.lock().await, Duration::ZERO);
                for _ in 0..rounds {
                    took += changing.met().await;
                }
                changing.is_shown().await;
                took
            })
        });
    });
    // The pause before each takes longer than what is measured.
    group.measurement_time(Duration::from_millis(300)).warm_up_time(Duration::from_millis(100));
    group.bench_function("wait", |b| {
        let changing = changing.get_or_init(|| start(place()));
        b.iter_custom(|rounds| {
            let changing = Arc::clone(changing);
            place::run(async move {
                let (mut changing, mut took) = (changing.lock().await, Duration::ZERO);
                for _ in 0..rounds {
                    took += changing.wait().await;
                }
                took
            })
        });
    });
    group.finish();
}
