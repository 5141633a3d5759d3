//! A TCP proxy in front of Postgres that loses connections where it hurts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use contract::bundle::BUNDLE_PREFIX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    Pass = 0,
    /// Loses the connection when the statement that commits comes, which Postgres does not get.
    CutBeforeCommit = 1,
    /// Loses the connection when the statement that commits comes, which Postgres gets.
    CutAfterCommit = 2,
    /// As `CutAfterCommit`, then refuses whoever connects.
    CutAfterCommitAndRefuse = 3,
    /// Closes every connection, old and new.
    Refuse = 4,
}

/// Each cut happens once; then the proxy passes (or refuses) everything.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    mode: Arc<AtomicU8>,
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let proxy = Self { port, mode: Arc::default(), cuts: Arc::default() };
        let shared = proxy.clone();
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                if shared.mode() != Mode::Refuse as u8 {
                    tokio::spawn(shared.clone().serve(client, upstream));
                }
            }
        });
        proxy
    }

    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }

    fn mode(&self) -> u8 {
        self.mode.load(Ordering::SeqCst)
    }

    async fn serve(self, client: TcpStream, upstream: u16) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut buffer = vec![0; 1 << 16];
        let mut inside = false;
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            let mode = self.mode();
            if mode == Mode::Refuse as u8 {
                break;
            }
            // BEGIN and COMMIT are simple queries, and nothing else of ours has their text. Outside of them the
            // statement that brings the events commits by itself.
            let has = |text: &[u8]| buffer[..n].windows(text.len()).any(|window| window == text);
            inside |= has(b"BEGIN\0");
            let commits = has(b"COMMIT\0") || (!inside && has(BUNDLE_PREFIX.as_bytes()));
            inside &= !has(b"COMMIT\0") && !has(b"ROLLBACK\0");
            if commits && (1..=3).contains(&mode) {
                let next = if mode == Mode::CutAfterCommitAndRefuse as u8 { Mode::Refuse } else { Mode::Pass };
                self.set(next);
                self.cuts.fetch_add(1, Ordering::SeqCst);
                // Nothing more reaches the client, whatever Postgres answers.
                back.abort();
                if mode != Mode::CutBeforeCommit as u8 {
                    let _ = to_server.write_all(&buffer[..n]).await;
                }
                return;
            }
            if to_server.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
        back.abort();
    }
}
