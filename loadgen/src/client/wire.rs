//! HTTP/1.1 on a socket: heads, bodies, chunks.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Endpoint;

/// A head longer than this is an error.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The peer does not speak HTTP/1.1 as we understand it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an HTTP/1.1 answer: {0}")]
pub struct ProtocolError(pub &'static str);

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(usize),
    /// After the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// What the generator wants to know of an answer's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Bytes of the head itself.
    pub length: usize,
    /// Where the body ends.
    pub framing: Framing,
    /// The server closes after this answer.
    pub close: bool,
    /// The version in a strong `ETag`.
    pub version: Option<u32>,
    /// Where the `Nexus-Token` is in the buffer that was parsed.
    pub token: std::ops::Range<usize>,
    /// `Idempotency-Replayed: true`.
    pub replayed: bool,
    /// The body is an event stream.
    pub event_stream: bool,
}

/// Parses the head at the beginning of `buffer`; `None` when it is not complete yet.
///
/// # Errors
/// What is there is no HTTP/1.1 head.
pub fn parse_head(buffer: &[u8]) -> Result<Option<Head>, ProtocolError> {
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
        return if buffer.len() > HEAD_BYTES_MAX { Err(ProtocolError("the head has no end")) } else { Ok(None) };
    };
    let rest = buffer.strip_prefix(b"HTTP/1.").ok_or(ProtocolError("no status line"))?;
    let minor = rest.first().copied().ok_or(ProtocolError("no status line"))?;
    let status = rest
        .get(2..5)
        .filter(|digits| digits.iter().all(u8::is_ascii_digit))
        .map(|digits| digits.iter().fold(0u16, |n, digit| n * 10 + u16::from(digit - b'0')))
        .ok_or(ProtocolError("no status"))?;
    let mut head = Head {
        status,
        length: end + 4,
        framing: if status == 204 || status == 304 { Framing::Length(0) } else { Framing::UntilClose },
        close: minor == b'0',
        version: None,
        token: 0..0,
        replayed: false,
        event_stream: false,
    };
    let mut at = memchr::memmem::find(buffer, b"\r\n").map_or(end, |line| line + 2);
    while at < end {
        let line_end = memchr::memmem::find(&buffer[at..end], b"\r\n").map_or(end, |n| at + n);
        header(&mut head, buffer, at..line_end)?;
        at = line_end + 2;
    }
    Ok(Some(head))
}

fn header(head: &mut Head, buffer: &[u8], line: std::ops::Range<usize>) -> Result<(), ProtocolError> {
    let text = &buffer[line.clone()];
    let colon = memchr::memchr(b':', text).ok_or(ProtocolError("a header without a colon"))?;
    let name = &text[..colon];
    let value = text[colon + 1..].trim_ascii();
    if name.eq_ignore_ascii_case(b"content-length") {
        let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
        if head.framing == Framing::UntilClose {
            head.framing = Framing::Length(length.ok_or(ProtocolError("a bad Content-Length"))?);
        }
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        if value.eq_ignore_ascii_case(b"chunked") && head.framing != Framing::Length(0) {
            head.framing = Framing::Chunked;
        }
    } else if name.eq_ignore_ascii_case(b"connection") {
        head.close = value.eq_ignore_ascii_case(b"close");
    } else if name.eq_ignore_ascii_case(b"etag") {
        head.version = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""))
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|value| value.parse().ok());
    } else if name.eq_ignore_ascii_case(b"nexus-token") {
        let skipped = text[colon + 1..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let start = line.start + colon + 1 + skipped;
        head.token = start..start + value.len();
    } else if name.eq_ignore_ascii_case(b"idempotency-replayed") {
        head.replayed = value == b"true";
    } else if name.eq_ignore_ascii_case(b"content-type") {
        head.event_stream = value.len() >= 17 && value[..17].eq_ignore_ascii_case(b"text/event-stream");
    }
    Ok(())
}

/// Takes chunked framing off a body that comes in pieces.
#[derive(Debug, Default)]
pub struct Dechunker {
    state: ChunkState,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Extension(usize),
    SizeDigits(usize),
    Data(usize),
    AfterData,
    Trailer {
        empty: bool,
    },
    Done,
}

