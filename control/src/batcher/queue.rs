//! The bounded queue in front of the workers, and who holds which idempotency key.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::problem::{KEY_IN_USE, Problem};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::pace::Pace;
use super::{BatcherSettings, CommandMetrics};
use crate::request::{Answer, Refusal, Request};

type Reply = oneshot::Sender<Result<Answer, Refusal>>;
type Key = (Uuid, String);

/// A request's place in line: answers it exactly once, whatever happens to its batch.
#[derive(Debug)]
pub(super) struct Ticket {
    reply: Option<Reply>,
    submitted: Instant,
    key: Option<KeyHold>,
}

impl Ticket {
    pub(super) fn submitted(&self) -> Instant {
        self.submitted
    }

    pub(super) fn answer(mut self, result: Result<Answer, Refusal>) {
        self.send(result);
    }

    fn send(&mut self, result: Result<Answer, Refusal>) {
        // Released first: who has the answer may repeat the request at once.
        self.key = None;
        if let Some(reply) = self.reply.take() {
            // The caller may have gone; the command stands all the same.
            let _ = reply.send(result);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.send(Err(Refusal::OutcomeUnknown));
    }
}

/// An idempotency key whose request is running in this process.
#[derive(Debug)]
struct KeyHold {
    held: Arc<Mutex<HashSet<Key>>>,
    key: Key,
}

impl KeyHold {
    fn take(held: &Arc<Mutex<HashSet<Key>>>, key: Key) -> Option<Self> {
        let fresh = lock(held).insert(key.clone());
        fresh.then(|| Self { held: Arc::clone(held), key })
    }
}

impl Drop for KeyHold {
    fn drop(&mut self) {
        lock(&self.held).remove(&self.key);
    }
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<(Request, Ticket)>,
    bytes: usize,
    commands: usize,
    closed: bool,
    pace: Pace,
    /// Until when at most a worker sleeps for the next batch.
    armed: Option<Instant>,
}

/// When the next batch may begin.
enum Due {
    Now,
    At(Instant),
    /// When something arrives, or a batch ends.
    Later,
}

impl Waiting {
    /// Whether somebody has to look who is not looking already.
    fn calls(&self, settings: &BatcherSettings) -> bool {
        match self.due(settings) {
            Due::Now => true,
            Due::At(at) => self.armed.is_none_or(|armed| at < armed),
            Due::Later => false,
        }
    }

    /// Few requests keep the [`Pace`]; many never wait.
    fn due(&self, settings: &BatcherSettings) -> Due {
        if self.requests.is_empty() {
            return Due::Later;
        }
        if self.closed || self.commands >= settings.eager_commands {
            return Due::Now;
        }
        match self.pace.earliest(self.requests.len()) {
            Some(at) if at > Instant::now() => Due::At(at),
            _ => Due::Now,
        }
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    held: Arc<Mutex<HashSet<Key>>>,
    arrival: Notify,
    settings: BatcherSettings,
    metrics: CommandMetrics,
}

impl Queue {
    pub(super) fn new(settings: BatcherSettings, metrics: CommandMetrics) -> Self {
        Self { waiting: Mutex::default(), held: Arc::default(), arrival: Notify::new(), settings, metrics }
    }

    pub(super) fn push(&self, request: Request) -> Result<oneshot::Receiver<Result<Answer, Refusal>>, Refusal> {
        let (reply, receiver) = oneshot::channel();
        let commands = request.work.commands() as u64;
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(Refusal::Unavailable { detail: "this server is shutting down".to_owned() });
        }
        let fits = waiting.requests.len() < self.settings.queue_requests
            && (waiting.requests.is_empty() || waiting.bytes + request.bytes <= self.settings.queue_bytes);
        if !fits {
            self.metrics.outcomes.with_label_values(&["overloaded"]).inc_by(commands);
            return Err(Refusal::Overloaded);
        }
        let mut key = None;
        if let Some(idempotency) = &request.idempotency {
            key = KeyHold::take(&self.held, (request.caller.identity, idempotency.key.clone()));
            if key.is_none() {
                let problem = Problem::new(&KEY_IN_USE, "the first request with this key has no answer yet");
                self.metrics.outcomes.with_label_values(&["rejected"]).inc_by(commands);
                let _ = reply.send(Ok(Answer::rejected(&problem, &request.request_id)));
                return Ok(receiver);
            }
        }
        waiting.bytes += request.bytes;
        waiting.commands += request.work.commands();
        waiting.requests.push_back((request, Ticket { reply: Some(reply), submitted: Instant::now(), key }));
        self.show(&waiting);
        let wakes = waiting.calls(&self.settings);
        drop(waiting);
        if wakes {
            self.arrival.notify_one();
        }
        Ok(receiver)
    }

    /// The next batch, once there is one; `None` when the queue is closed and empty.
    ///
    /// Requests that change identities or keys come alone, all others as many as wait and fit.
    pub(super) async fn take(&self) -> Option<Vec<(Request, Ticket)>> {
        loop {
            // Armed before looking, so that no arrival between is missed.
            let arrival = self.arrival.notified();
            let pause = {
                let mut waiting = lock(&self.waiting);
                match waiting.due(&self.settings) {
                    Due::Now => {
                        let batch = self.cut(&mut waiting);
                        waiting.pace.begin(Instant::now(), batch.len());
                        self.show(&waiting);
                        if waiting.calls(&self.settings) || waiting.closed {
                            self.arrival.notify_one();
                        }
                        return Some(batch);
                    }
                    _ if waiting.closed => {
                        self.arrival.notify_one();
                        return None;
                    }
                    // Who sleeps for longer than that sleeps on: it finds out when it wakes.
                    Due::At(at) if waiting.armed.is_none_or(|armed| at < armed) => {
                        waiting.armed = Some(at);
                        Some(Armed(self, at))
                    }
                    _ => None,
                }
            };
            match pause {
                Some(armed) => tokio::select! {
                    () = arrival => {}
                    () = tokio::time::sleep_until(armed.1.into()) => {}
                },
                None => arrival.await,
            }
        }
    }

