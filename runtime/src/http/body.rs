//! Bodies: what answers are made of, and how a request's is collected.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use contract::problem::{BAD_REQUEST, PAYLOAD_TOO_LARGE, Problem, REQUEST_TIMEOUT};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use super::failure::Failure;
use crate::connection::Streaming;

/// Limit of a body: 1 MiB.
pub const BODY_LIMIT: usize = 1024 * 1024;
/// Limit of the body of a `:batch`: 8 MiB.
pub const BATCH_BODY_LIMIT: usize = 8 * 1024 * 1024;
/// How long a request's body may take as a whole.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// The body of an answer.
#[derive(Debug, Default)]
pub enum Body {
    /// All of it, with a Content-Length.
    Full(Bytes),
    /// Pieces as they come, chunked, until every sender is dropped.
    Stream(Stream),
    /// None.
    #[default]
    Empty,
}

/// Pieces from a bounded channel. When the client is slow the channel fills, and its sender decides;
/// when the client takes nothing for the write timeout, the connection is cut and the receiver dropped.
#[derive(Debug)]
pub struct Stream {
    pieces: mpsc::Receiver<Bytes>,
    clock: Option<Streaming>,
}

impl Stream {
    pub(crate) fn hold(&mut self, clock: Streaming) {
        self.clock = Some(clock);
    }
}

impl Body {
    /// A streamed body and where to send its pieces; at most `capacity` of them wait for the client.
    #[must_use]
    pub fn channel(capacity: usize) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, pieces) = mpsc::channel(capacity);
        (sender, Self::Stream(Stream { pieces, clock: None }))
    }

    /// The length in bytes, where it is known.
    #[must_use]
    pub fn len(&self) -> Option<usize> {
        match self {
            Self::Full(bytes) => Some(bytes.len()),
            Self::Stream(_) => None,
            Self::Empty => Some(0),
        }
    }

    /// Whether it is known to have no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Full(bytes.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Stream(stream) => stream.pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
            Self::Full(_) => match std::mem::take(&mut *self) {
                Self::Full(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, |len| SizeHint::with_exact(len as u64))
    }
}

/// The whole body of a request, at most `limit` bytes, within `timeout`.
///
/// # Errors
/// 413 when it is larger (by its Content-Length, before any of it is read), 408 when it takes longer,
/// 400 when it breaks off. Each closes the connection after the answer: what is left of the body can't
/// be told from the next request.
///
/// # Cancel safety
/// Not cancel safe: what was read is lost.
pub async fn collect<B>(body: B, headers: &HeaderMap, limit: usize, timeout: Duration) -> Result<Bytes, Failure>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    match tokio::time::timeout(timeout, read(body, limit)).await {
        Ok(result) => result,
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", timeout.as_secs_f64());
            Err(Failure::from(Problem::new(&REQUEST_TIMEOUT, detail)).closing())
        }
    }
}

async fn read<B>(mut body: B, limit: usize) -> Result<Bytes, Failure>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    // The usual body arrives with its header and is one frame: it is passed on without a copy.
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Failure::from(Problem::new(&BAD_REQUEST, "the body broke off before its end")).closing());
        };
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
        if so_far + piece.len() > limit {
            return Err(too_large(limit));
        }
        match &mut rest {
            Some(whole) => whole.extend_from_slice(&piece),
            None if first.is_empty() => first = piece,
            None => {
                let hint = usize::try_from(body.size_hint().lower()).unwrap_or(0).min(limit);
                let mut whole = BytesMut::with_capacity(first.len() + piece.len() + hint);
                whole.extend_from_slice(&first);
                whole.extend_from_slice(&piece);
                rest = Some(whole);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

fn too_large(limit: usize) -> Failure {
    Failure::from(Problem::new(&PAYLOAD_TOO_LARGE, format!("the body may have {limit} bytes"))).closing()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        let none = HeaderMap::new();
        let read = collect(Full::new(Bytes::from(vec![7; 10])), &none, 10, BODY_TIMEOUT).await;
        assert_eq!(read.map(|bytes| bytes.len()).ok(), Some(10));
        let read = collect(Full::new(Bytes::from(vec![7; 11])), &none, 10, BODY_TIMEOUT).await;
        assert_eq!(read.err().map(|failure| failure.status().as_u16()), Some(413));
    }

    #[tokio::test]
    async fn pieces_of_a_streamed_body_come_out_as_one() {
        let (sender, body) = Body::channel(4);
        for piece in ["a", "bc", "def"] {
            sender.send(Bytes::from(piece)).await.expect("the body is there");
        }
        drop(sender);
        let read = collect(body, &HeaderMap::new(), 10, BODY_TIMEOUT).await;
        assert_eq!(read.ok(), Some(Bytes::from("abcdef")));
    }

    #[tokio::test]
    async fn a_body_that_stalls_is_408() {
        let (_sender, body) = Body::channel(1);
        let read = collect(body, &HeaderMap::new(), 10, Duration::from_millis(5)).await;
        assert_eq!(read.err().map(|failure| failure.status().as_u16()), Some(408));
    }
}
