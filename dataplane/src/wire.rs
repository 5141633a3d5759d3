//! A connection to Redis for reads: commands go out and answers come in as bytes, and nothing is copied or
//! allocated for a value that nobody keeps.
//!
//! *Input*: [`Commands`] of any number of askers. *Output*: their answers. *Bound*: [`ASKS`] of them wait to be
//! sent.
//! Those whose answers are out are bounded by who asks (a round a reader, `LISTS_MAX` lists) and by their patience. *On shutdown*: ends when the last handle is gone.
//!
//! What waits is sent with one write. The protocol is RESP2 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//! Like every connection here it never connects again by itself, and asks for the server's run id first.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// Asks that may wait to be sent.
const ASKS: usize = 512;
/// Asks that go out with one write.
const TURN: usize = 64;
/// Free space that a read from the socket finds.
const READ_BYTES: usize = 32 * 1024;

/// Commands to send together.
#[derive(Debug, Default)]
pub struct Commands {
    bytes: Vec<u8>,
    replies: usize,
}

impl Commands {
    /// Begins a command with so many arguments, its name included; they follow by [`Commands::arg`].
    pub fn command(&mut self, arguments: usize, name: &str) -> &mut Self {
        self.replies += 1;
        push_number(&mut self.bytes, b'*', arguments);
        self.arg(name.as_bytes())
    }

    /// The next argument of the command that was begun last.
    pub fn arg(&mut self, argument: &[u8]) -> &mut Self {
        self.joined(argument, &[])
    }

    /// The same, of an argument in two pieces.
    pub fn joined(&mut self, first: &[u8], second: &[u8]) -> &mut Self {
        push_number(&mut self.bytes, b'$', first.len() + second.len());
        self.bytes.extend_from_slice(first);
        self.bytes.extend_from_slice(second);
        self.bytes.extend_from_slice(b"\r\n");
        self
    }
}

fn push_number(out: &mut Vec<u8>, kind: u8, mut number: usize) {
    // As many digits as a usize has at the most, and the line's end.
    let mut line = [0; 23];
    let mut at = line.len() - 2;
    line[at..].copy_from_slice(b"\r\n");
    loop {
        at -= 1;
        line[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    at -= 1;
    line[at] = kind;
    out.extend_from_slice(&line[at..]);
}

/// The answers to [`Commands`], value by value, in the order in which Redis wrote them.
#[derive(Debug)]
pub struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// The values in `answer`.
    #[must_use]
    pub fn of(answer: &'a Bytes) -> Self {
        Self(answer)
    }

    /// How many values an array has; they follow. `None` for a null array: a transaction that was given up.
    ///
    /// # Errors
    /// Something else stands there, or Redis refused the command.
    pub fn array(&mut self) -> RedisResult<Option<usize>> {
        self.length(b'*')
    }

    /// A string, or `None` for a key that is not there.
    ///
    /// # Errors
    /// Something else stands there, or Redis refused the command.
    pub fn string(&mut self) -> RedisResult<Option<&'a [u8]>> {
        let Some(length) = self.length(b'$')? else { return Ok(None) };
        let (string, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest.get(2..).ok_or_else(malformed)?;
        Ok(Some(string))
    }

    /// Passes over an answer of one line, such as `OK` or `QUEUED`.
    ///
    /// # Errors
    /// Something else stands there, or Redis refused the command.
    pub fn done(&mut self) -> RedisResult<()> {
        match self.line()? {
            (b'+' | b':', _) => Ok(()),
            (kind, line) => Err(other(kind, line)),
        }
    }

    fn length(&mut self, expected: u8) -> RedisResult<Option<usize>> {
        match self.line()? {
            (kind, line) if kind == expected => parse_length(line).map_err(RedisError::from),
            (kind, line) => Err(other(kind, line)),
        }
    }

    fn line(&mut self) -> RedisResult<(u8, &'a [u8])> {
        let (kind, line, length) = line(self.0)?.ok_or_else(malformed)?;
        self.0 = &self.0[length..];
        Ok((kind, line))
    }
}

/// The run id in what `INFO server` says.
pub(crate) fn run_id(server: &str) -> Option<&str> {
    let run_id = server.lines().find_map(|line| line.strip_prefix("run_id:")).map(str::trim);
    run_id.filter(|run_id| !run_id.is_empty())
}

/// The first line: its kind, what it says, and its length with its end; `None` while it is not whole.
fn line(bytes: &[u8]) -> io::Result<Option<(u8, &[u8], usize)>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\r') else { return Ok(None) };
    match (bytes.get(end + 1), bytes.split_first()) {
        (None, _) => Ok(None),
        (Some(b'\n'), Some((kind, rest))) if end > 0 => Ok(Some((*kind, &rest[..end - 1], end + 2))),
        _ => Err(garbled()),
    }
}

