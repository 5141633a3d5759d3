//! Reads by id, and what one of them can prove alone.

use super::{Observer, Read, Reading};
use crate::client::{Completion, Ready};
use crate::document::{self, RunTag, format_uuid};
use crate::journal::{Breach, Message, ReadRecord};
use crate::probe::deleted_version;
use crate::schedule::GRACE;

impl Observer {
    /// Sends the reads that are due; when the next one is.
    pub(super) fn send_reads(&mut self) -> Option<u64> {
        loop {
            let now = self.clock.now();
            let reads = self.reads.as_mut()?;
            let intended = reads.schedule.peek()?;
            if intended > now {
                return Some(intended);
            }
            if self.known.is_empty() {
                // Nothing to read yet; look again at the next housekeeping.
                return None;
            }
            let count = self.pools.len();
            let offset = (0..count).find(|i| self.pools[(self.next_pool + i) % count].has_idle())?;
            let index = (self.next_pool + offset) % count;
            self.next_pool = index + 1;
            let measured = intended >= reads.measure_from;
            reads.schedule.advance();
            let readable = self.known.nth(self.random.below(self.known.len()))?;
            let (id, floor) = (readable.id.into(), readable.known);
            let read = Read { id, intended, sent: now, measured, floor };
            let api_key = &self.settings.api_key;
            let view = &self.settings.views[index];
            self.pools[index].send(&self.poller, read, now + self.settings.timeout, |out| {
                out.extend_from_slice(b"GET ");
                out.extend_from_slice(view.prefix.as_bytes());
                out.extend_from_slice(b"/v1/signals/");
                out.extend_from_slice(&format_uuid(id));
                out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
                out.extend_from_slice(view.authority.as_bytes());
                out.extend_from_slice(b"\r\nAuthorization: Bearer ");
                out.extend_from_slice(api_key.as_bytes());
                out.extend_from_slice(b"\r\n\r\n");
            });
        }
    }

    /// What the view servers have kept waiting past the end of the schedule is not sent any more; says when no read is
    /// left to wait for.
    pub(super) fn end_reads(&mut self, now: u64) {
        let over = |reads: &Reading| now >= reads.schedule.end().saturating_add(GRACE);
        if self.reads.as_ref().is_some_and(over) {
            self.leave_unsent(now);
        }
        let sent = |reads: &Reading| reads.schedule.peek().is_none();
        if self.reads.as_ref().is_some_and(sent) && self.pools.iter().all(|pool| pool.busy() == 0) {
            self.reads = None;
            self.report();
            self.reporter.send(Message::ReadsIdle);
        }
    }

    /// Ends the reads now, with those that wait for their answers.
    pub(super) fn give_up_reads(&mut self, now: u64) {
        self.leave_unsent(now);
        for index in 0..self.pools.len() {
            while let Some(unanswered) = self.pools[index].expired(u64::MAX) {
                self.finish_read(index, unanswered, now);
            }
        }
    }

    fn leave_unsent(&mut self, now: u64) {
        let Some(reads) = &mut self.reads else { return };
        let waits = reads.schedule.give_up(now, reads.measure_from);
        if !waits.is_empty() {
            self.reporter.send(Message::ReadsUnsent(waits));
        }
    }

    pub(super) fn on_read(&mut self, event: Ready) {
        let now = self.clock.now();
        let index = (event.token >> 32) as usize;
        let Some(pool) = self.pools.get_mut(index) else {
            return;
        };
        if let Some(completion) = pool.on_ready(&self.poller, event, now) {
            self.finish_read(index, completion, now);
        }
    }

    pub(super) fn finish_read(&mut self, index: usize, completion: Completion<Read>, now: u64) {
        let Completion { slot, tag: read, result } = completion;
        let pool = &mut self.pools[index];
        let mut breach = None;
        let status = match result {
            Ok(head) => {
                breach = check_read(&read, head.status, head.version, pool.body(slot), &self.settings.run);
                head.status
            }
            Err(_) => 0,
        };
        pool.release(slot, now);
        if let Some(breach) = breach {
            self.reporter.send(Message::Breach(breach));
        }
        self.records.push(ReadRecord {
            intended: read.intended,
            sent: read.sent,
            answered: now,
            status,
            measured: read.measured,
        });
    }
}