    /// A batch that was taken is over and took so long. Who says so looks for the next one.
    pub(super) fn over(&self, took: Duration) {
        lock(&self.waiting).pace.end(took);
    }

    fn cut(&self, waiting: &mut Waiting) -> Vec<(Request, Ticket)> {
        let mut batch: Vec<(Request, Ticket)> = Vec::new();
        let (mut commands, mut bytes) = (0, 0);
        while let Some((request, _)) = waiting.requests.front() {
            let alone = request.work.is_administration();
            let (more, size) = (request.work.commands(), request.bytes);
            let fits = commands + more <= self.settings.batch_commands && bytes + size <= self.settings.batch_bytes;
            if !batch.is_empty() && (alone || !fits) {
                break;
            }
            (commands, bytes) = (commands + more, bytes + size);
            waiting.bytes -= size;
            waiting.commands -= more;
            batch.extend(waiting.requests.pop_front());
            if alone {
                break;
            }
        }
        batch
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.waiting).requests.len()
    }

    pub(super) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.arrival.notify_one();
    }

    /// Refuses whatever still waits: it was not begun, so nothing happened.
    pub(super) fn refuse_all(&self) {
        let left = {
            let mut waiting = lock(&self.waiting);
            (waiting.bytes, waiting.commands) = (0, 0);
            std::mem::take(&mut waiting.requests)
        };
        for (_, ticket) in left {
            ticket.answer(Err(Refusal::Unavailable { detail: "this server is shutting down".to_owned() }));
        }
    }

    fn show(&self, waiting: &Waiting) {
        self.metrics.queue_requests.set(i64::try_from(waiting.requests.len()).unwrap_or(i64::MAX));
        self.metrics.queue_bytes.set(i64::try_from(waiting.bytes).unwrap_or(i64::MAX));
    }
}

/// The worker that sleeps until a batch is due.
struct Armed<'q>(&'q Queue, Instant);

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.0.waiting);
        if waiting.armed == Some(self.1) {
            waiting.armed = None;
        }
    }
}

/// No code panics while it holds one of these locks, and what they guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use contract::identity::Role;
    use contract::problem::VALIDATION;
    use futures_util::FutureExt;
    use prometheus::Registry;

    use super::*;
    use crate::request::{Caller, Work};

    fn queue() -> Queue {
        let metrics = CommandMetrics::register(&Registry::new()).expect("its own registry");
        Queue::new(BatcherSettings::default(), metrics)
    }

    fn push(queue: &Queue, requests: usize) {
        for _ in 0..requests {
            let request = Request {
                caller: Caller { identity: Uuid::nil(), key: Uuid::nil(), role: Role::Admin },
                request_id: String::new(),
                traceparent: String::new(),
                idempotency: None,
                work: Work::Invalid(Problem::new(&VALIDATION, "a test")),
                bytes: 1,
            };
            drop(queue.push(request).expect("room"));
        }
    }

    /// A batch of two is under way.
    async fn two_under_way() -> Queue {
        let queue = queue();
        push(&queue, 2);
        assert_eq!(queue.take().await.expect("open").len(), 2, "what finds it idle goes at once");
        queue
    }

    #[tokio::test]
    async fn one_behind_a_batch_of_two_waits_for_another_and_not_for_ever() {
        // A machine that stops for 3 ms in between lets the rest be over: then once more.
        for _ in 0..50 {
            let queue = two_under_way().await;
            queue.over(Duration::from_millis(1));
            push(&queue, 1);
            let mut next = Box::pin(queue.take());
            if (&mut next).now_or_never().is_some() {
                continue;
            }
            push(&queue, 1);
            let batch = (&mut next).now_or_never().flatten();
            assert_eq!(batch.map(|batch| batch.len()), Some(2), "as many wait: it begins without a timer");
            queue.over(Duration::from_millis(1));
            push(&queue, 1);
            drop(next);
            assert_eq!(queue.take().await.expect("open").len(), 1, "nobody else comes");
            return;
        }
        panic!("a lone request behind a batch of two never waited");
    }

    #[tokio::test]
    async fn a_sleeper_with_a_later_deadline_hides_no_earlier_one() {
        for _ in 0..50 {
            let queue = two_under_way().await;
            push(&queue, 1);
            // Another worker sleeps for as long as the batch under way may take, 10 ms; that one is over soon.
            let mut sleeper = Box::pin(queue.take());
            if (&mut sleeper).now_or_never().is_some() {
                continue;
            }
            queue.over(Duration::from_millis(1));
            let first = tokio::select! {
                biased;
                _ = &mut sleeper => false,
                batch = queue.take() => batch.is_some(),
            };
            if first {
                return;
            }
        }
        panic!("whoever ended a batch never began the next one before the sleeper");
    }
}
