//! Concurrent requests are collected and run as one transaction, with one outcome each.
//!
//! Input: requests from handlers. Output: one answer or refusal to each.
//! Bound: [`BatcherSettings::queue_requests`] and [`BatcherSettings::queue_bytes`]; full is a refusal.
//! On shutdown: takes no more, answers what was taken, then [`Batcher::drain`] returns.
//!
//! No timer holds back what finds the batcher idle: a worker takes what waits and goes; while it commits, the next batch
//! forms, and another worker takes that once it is worth it ([`BatcherSettings::eager_commands`]) or has waited for 10 ms.
//! Behind a batch of several requests the next waits for as many, for some milliseconds at most ([`pace`]). Batches run in
//! tasks of their own, which no client's disconnect can drop: SQL in a dropped future leaves an open transaction behind.

mod metrics;
mod pace;
mod queue;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::metrics::CommandMetrics;
use self::queue::{Queue, Ticket};
use crate::request::{Answer, Refusal, Request};
use crate::store::Store;

/// How much the batcher takes at a time.
#[derive(Debug, Clone)]
pub struct BatcherSettings {
    /// Batches that run at the same time, 1 to 64.
    pub workers: usize,
    /// Commands from which on a batch begins whatever else is under way.
    pub eager_commands: usize,
    /// Commands after which a batch is closed; one request is never split.
    pub batch_commands: usize,
    /// Bytes after which a batch is closed.
    pub batch_bytes: usize,
    /// Most requests that wait.
    pub queue_requests: usize,
    /// Most bytes of requests that wait.
    pub queue_bytes: usize,
}

impl Default for BatcherSettings {
    fn default() -> Self {
        Self {
            workers: 2,
            eager_commands: 32,
            batch_commands: 512,
            batch_bytes: 4 << 20,
            queue_requests: 8192,
            queue_bytes: 64 << 20,
        }
    }
}

/// Takes requests and answers them. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Batcher {
    queue: Arc<Queue>,
    workers: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// Ends the batches that outlive the last deadline.
    abandon: CancellationToken,
}

impl Batcher {
    /// A running batcher over `store`. Must be called within a runtime.
    #[must_use]
    pub fn start(store: Store, settings: BatcherSettings, metrics: CommandMetrics) -> Self {
        let workers = settings.workers.clamp(1, 64);
        let queue = Arc::new(Queue::new(settings, metrics.clone()));
        let abandon = CancellationToken::new();
        let worker = Worker { queue: Arc::clone(&queue), store, metrics, abandon: abandon.clone() };
        let workers = (0..workers).map(|_| tokio::spawn(worker.clone().work())).collect();
        Self { queue, workers: Arc::new(Mutex::new(workers)), abandon }
    }

    /// Where the answer will come. It comes whether or not it is awaited: a receiver that is dropped
    /// takes nothing back.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] when the queue is full, [`Refusal::Unavailable`] during shutdown;
    /// nothing was taken then.
    pub fn submit(&self, request: Request) -> Result<oneshot::Receiver<Result<Answer, Refusal>>, Refusal> {
        self.queue.push(request)
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Takes no more requests and returns once every one taken has its answer: true. Or at `deadline`,
    /// false: those that still waited are refused then, and those that ran have an unknown outcome.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.queue.close();
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async {
            for worker in workers {
                // A worker that panicked has already refused what it held.
                let _ = worker.await;
            }
        };
        let in_time = tokio::time::timeout(deadline, all).await.is_ok();
        self.queue.refuse_all();
        self.abandon.cancel();
        in_time
    }
}

#[derive(Clone)]
struct Worker {
    queue: Arc<Queue>,
    store: Store,
    metrics: CommandMetrics,
    abandon: CancellationToken,
}

impl Worker {
    async fn work(self) {
        while let Some(batch) = self.queue.take().await {
            let began = Instant::now();
            let run = tokio::spawn(self.clone().run(batch));
            if let Err(error) = run.await {
                // Dropping the tickets told every caller that the outcome is unknown.
                tracing::error!(%error, "a batch broke");
            }
            self.queue.over(began.elapsed());
        }
    }

    async fn run(self, batch: Vec<(Request, Ticket)>) {
        let began = Instant::now();
        let (requests, tickets): (Vec<Request>, Vec<Ticket>) = batch.into_iter().unzip();
        let commands: usize = requests.iter().map(|request| request.work.commands()).sum();
        #[allow(clippy::cast_precision_loss)]
        self.metrics.batch_commands.observe(commands as f64);
        let oldest = tickets.iter().map(Ticket::submitted).min().unwrap_or(began);
        let results = tokio::select! {
            results = self.store.execute(&requests, oldest) => results,
            // The session is closed where it stands, perhaps in its COMMIT.
            () = self.abandon.cancelled() => requests.iter().map(|_| Err(Refusal::OutcomeUnknown)).collect(),
        };
        self.metrics.batch_seconds.observe(began.elapsed().as_secs_f64());
        for ((request, ticket), result) in requests.iter().zip(tickets).zip(results) {
            let outcome = self.metrics.outcomes.with_label_values(&[outcome(&result)]);
            outcome.inc_by(request.work.commands() as u64);
            ticket.answer(result);
        }
    }
}

/// The word for it in metrics.
fn outcome(result: &Result<Answer, Refusal>) -> &'static str {
    match result {
        Ok(answer) if answer.replayed => "replayed",
        Ok(answer) if answer.status < 400 => "accepted",
        Ok(_) => "rejected",
        Err(Refusal::Overloaded) => "overloaded",
        Err(Refusal::Unavailable { .. }) => "unavailable",
        Err(Refusal::OutcomeUnknown) => "unknown",
        Err(Refusal::Internal) => "internal",
    }
}