/// A length; `None` for -1, a null.
fn parse_length(text: &[u8]) -> io::Result<Option<usize>> {
    if text == b"-1" {
        return Ok(None);
    }
    let digit = |so_far: usize, byte: &u8| {
        let digit = usize::from(byte.wrapping_sub(b'0'));
        if digit < 10 { so_far.checked_mul(10)?.checked_add(digit) } else { None }
    };
    let length = if text.is_empty() { None } else { text.iter().try_fold(0, digit) };
    length.map(Some).ok_or_else(garbled)
}

/// Where the answer that begins at `begin` ends; `None` while it is not whole.
fn end_of_reply(bytes: &[u8], begin: usize) -> io::Result<Option<usize>> {
    let (mut at, mut values) = (begin, 1_usize);
    while values > 0 {
        values -= 1;
        let Some((kind, text, length)) = line(bytes.get(at..).unwrap_or_default())? else { return Ok(None) };
        at += length;
        match kind {
            b'$' => at = at.saturating_add(parse_length(text)?.map_or(0, |length| length.saturating_add(2))),
            b'*' => values = values.saturating_add(parse_length(text)?.unwrap_or(0)),
            b'+' | b'-' | b':' => {}
            _ => return Err(garbled()),
        }
    }
    Ok((at <= bytes.len()).then_some(at))
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is not how Redis answers")
}

fn malformed() -> RedisError {
    garbled().into()
}

/// The error in an answer of another kind than its command's.
fn other(kind: u8, line: &[u8]) -> RedisError {
    let text = String::from_utf8_lossy(line).into_owned();
    if kind == b'-' {
        RedisError::from((ErrorKind::Extension, "Redis refused a command", text))
    } else {
        RedisError::from((ErrorKind::UnexpectedReturnType, "an answer of another shape than its command's", text))
    }
}

#[derive(Debug)]
struct Ask {
    commands: Commands,
    answer: oneshot::Sender<Bytes>,
}

/// Where commands are handed in. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Wire {
    asks: mpsc::Sender<Ask>,
    patience: Option<Duration>,
}

impl Wire {
    /// Connects as `info` says, and returns the server's run id too. An answer that takes longer than `patience`
    /// counts as the connection's loss.
    ///
    /// # Errors
    /// Redis is away, refuses, or says no run id.
    pub async fn connect(info: &ConnectionInfo, patience: Option<Duration>) -> RedisResult<(Self, Arc<str>)> {
        let (asks, queue) = mpsc::channel(ASKS);
        match info.addr() {
            ConnectionAddr::Unix(path) => {
                tokio::spawn(run(UnixStream::connect(path).await?, queue));
            }
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                tokio::spawn(run(stream, queue));
            }
            _ => return Err(RedisError::from((ErrorKind::InvalidClientConfig, "this address of Redis is not known"))),
        }
        let wire = Self { asks, patience };
        let run_id = wire.greet(info).await?;
        Ok((wire, run_id))
    }

    async fn greet(&self, info: &ConnectionInfo) -> RedisResult<Arc<str>> {
        let settings = info.redis_settings();
        let mut commands = Commands::default();
        if let Some(password) = settings.password() {
            let name = settings.username();
            commands.command(2 + usize::from(name.is_some()), "AUTH");
            for argument in name.into_iter().chain([password]) {
                commands.arg(argument.as_bytes());
            }
        }
        if settings.db() != 0 {
            commands.command(2, "SELECT").arg(settings.db().to_string().as_bytes());
        }
        let before = commands.replies;
        commands.command(2, "INFO").arg(b"server");
        let answer = self.ask(commands).await?;
        let mut values = Values::of(&answer);
        for _ in 0..before {
            values.done()?;
        }
        let server = String::from_utf8_lossy(values.string()?.unwrap_or_default());
        run_id(&server)
            .map(Arc::from)
            .ok_or_else(|| RedisError::from((ErrorKind::UnexpectedReturnType, "INFO names no run_id")))
    }

    /// The answers to `commands`, for [`Values`].
    ///
    /// # Errors
    /// The connection is lost, or was given up.
    ///
    /// # Cancel safety
    /// Dropping the future drops the answer; the commands may have been sent.
    pub async fn ask(&self, commands: Commands) -> RedisResult<Bytes> {
        let lost = || RedisError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        let answered = async {
            let (sender, answer) = oneshot::channel();
            self.asks.send(Ask { commands, answer: sender }).await.map_err(|_| lost())?;
            answer.await.map_err(|_| lost())
        };
        match self.patience {
            None => answered.await,
            Some(patience) => tokio::time::timeout(patience, answered)
                .await
                .unwrap_or_else(|_| Err(RedisError::from(io::Error::from(io::ErrorKind::TimedOut)))),
        }
    }
}

