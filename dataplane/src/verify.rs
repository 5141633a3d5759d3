//! Whether the log still is the one that a checkpoint was made from: the record there, read back.

use contract::partition::Partition;
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use crate::decode::RecordHeaders;
use crate::gather::Hole;
use crate::projector::Point;
use crate::view::header::Header;
use crate::view::now_ms;

/// What a record at or after the checkpoint's offset proves.
pub enum Verdict<'m> {
    /// Nothing yet: it repeats an earlier number, as a relay does after an aborted transaction.
    Older,
    /// It is the record of the checkpoint; the next one follows.
    Proven,
    /// Compaction took that record away; this one follows.
    ProvenBefore(BorrowedMessage<'m>),
    /// Another log: the generation is void.
    Void(String),
}

/// Judges the record that the log gives when it is read from `header`'s offset on.
pub fn judge<'m>(
    header: &Header,
    message: BorrowedMessage<'m>,
    partition: Partition,
    compaction_lag_ms: Option<i64>,
) -> Verdict<'m> {
    let number = RecordHeaders::of(&message).id.filter(|number| number.partition == partition.index);
    let found = number.map(|number| Point { epoch: number.epoch, seq: number.seq });
    let at = header.point();
    let (offset, expected) = (message.offset(), header.offset);
    match found {
        Some(found) if found == at => Verdict::Proven,
        _ if offset == expected => {
            let found = found.map_or("no number".to_owned(), |found| format!("{}-{}", found.epoch, found.seq));
            Verdict::Void(format!("at offset {offset} lies {found}, the checkpoint is {}-{}", at.epoch, at.seq))
        }
        Some(found) if found > at => {
            let hole = Hole { after: at, before: found, before_ms: message.timestamp().to_millis() };
            if compaction_lag_ms.is_none_or(|lag_ms| hole.is_lawful(lag_ms, now_ms())) {
                Verdict::ProvenBefore(message)
            } else {
                Verdict::Void(format!(
                    "the record at offset {expected} is gone, and the next one is too young for that"
                ))
            }
        }
        _ => Verdict::Older,
    }
}
