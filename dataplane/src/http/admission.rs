//! Who calls, and what the call has to see before it is answered.

use std::time::Duration;

use contract::partition::Partition;
use contract::problem::{BAD_TOKEN, Problem};
use contract::time::Timestamp;
use contract::token::{Token, TokenError};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use runtime::http::failure::Failure;
use runtime::http::headers::{self, NEXUS_TOKEN, PREFERENCE_APPLIED};
use runtime::sabotage::{self, Sabotage};
use tokio::time::Instant;
use uuid::Uuid;

use super::{DataPlane, unmet_plainly, unreadable};
use crate::auth::{Caller, Presented};
use crate::fetch::{Found, ReadError};
use crate::reader::KeyState;
use crate::token_wait::{Demand, WAIT_DEFAULT_S, WAIT_MAX_S};

/// A call whose key is good.
#[derive(Debug)]
pub(super) struct Admitted {
    /// Who calls.
    pub caller: Caller,
    /// With which key.
    pub presented: Presented,
    /// What was read along with the key.
    pub beside: Option<Result<Found, ReadError>>,
    tokens: Option<Result<Vec<Token>, TokenError>>,
    arrived: Instant,
}

impl DataPlane {
    /// Lets a call in by its key. Reads `beside` in the same round trip, unless tokens come first.
    ///
    /// A call whose tokens name keys waits for these before its key is judged: it may be the very key
    /// that was made, or its identity's role may have been changed.
    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        beside: Option<(Partition, Uuid)>,
    ) -> Result<Admitted, Failure> {
        let presented = Presented::of(headers::bearer(headers)?)?;
        let arrived = Instant::now();
        let tokens = tokens(headers);
        let mut entities = Vec::new();
        if let Some(Ok(tokens)) = &tokens {
            // What is wrong with a token or a header is said only to who has a good key.
            if let Some(demand) = self.demand(tokens)?.ok().and_then(|demand| demand.of_keys())
                && let Ok((wait, _)) = wait(headers)
            {
                // On the heap, as below: every read would carry the wait of those few around.
                match Box::pin(self.tokens.met(&demand, arrived + wait)).await {
                    Ok(()) | Err(crate::token_wait::WaitError::Refused(_)) => {}
                    // Nobody yet: not even whose event is parked may be told.
                    Err(error) => return Err(with_preference(unmet_plainly(error), headers)),
                }
            }
        } else if tokens.is_none() {
            entities.extend(beside);
        }
        let answer = self.reader().read(Some(presented.key), entities).await.map_err(unreadable)?;
        let caller = presented.check(&answer.key.unwrap_or(KeyState::Absent), Timestamp::now())?;
        Ok(Admitted { caller, presented, beside: answer.entities.into_iter().next(), tokens, arrived })
    }

    fn demand(&self, tokens: &[Token]) -> Result<Result<Demand, Problem>, Failure> {
        let now_ms = u64::try_from(Timestamp::now().millis()).unwrap_or(0);
        Ok(Demand::of(tokens, self.partitions()?, now_ms, self.token_lifetime))
    }

    /// Waits for the call's tokens. Returns the value of `Preference-Applied`, where there is one.
    ///
    /// # Errors
    /// 400 for a bad token or `Prefer`, 503 when the view does not show it in time.
    pub(super) async fn settle(
        &self,
        admitted: &Admitted,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Failure> {
        let (wait, applied) = wait(headers)?;
        let Some(tokens) = &admitted.tokens else { return Ok(None) };
        if sabotage::on(Sabotage::IgnoreToken) {
            return Ok(applied);
        }
        let tokens = tokens.as_ref().map_err(|error| Problem::new(&BAD_TOKEN, error.to_string()))?;
        let demand = self.demand(tokens)??;
        match Box::pin(self.tokens.met(&demand, admitted.arrived + wait)).await {
            Ok(()) => Ok(applied),
            Err(error) => Err(with_preference(Box::pin(self.unmet(error)).await, headers)),
        }
    }
}

fn with_preference(failure: Failure, headers: &HeaderMap) -> Failure {
    match wait(headers) {
        Ok((_, Some(applied))) if failure.status() == 503 => failure.with_header(PREFERENCE_APPLIED.clone(), applied),
        _ => failure,
    }
}

/// Names the preference that was honoured.
pub(super) fn mark_preference(headers: &mut HeaderMap, applied: Option<HeaderValue>) {
    if let Some(applied) = applied {
        headers.insert(PREFERENCE_APPLIED.clone(), applied);
    }
}

/// How long to wait for tokens, and what to say of it.
fn wait(headers: &HeaderMap) -> Result<(Duration, Option<HeaderValue>), Problem> {
    let Some(seconds) = headers::prefer_wait(headers)? else {
        return Ok((Duration::from_secs(WAIT_DEFAULT_S), None));
    };
    let seconds = seconds.min(WAIT_MAX_S);
    let applied = HeaderValue::from_str(&format!("wait={seconds}")).ok();
    Ok((Duration::from_secs(seconds), applied))
}

/// The call's tokens, over all lines of the header; `None` without one.
fn tokens(headers: &HeaderMap) -> Option<Result<Vec<Token>, TokenError>> {
    let name: &HeaderName = &NEXUS_TOKEN;
    if !headers.contains_key(name) {
        return None;
    }
    let lines: Result<Vec<&str>, TokenError> =
        headers.get_all(name).iter().map(|line| line.to_str().map_err(|_| TokenError::Malformed)).collect();
    Some(lines.and_then(Token::decode_list))
}