/// Carries asks and answers until the connection or the last handle is gone. Who still waits then hears of a loss.
async fn run(mut stream: impl AsyncRead + AsyncWrite + Unpin, mut asks: mpsc::Receiver<Ask>) {
    let mut waiting: VecDeque<(usize, oneshot::Sender<Bytes>)> = VecDeque::new();
    let (mut turn, mut output, mut input) = (Vec::with_capacity(TURN), Vec::new(), BytesMut::new());
    loop {
        if input.capacity() - input.len() < READ_BYTES / 4 {
            input.reserve(READ_BYTES);
        }
        let outcome = tokio::select! {
            biased;
            read = stream.read_buf(&mut input) => match read {
                Ok(0) => return,
                read => read.and_then(|_| hand_out(&mut input, &mut waiting)),
            },
            taken = asks.recv_many(&mut turn, TURN) => {
                if taken == 0 {
                    return;
                }
                output.clear();
                for Ask { commands, answer } in turn.drain(..) {
                    output.extend_from_slice(&commands.bytes);
                    waiting.push_back((commands.replies, answer));
                }
                // Redis reads on whatever it has to answer: this waits for nothing of ours.
                stream.write_all(&output).await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection for reads ends");
            return;
        }
    }
}

/// Gives the answers that are whole to who waits for them.
fn hand_out(input: &mut BytesMut, waiting: &mut VecDeque<(usize, oneshot::Sender<Bytes>)>) -> io::Result<()> {
    while let Some((replies, _)) = waiting.front() {
        let mut end = 0;
        for _ in 0..*replies {
            match end_of_reply(input, end)? {
                Some(next) => end = next,
                None => return Ok(()),
            }
        }
        if let Some((_, answer)) = waiting.pop_front() {
            // Who asked may have gone away.
            let _ = answer.send(input.split_to(end).freeze());
        }
    }
    if input.has_remaining() { Err(garbled()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_spelled_as_the_protocol_says() {
        let mut commands = Commands::default();
        commands.command(2, "GET").arg(b"a");
        commands.command(3, "MGET").joined(b"0123456", b"789").arg(b"");
        let expected = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n*3\r\n$4\r\nMGET\r\n$10\r\n0123456789\r\n$0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&commands.bytes), expected);
        assert_eq!(commands.replies, 2);
        let mut number = Vec::new();
        push_number(&mut number, b'$', usize::MAX);
        assert_eq!(number, format!("${}\r\n", usize::MAX).as_bytes());
    }

    #[test]
    fn answers_are_handed_out_whole_however_they_arrive() {
        let answers: [&[u8]; 3] =
            [b"*3\r\n$2\r\nab\r\n$-1\r\n*1\r\n:7\r\n+OK\r\n", b"$4\r\n\r\n\r\n\r\n", b"-ERR no\r\n"];
        let all = answers.concat();
        for step in 1..=all.len() {
            let (mut waiting, mut received) = (VecDeque::new(), Vec::new());
            for replies in [2, 1, 1] {
                let (sender, receiver) = oneshot::channel();
                waiting.push_back((replies, sender));
                received.push(receiver);
            }
            let mut input = BytesMut::new();
            for piece in all.chunks(step) {
                input.extend_from_slice(piece);
                hand_out(&mut input, &mut waiting).expect("well-formed");
            }
            for (mut receiver, expected) in received.into_iter().zip(answers) {
                assert_eq!(receiver.try_recv().expect("handed out"), expected, "in steps of {step}");
            }
        }
    }

    #[test]
    fn values_come_out_as_they_went_in() {
        let answer = Bytes::from("+QUEUED\r\n*4\r\n$3\r\na\r\n\r\n$-1\r\n$0\r\n\r\n*0\r\n*-1\r\n-ERR no\r\n:1\r\n");
        let mut values = Values::of(&answer);
        values.done().expect("a line");
        assert_eq!(values.array().expect("an array"), Some(4));
        assert_eq!(values.string().expect("a string"), Some(&b"a\r\n"[..]));
        assert_eq!(values.string().expect("a null"), None);
        assert_eq!(values.string().expect("a string"), Some(&b""[..]));
        assert_eq!(values.array().expect("an array"), Some(0));
        assert_eq!(values.array().expect("a null array"), None);
        assert!(!values.string().expect_err("refused").is_io_error());
        assert!(!values.string().expect_err("a number").is_io_error());
        assert!(values.string().expect_err("nothing").is_io_error());
    }

    #[test]
    fn what_is_no_answer_ends_the_connection() {
        for bad in ["x1\r\n", "$x\r\n", "$-2\r\n", "\r\n", "+a\rb", "*99999999999999999999\r\n", "$\r\n"] {
            let (sender, _answer) = oneshot::channel();
            let mut waiting = VecDeque::from([(1, sender)]);
            assert!(hand_out(&mut BytesMut::from(bad), &mut waiting).is_err(), "{bad:?}");
        }
        assert!(hand_out(&mut BytesMut::from("+OK\r\n"), &mut VecDeque::new()).is_err(), "nobody asked");
    }
}