/// What a read by id breaks, given what was visible before it was sent.
fn check_read(read: &Read, status: u16, etag: Option<u32>, body: &[u8], run: &RunTag) -> Option<Breach> {
    let entity = document::uuid_text(read.id);
    let floor = read.floor;
    match status {
        200 if floor.deleted => {
            Some(Breach::Resurrected(format!("{entity}: read after version {} deleted it", floor.version)))
        }
        200 => match document::parse(body, run) {
            Some(document) if document.id == read.id && etag == Some(document.version) => {
                (document.version < floor.version).then(|| {
                    Breach::Regressed(format!(
                        "{entity}: a read showed version {} after version {} had been seen",
                        document.version, floor.version
                    ))
                })
            }
            _ => Some(Breach::Phantom(format!("{entity}: the read's body, id or ETag is another's"))),
        },
        404 if floor.deleted => {
            let gone = deleted_version(body);
            (gone != Some(floor.version)).then(|| {
                let named = gone.map_or("none".to_owned(), |version| format!("version {version}"));
                Breach::Regressed(format!(
                    "{entity}: a read named {named} as its deletion after that at version {} had been seen",
                    floor.version
                ))
            })
        }
        404 if floor.version > 0 => {
            let gone = deleted_version(body).unwrap_or(0);
            (gone <= floor.version).then(|| {
                Breach::Regressed(format!(
                    "{entity}: a read found nothing after version {} had been seen",
                    floor.version
                ))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;
    use crate::client::Endpoint;
    use crate::clock::{Clock, SECOND};
    use crate::journal::{Reporter, Shared};
    use crate::observer::{Known, ObserverSettings, ReadOrder, Readable};
    use crate::priority::Priority;
    use crate::schedule::{Arrivals, Schedule};

    const RUN: &RunTag = b"00c0ffee";
    const ID: &str = "01912f5e-0b7c-7cc3-98c4-dc0c0c07398f";

    fn check(floor: Known, status: u16, body: &str) -> Option<Breach> {
        let id = document::parse_uuid(ID.as_bytes()).unwrap();
        let read = Read { id, intended: 0, sent: 0, measured: true, floor };
        let etag = document::parse(body.as_bytes(), RUN).map(|document| document.version);
        check_read(&read, status, etag, body.as_bytes(), RUN)
    }

    #[test]
    fn what_may_be_read_takes_under_40_bytes_each() {
        let mut known = crate::keys::Keyed::default();
        for id in 0..100_000_u32 {
            let at = Known { version: 1, deleted: false };
            known.put(crate::observer::Readable { id: u128::from(id).into(), known: at });
        }
        assert!(known.heap_bytes() <= 100_000 * 40, "{}", known.heap_bytes());
    }

    #[test]
    fn reads_that_were_not_sent_or_not_answered_count_at_their_wait() {
        // A server that takes connections, and never answers.
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let view = Endpoint::parse(&format!("http://{}", server.local_addr().unwrap())).unwrap();
        let settings = ObserverSettings {
            views: vec![view],
            api_key: "nxs_k".to_owned(),
            read_connections: 1,
            timeout: 600 * SECOND,
            run: *RUN,
            priority: Priority::None,
            reads: true,
            seed: 1,
        };
        let (clock, shared) = (Clock::start(), Arc::new(Shared::default()));
        let ((sender, heard), (orders, ordered)) = (sync_channel(64), sync_channel(2));
        let reporter = Reporter::new(sender, 64, Arc::clone(&shared));
        let mut observer = Observer::new(clock, settings, Arc::clone(&shared), reporter, ordered).unwrap();
        observer.known.put(Readable { id: 1_u128.into(), known: Known { version: 1, deleted: false } });
        let observing = std::thread::spawn(move || observer.run());
        let start = clock.now();
        let schedule = Schedule::new(Arrivals::Constant, 100.0, start, start + SECOND / 5, 1);
        orders.send(ReadOrder::Follow { schedule, measure_from: start }).unwrap();
        let (mut unsent, mut unanswered) = (Vec::new(), Vec::new());
        loop {
            match heard.recv_timeout(Duration::from_secs(10)).expect("all reads, and that there are no more") {
                Message::ReadsUnsent(waits) => {
                    unsent.extend(waits);
                    orders.send(ReadOrder::GiveUp).unwrap();
                }
                Message::Reads(records) => unanswered.extend(records),
                Message::ReadsIdle => break,
                _ => {}
            }
        }
        shared.stop.store(true, Ordering::Relaxed);
        observing.join().unwrap();
        // One connection, and so at most one read in flight.
        assert!(unanswered.len() <= 1 && unsent.len() + unanswered.len() == 20, "{unsent:?} {unanswered:?}");
        assert!(unsent.iter().all(|&waited| waited >= GRACE), "{unsent:?}");
        let waited = |read: &ReadRecord| read.measured && read.status == 0 && read.answered >= read.intended + GRACE;
        assert!(unanswered.iter().all(waited), "{unanswered:?}");
    }

    #[test]
    fn reads_that_began_later_may_not_show_less() {
        let body = format!(r#"{{"id":"{ID}","title":"lg-00c0ffee-1","version":3}}"#);
        let at = |version, deleted| Known { version, deleted };
        assert_eq!(check(at(3, false), 200, &body), None);
        assert_eq!(check(at(0, false), 404, "{}"), None);
        assert!(matches!(check(at(4, false), 200, &body), Some(Breach::Regressed(_))));
        assert!(matches!(check(at(4, true), 200, &body), Some(Breach::Resurrected(_))));
        assert!(matches!(check(at(1, false), 404, "{}"), Some(Breach::Regressed(_))));
        assert_eq!(check(at(1, false), 404, r#"{"deleted_version":2}"#), None);
        assert!(matches!(check(at(1, false), 200, "{}"), Some(Breach::Phantom(_))));
        assert_eq!(check(at(3, true), 404, r#"{"deleted_version":3}"#), None);
        assert!(matches!(check(at(3, true), 404, r#"{"deleted_version":2}"#), Some(Breach::Regressed(_))));
        assert!(matches!(check(at(3, true), 404, "{}"), Some(Breach::Regressed(_))), "the tombstone outlives the run");
    }
}