impl Dechunker {
    /// Appends the content in `input` to `output`; true once the last chunk has ended.
    ///
    /// # Errors
    /// The framing is broken.
    pub fn feed(&mut self, mut input: &[u8], output: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        const BROKEN: ProtocolError = ProtocolError("broken chunks");
        while let Some((&byte, rest)) = input.split_first() {
            match self.state {
                ChunkState::Data(left) => {
                    let taken = left.min(input.len());
                    output.extend_from_slice(&input[..taken]);
                    input = &input[taken..];
                    self.state = if taken == left { ChunkState::AfterData } else { ChunkState::Data(left - taken) };
                    continue;
                }
                ChunkState::Size | ChunkState::SizeDigits(_) => {
                    let size = if let ChunkState::SizeDigits(size) = self.state { size } else { 0 };
                    self.state = match char::from(byte).to_digit(16) {
                        Some(digit) if size < 1 << 40 => ChunkState::SizeDigits(size * 16 + digit as usize),
                        None if self.state != ChunkState::Size && matches!(byte, b';' | b'\r' | b' ') => {
                            ChunkState::Extension(size)
                        }
                        _ => return Err(BROKEN),
                    };
                }
                ChunkState::Extension(size) => {
                    if byte == b'\n' {
                        self.state =
                            if size == 0 { ChunkState::Trailer { empty: true } } else { ChunkState::Data(size) };
                    }
                }
                ChunkState::AfterData => match byte {
                    b'\r' => {}
                    b'\n' => self.state = ChunkState::Size,
                    _ => return Err(BROKEN),
                },
                ChunkState::Trailer { empty } => match byte {
                    b'\r' => {}
                    b'\n' if empty => self.state = ChunkState::Done,
                    b'\n' => self.state = ChunkState::Trailer { empty: true },
                    _ => self.state = ChunkState::Trailer { empty: false },
                },
                ChunkState::Done => return Err(BROKEN),
            }
            input = rest;
        }
        Ok(self.state == ChunkState::Done)
    }
}

/// A non-blocking connection with its buffers.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// The request that is being, or was last, written.
    pub request: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Starts to connect; the socket becomes writable when the attempt has ended.
    ///
    /// # Errors
    /// The attempt could not be started.
    pub fn begin(endpoint: &Endpoint) -> io::Result<Self> {
        let family = if endpoint.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket =
            rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        match rustix::net::connect(&socket, &endpoint.address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::with_capacity(2048), written: 0, buffer: vec![0; 4096], filled: 0 })
    }

    /// The outcome of the attempt, once the socket is writable.
    ///
    /// # Errors
    /// It failed.
    pub fn finish_connecting(&self) -> io::Result<()> {
        match self.stream.take_error()? {
            Some(error) => Err(error),
            None => self.stream.peer_addr().map(drop),
        }
    }

    /// Begins a new request: clears the one before.
    pub fn start_request(&mut self) -> &mut Vec<u8> {
        self.request.clear();
        self.written = 0;
        self.filled = 0;
        &mut self.request
    }

    /// Writes what is left of the request; true when all is written.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads once; the number of bytes, 0 when there was nothing to read.
    ///
    /// # Errors
    /// The connection is gone; its regular end is `UnexpectedEof`.
    pub fn fill(&mut self) -> io::Result<usize> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.filled += n;
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What was read and not consumed.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Forgets the first `count` bytes received.
    pub fn consume(&mut self, count: usize) {
        self.buffer.copy_within(count..self.filled, 0);
        self.filled -= count;
    }

    /// Makes room for `bytes` at once.
    pub fn reserve(&mut self, bytes: usize) {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_in_any_case_and_order() {
        let text = b"HTTP/1.1 201 Created\r\netag: \"17\"\r\nNEXUS-TOKEN:  abc \r\nContent-Length: 5\r\n\r\nhello";
        let head = parse_head(text).unwrap().unwrap();
        assert_eq!((head.status, head.version, head.framing), (201, Some(17), Framing::Length(5)));
        assert_eq!(&text[head.token.clone()], b"abc");
        assert_eq!(&text[head.length..], b"hello");
        assert_eq!(parse_head(&text[..40]), Ok(None));
        assert!(parse_head(b"SSH-2.0\r\n\r\n").is_err());
        let none = parse_head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!(none.framing, Framing::Length(0));
    }

    #[test]
    fn chunks_come_apart_wherever_the_reads_cut_them() {
        let framed = b"5\r\nhello\r\nc;x=y\r\n, wide world\r\n0\r\nTrailer: a\r\n\r\n";
        for cut in 1..framed.len() {
            let (mut dechunker, mut text) = (Dechunker::default(), Vec::new());
            assert!(!dechunker.feed(&framed[..cut], &mut text).unwrap());
            assert!(dechunker.feed(&framed[cut..], &mut text).unwrap(), "cut at {cut}");
            assert_eq!(text, b"hello, wide world");
        }
        assert!(Dechunker::default().feed(b"zz\r\n", &mut Vec::new()).is_err());
    }
}
