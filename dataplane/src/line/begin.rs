//! How a line begins: which generation it works on, and when that is given up for a new one.

use std::sync::Arc;

use contract::position::Position;

use super::{Line, Memory, Stop};
use crate::generation::{blank, needs_end, next_number};
use crate::metrics;
use crate::status::State;
use crate::view::header::Header;
use crate::view::{Outcome, View, now_ms};
use crate::watermarks::Newest;

impl Line {
    /// The relay's newest position, once the topic of positions has been read to its end.
    pub(super) async fn position(&mut self) -> Result<Arc<Position>, Stop> {
        let known = |newest: &Newest| newest.complete && newest.position.is_some();
        if !known(&self.newest.borrow()) {
            self.tell(|status| {
                status.state = State::WaitingForBroker;
                status.reason = Some("the relay has written no position yet".to_owned());
            });
        }
        let found = tokio::select! {
            () = self.stop.cancelled() => return Err(Stop::Asked),
            found = self.newest.wait_for(known) => found,
        };
        // The sender lives as long as the projector.
        found.ok().and_then(|newest| newest.position.clone()).ok_or(Stop::Asked)
    }

    /// A fresh connection and the header that this server run may be served with.
    pub(super) async fn begin(&mut self, memory: &mut Memory) -> Result<(View, Header), Stop> {
        let link = self.redis.connect().await?;
        let mut view = View::open(link, self.keys.clone()).await?;
        let (stored, header) = view.header(self.partition).await?;
        let Some(header) = header else {
            let header = self.fill_in_place(&mut view, &stored, 0, memory).await?;
            return Ok((view, header));
        };
        if memory.filling != Some(header.generation) || header.ready {
            memory.filling = None;
        }
        if header.ready {
            memory.ended = Some(header.generation);
        }
        if !header.ready && memory.filling.is_none() && memory.ended != Some(header.generation) {
            // Somebody's fill: whether it had passed the end of the opening is not written anywhere.
            let position = self.position().await?;
            if position.epoch == header.base && needs_end(&position) {
                let header = self.fill_in_place(&mut view, &stored, header.generation, memory).await?;
                return Ok((view, header));
            }
            memory.ended = Some(header.generation);
        }
        if header.run_id != view.run_id() {
            // The server may have forgotten what it once acknowledged: nothing is served until everything that is in
            // the log now is applied again.
            let new = Header { run_id: view.run_id().to_owned(), ready: false, ..header };
            return match view.swap(self.partition, &stored, &new).await? {
                Outcome::Applied(header) => Ok((view, header)),
                _ => Err(Stop::Changed),
            };
        }
        Ok((view, header))
    }

    /// Begins a new generation where nothing can be served: `stored` is what stands in the header's place.
    pub(super) async fn fill_in_place(
        &mut self,
        view: &mut View,
        stored: &[u8],
        earlier: u64,
        memory: &mut Memory,
    ) -> Result<Header, Stop> {
        let position = self.position().await?;
        let new = blank(next_number(earlier), &position, view.run_id(), self.partitions);
        let mut register = redis::cmd("HSET");
        register.arg(self.keys.generations(self.partition)).arg(new.generation).arg(0);
        if earlier > 0 {
            register.arg(earlier).arg(now_ms());
        }
        let () = view.link().query(&register).await?;
        match view.swap(self.partition, stored, &new).await? {
            Outcome::Applied(header) => {
                metrics::FILLS.inc();
                tracing::info!(partition = %self.partition, generation = header.generation, epoch = header.epoch, "filling");
                memory.filling = Some(header.generation);
                memory.ended = (!needs_end(&position)).then_some(header.generation);
                Ok(header)
            }
            _ => Err(Stop::Changed),
        }
    }

    /// Gives the generation up: 503 until a new one is filled.
    pub(super) async fn void(
        &mut self,
        view: &mut View,
        header: &Header,
        memory: &mut Memory,
        why: String,
    ) -> Result<std::convert::Infallible, Stop> {
        let (stored, now) = view.header(self.partition).await?;
        if now.as_ref().is_some_and(|now| now.generation != header.generation) {
            return Err(Stop::Changed);
        }
        tracing::error!(partition = %self.partition, generation = header.generation, why, "generation given up");
        self.fill_in_place(view, &stored, header.generation, memory).await?;
        Err(Stop::Void(why))
    }
}
