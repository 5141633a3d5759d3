//! Where a server is.

use std::net::{SocketAddr, ToSocketAddrs};

/// A resolved `http://host[:port][/prefix]`.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// What goes into `Host`.
    pub authority: String,
    /// The first address that the name resolved to.
    pub address: SocketAddr,
    /// Path before `/v1`, without a trailing slash; usually empty.
    pub prefix: String,
}

/// Why a URL is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Not `http://…`.
    #[error("{0}: only http:// URLs can be measured")]
    Scheme(String),
    /// The name does not resolve.
    #[error("{url}: the name does not resolve")]
    Resolve {
        /// The URL as given.
        url: String,
        /// What the resolver said.
        #[source]
        source: Option<std::io::Error>,
    },
}

impl Endpoint {
    /// Parses and resolves `url`.
    ///
    /// # Errors
    /// Another scheme than `http`, or a name that does not resolve.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let rest = url.strip_prefix("http://").ok_or_else(|| EndpointError::Scheme(url.to_owned()))?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        let with_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let failed = |source| EndpointError::Resolve { url: url.to_owned(), source };
        let mut addresses: Vec<SocketAddr> =
            with_port.to_socket_addrs().map_err(|error| failed(Some(error)))?.collect();
        // `localhost` often resolves to ::1 first, where the servers do not listen by default.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let address = *addresses.first().ok_or_else(|| failed(None))?;
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Self { authority: authority.to_owned(), address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let endpoint = Endpoint::parse("http://127.0.0.1:8000/a/").unwrap();
        assert_eq!(endpoint.authority, "127.0.0.1:8000");
        assert_eq!(endpoint.prefix, "/a");
        assert_eq!(Endpoint::parse("http://127.0.0.1").unwrap().address.port(), 80);
        assert!(matches!(Endpoint::parse("https://x"), Err(EndpointError::Scheme(_))));
        assert!(matches!(Endpoint::parse("127.0.0.1:1"), Err(EndpointError::Scheme(_))));
    }
}
