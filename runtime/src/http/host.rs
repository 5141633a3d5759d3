//! The `Host` that a request of HTTP/1.1 must have (RFC 9112, section 3.2).

use contract::problem::{BAD_REQUEST, Problem};
use http::header::{HOST, HeaderMap};
use http::{Request, Version};

/// Checks that the request says once whom it is for. What it says is not compared with anything.
///
/// # Errors
/// 400 when `Host` is absent from a request of HTTP/1.1, stands more than once, or can't be a host with a port.
pub fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    let values = &mut values(request.headers());
    match (values.next(), values.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (None, _) if request.version() < Version::HTTP_11 => Ok(()),
        (None, _) => Err(Problem::new(&BAD_REQUEST, "the header Host is missing, which HTTP/1.1 asks for")),
        (Some(_), None) => Err(Problem::new(&BAD_REQUEST, "the header Host is not a host with an optional port")),
        (Some(_), Some(_)) => Err(Problem::new(&BAD_REQUEST, "the header Host stands more than once")),
    }
}

fn values(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(HOST).iter().map(|value| value.as_bytes())
}

/// Whether only characters of `uri-host [":" port]` (RFC 3986, section 3.2.2) stand there; empty is lawful.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_~%!$&'()*+,;=".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: Version, hosts: &[&str]) -> Option<u16> {
        let mut request = Request::get("/").version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check(&request.body(()).expect("a request")).err().map(|problem| problem.kind.status)
    }

    #[test]
    fn a_request_of_http_1_1_says_once_whom_it_is_for() {
        for host in ["", "x", "127.0.0.1:8000", "[::1]:8000", "a-b.example", "nexus_control:8000"] {
            assert_eq!(status(Version::HTTP_11, &[host]), None, "{host:?}");
        }
        for hosts in [&[][..], &["x", "x"], &["a b"], &["a/b"], &["user@x"], &["x?y"]] {
            assert_eq!(status(Version::HTTP_11, hosts), Some(400), "{hosts:?}");
        }
        assert_eq!(status(Version::HTTP_10, &[]), None);
        assert_eq!(status(Version::HTTP_10, &["x", "x"]), Some(400));
    }
}
