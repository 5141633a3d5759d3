//! What a broker does that is starting: it says that its cluster has no broker at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A bootstrap server that lies, until it is told to be honest: then it passes all on to the real one.
pub struct LyingBroker {
    pub address: String,
    honest: Arc<AtomicBool>,
    lies: Arc<AtomicU32>,
}

impl LyingBroker {
    pub async fn before(broker: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (honest, lies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (broker, is_honest, told) = (broker.to_owned(), Arc::clone(&honest), Arc::clone(&lies));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if is_honest.load(Ordering::SeqCst) {
                    tokio::spawn(pass(client, broker.clone()));
                } else {
                    tokio::spawn(lie(client, Arc::clone(&told)));
                }
            }
        });
        Self { address, honest, lies }
    }

    /// How often it said that there is no broker.
    pub fn lies(&self) -> u32 {
        self.lies.load(Ordering::SeqCst)
    }

    pub fn be_honest(&self) {
        self.honest.store(true, Ordering::SeqCst);
    }
}

async fn pass(mut client: TcpStream, broker: String) {
    let mut server = TcpStream::connect(&broker).await.unwrap();
    // Either side may leave when it likes.
    let _left = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

/// Frames: length (4 bytes), then of a request the API's key (2), its version (2) and the correlation id (4).
async fn lie(mut client: TcpStream, told: Arc<AtomicU32>) {
    const METADATA: u16 = 3;
    const API_VERSIONS: u16 = 18;
    while let Ok(length) = client.read_u32().await {
        let mut request = vec![0; length as usize];
        if client.read_exact(&mut request).await.is_err() {
            return;
        }
        let (api, version) =
            (u16::from_be_bytes([request[0], request[1]]), u16::from_be_bytes([request[2], request[3]]));
        let mut answer = request[4..8].to_vec();
        match (api, version) {
            // No error; two APIs, each with its first and last version.
            (API_VERSIONS, 0) => {
                answer.extend([0, 0, 0, 0, 0, 2]);
                for number in [METADATA, 0, 1, API_VERSIONS, 0, 0] {
                    answer.extend(number.to_be_bytes());
                }
            }
            // 35: ask again in version 0.
            (API_VERSIONS, _) => answer.extend([0, 35, 0, 0, 0, 0]),
            // No brokers, no controller; one topic, without leader (5), name, external, no partitions.
            (METADATA, 1) => {
                answer.extend([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
                answer.extend([0, 0, 0, 1, 0, 5, 0, 1, b'x', 0, 0, 0, 0, 0]);
                told.fetch_add(1, Ordering::SeqCst);
            }
            other => panic!("a client asks for what it was not offered: {other:?}"),
        }
        let mut frame = u32::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
        frame.extend(answer);
        if client.write_all(&frame).await.is_err() {
            return;
        }
    }
}
