//! Who may call: programs of this machine, or who has the token. Never a web page that somebody happens to look at.
//!
//! A page of a stranger can make a browser send requests to this machine. It cannot choose their `Origin`, and where it makes
//! its own name resolve to this machine it cannot choose their `Host`: both are checked. It can neither send
//! `application/json` without asking first, which nobody here answers.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::fault::Fault;

/// Shortest token that is taken, bytes.
const SHORTEST: usize = 16;

/// What a caller must know, from a file.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Reads a token from a file. White space around it does not count.
    ///
    /// # Errors
    /// One line if the file cannot be read, or holds no token of at least 16 visible ASCII characters.
    pub fn open(path: &Path) -> Result<Self, String> {
        let wrong = |what: &str| {
            let make = "make one with `head -c 24 /dev/urandom | base64 > FILE`";
            format!("{what}: {}: {make}", path.display())
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&format!("cannot read the token ({error})")))?;
        let token = text.trim();
        if token.len() < SHORTEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong(&format!("no token of at least {SHORTEST} visible characters")));
        }
        Ok(Self(token.into()))
    }

    /// The `authorization` header that says it.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Takes as long for a wrong token as for the right one.
    fn is(&self, given: &[u8]) -> bool {
        let expected = self.header().into_bytes();
        let differs = expected.iter().zip(given).fold(0, |differs, (a, b)| differs | (a ^ b));
        expected.len() == given.len() && differs == 0
    }
}

pub(crate) async fn auth(
    State(token): State<Option<Arc<Token>>>,
    request: Request,
    next: Next,
) -> Result<Response, Fault> {
    check(request.method(), request.headers(), token.as_deref())?;
    Ok(next.run(request).await)
}

fn check(method: &Method, headers: &HeaderMap, token: Option<&Token>) -> Result<(), Fault> {
    let foreign = |cause: String| {
        let way_out = "use `waza ctl`, or a program of this machine that names it by its address";
        Fault::new(StatusCode::FORBIDDEN, "foreign", cause, way_out)
    };
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    if !is_address(host) {
        return Err(foreign(format!("the request is for the host {host:?}, which is no address of this machine")));
    }
    if let Some(origin) = text(header::ORIGIN).filter(|origin| *origin != format!("http://{host}")) {
        return Err(foreign(format!("the request comes from a page of {origin}")));
    }
    if token.is_some_and(|token| !headers.get(header::AUTHORIZATION).is_some_and(|given| token.is(given.as_bytes()))) {
        let way_out = "send `authorization: Bearer TOKEN`; `waza ctl --token FILE` does";
        return Err(Fault::new(StatusCode::UNAUTHORIZED, "unauthorised", "the token is missing or wrong", way_out));
    }
    let content = text(header::CONTENT_TYPE).unwrap_or_default();
    let json = content.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if method == Method::POST && !json {
        let way_out = "send `content-type: application/json`";
        return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", "the body is not JSON", way_out));
    }
    Ok(())
}

/// Whether a `Host` header names a machine by its address, or as `localhost`. Any other name could be anybody's.
pub(crate) fn is_address(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_hosts() {
        for host in ["127.0.0.1:7373", "127.0.0.1", "localhost:7373", "[::1]:7373", "192.168.7.4:80"] {
            assert!(is_address(host), "{host}");
        }
        for host in ["", "robot.example:7373", "127.0.0.1.example:7373", "[robot]:7373", "localhost.example"] {
            assert!(!is_address(host), "{host}");
        }
    }

    #[test]
    fn a_token_is_right_only_whole() {
        let token = Token("0123456789abcdef".into());
        assert!(token.is(b"Bearer 0123456789abcdef"));
        for wrong in ["", "Bearer ", "0123456789abcdef", "Bearer 0123456789abcde", "Bearer 0123456789abcdefg"] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
    }
}
