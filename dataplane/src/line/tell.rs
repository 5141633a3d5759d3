//! What a line tells the status, the metrics and the log.

use super::{Line, Memory, Stop};
use crate::metrics;
use crate::status::{PartitionStatus, State};
use crate::view::header::Header;

impl Line {
    pub(super) fn report(&self, stop: &Stop, memory: &mut Memory) {
        let mut reason = stop.to_string();
        let mut cause = std::error::Error::source(stop);
        while let Some(deeper) = cause {
            let text = deeper.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = deeper.source();
        }
        let state = match stop {
            Stop::View(_) => State::WaitingForRedis,
            Stop::Kafka(_) | Stop::Replaced => State::WaitingForBroker,
            Stop::Asked | Stop::Changed | Stop::Filled | Stop::Void(_) | Stop::Hole(_) => State::Verifying,
        };
        if matches!(stop, Stop::Changed) || memory.failing.as_ref() == Some(&reason) {
            tracing::debug!(partition = %self.partition, reason, "beginning again at the checkpoint");
        } else {
            tracing::warn!(partition = %self.partition, reason, "beginning again at the checkpoint");
        }
        if matches!(stop, Stop::View(_) | Stop::Kafka(_) | Stop::Replaced) {
            memory.failing = Some(reason.clone());
        }
        self.tell(|status| {
            status.state = state;
            status.reason = Some(reason);
        });
        self.sum_up();
    }

    /// Something went right again.
    pub(super) fn well(&self, memory: &mut Memory, header: &Header, state: State) {
        let recovered = memory.failing.take().is_some() || self.status.borrow().redis_error.is_some();
        self.show(header, state, memory);
        if recovered {
            tracing::info!(partition = %self.partition, seq = header.seq, "applying again");
            self.sum_up();
        }
    }

    /// One partition that fails is enough for the whole to say so.
    pub(super) fn sum_up(&self) {
        self.status.send_modify(|status| {
            let mut failing = status.partitions.values().filter(|at| at.state == State::WaitingForRedis);
            status.redis_error = failing.find_map(|at| at.reason.clone());
        });
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut PartitionStatus)) {
        self.status.send_modify(|status| change(status.partitions.entry(self.partition).or_default()));
    }

    pub(super) fn show(&self, header: &Header, state: State, memory: &Memory) {
        let label = self.partition.to_string();
        metrics::READY.with_label_values(&[&label]).set(i64::from(header.ready));
        self.tell(|status| {
            let other_epoch = status.epoch != header.epoch;
            if memory.failing.is_none() {
                status.state = state;
            }
            status.generation = header.generation;
            (status.epoch, status.seq, status.offset) = (header.epoch, header.seq, header.offset);
            status.ready = header.ready;
            status.seq_end = if other_epoch { header.seq } else { status.seq_end.max(header.seq) };
            status.lag = status.seq_end - header.seq;
            if status.state == State::Serving {
                status.reason = None;
            }
            metrics::LAG.with_label_values(&[&label]).set(i64::try_from(status.lag).unwrap_or(i64::MAX));
        });
    }
}
