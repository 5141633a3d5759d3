//! Reads by id, and what one of them can prove alone.

use super::{Observer, Read};
use crate::client::{Completion, Ready};
use crate::document::{self, RunTag, format_uuid};
use crate::journal::{Breach, Message, ReadRecord};
use crate::probe::deleted_version;

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
    use super::*;
    use crate::observer::Known;

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
