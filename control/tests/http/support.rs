//! A control plane of a test's own, and a client for it.

use std::net::SocketAddr;

use infrastructure::{Namespace, Plane, TestStack, create_admin, migrate};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A control plane and its admin's key.
pub struct Control {
    pub namespace: Namespace,
    pub plane: Plane,
    pub client: Client,
}

/// On the servers that all tests of this binary share.
pub async fn control(name: &str) -> Control {
    control_on(TestStack::shared().await, name).await
}

/// On servers of the caller's.
pub async fn control_on(stack: &TestStack, name: &str) -> Control {
    let namespace = stack.namespace(name).await;
    migrate(&namespace).await.unwrap();
    let key = create_admin(&namespace).await.unwrap();
    let plane = Plane::control(&namespace).start().await.unwrap();
    let client = Client { addr: plane.address(), key };
    Control { namespace, plane, client }
}

/// Calls a server as the owner of a key, each time on a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    pub addr: SocketAddr,
    pub key: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    head: String,
    pub text: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The `id` of the body.
    pub fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("no id: {self:?}")).to_owned()
    }
}

impl Client {
    pub fn with_key(&self, key: &str) -> Self {
        Self { addr: self.addr, key: key.to_owned() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.call("POST", path, &[], body).await
    }

    pub async fn patch(&self, path: &str, body: &str) -> Reply {
        self.call("PATCH", path, &[], body).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.call("DELETE", path, &[], "").await
    }

    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.try_call(method, path, headers, body).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends a request and hangs up at once.
    pub async fn send_and_leave(&self, method: &str, path: &str, body: &str) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(self.request(method, path, &[], body).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    pub async fn try_call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect(self.addr).await?;
        stream.write_all(self.request(method, path, headers, body).as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        let text = String::from_utf8(bytes).expect("UTF-8");
        let cut_off = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let (head, text) = text.split_once("\r\n\r\n").ok_or_else(cut_off)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        Ok(Reply { status, head: head.to_owned(), text: text.to_owned() })
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let Self { addr, key } = self;
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        request
    }
}
