//! Who may call: programs of this machine, or who has the token. Never a web page that somebody happens to look at.
//!
//! A page of a stranger can make a browser send requests to this machine. It cannot choose their `Origin`, and where it makes
//! its own name resolve to this machine it cannot choose their `Host`: both are checked. Where it only shows what is here, as
//! in `<img src=...>`, there is no `Origin`; then `Sec-Fetch-Site` says whose page it is. It can neither send
//! `application/json` without asking first, which nobody here answers.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::fault::Fault;

/// Shortest token that is taken, bytes.
const SHORTEST: usize = 16;

/// Most bytes of a file that are read for a token.
const LONGEST: u64 = 4096;

/// How a token is made.
const MAKE_ONE: &str = "make one with `(umask 077; head -c 24 /dev/urandom | base64 > FILE)`";

/// What a caller must know, from a file.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Reads a token from a file that only its owner may read. White space around it does not count.
    ///
    /// # Errors
    /// One line if the file cannot be read or can be read by others, or holds no token of at least 16 visible ASCII
    /// characters.
    pub fn open(path: &Path) -> Result<Self, String> {
        let place = path.display();
        let unread = |error: std::io::Error| format!("cannot read the token ({error}): {place}: {MAKE_ONE}");
        let file = File::open(path).map_err(unread)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = file.metadata().map_err(unread)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(format!(
                    "others than its owner may use the token (the mode of its file is {mode:03o}): {place}: \
                     `chmod 600 {place}`, and a new token if others may have read it"
                ));
            }
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(unread)?;
        let token = text.trim();
        if token.len() < SHORTEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("no token of at least {SHORTEST} visible characters: {place}: {MAKE_ONE}"));
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
    if token.is_some_and(|token| !headers.get(header::AUTHORIZATION).is_some_and(|given| token.is(given.as_bytes()))) {
        let way_out = "send `authorization: Bearer TOKEN`; `waza ctl --token FILE` does";
        return Err(Fault::new(StatusCode::UNAUTHORIZED, "unauthorised", "the token is missing or wrong", way_out));
    }
    let host = text(header::HOST).unwrap_or_default();
    // Whoever knows the token is no page that made its own name resolve to this machine.
    if token.is_none() && !is_address(host) {
        return Err(foreign(format!("the request is for the host {host:?}, which is no address of this machine")));
    }
    if let Some(origin) = text(header::ORIGIN).filter(|origin| *origin != format!("http://{host}")) {
        return Err(foreign(format!("the request comes from a page of {origin}")));
    }
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    if let Some(site) = site.filter(|site| !["none", "same-origin"].contains(site)) {
        return Err(foreign(format!("the request comes from a page of somebody else ({site})")));
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
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "0"),
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    // An address of version 6 is in brackets, as it is here.
    is_port
        && (name.eq_ignore_ascii_case("localhost")
            || name.parse::<Ipv4Addr>().is_ok()
            || (name.starts_with('[') && format!("{name}:0").parse::<SocketAddr>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_hosts() {
        for host in
            ["127.0.0.1:7373", "127.0.0.1", "localhost:7373", "localhost", "[::1]:7373", "[::1]", "192.168.7.4:80"]
        {
            assert!(is_address(host), "{host}");
        }
        for host in ["", "robot.example:7373", "127.0.0.1.example:7373", "[robot]:7373", "localhost.example"] {
            assert!(!is_address(host), "{host}");
        }
        for host in ["[::1]x", "[::1]x:80", "[::1", "::1", "[::1]:x", "127.0.0.1:", "127.0.0.1:+80", "127.0.0.1:80:80"]
        {
            assert!(!is_address(host), "{host}");
        }
    }

    #[test]
    fn a_request_that_a_page_of_somebody_else_causes_is_foreign_though_it_says_no_origin() {
        let check = |site: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "127.0.0.1:7373".try_into().unwrap());
            site.map(|site| headers.insert("sec-fetch-site", site.try_into().unwrap()));
            check(&Method::GET, &headers, None).is_ok()
        };
        assert!(check(None) && check(Some("none")) && check(Some("same-origin")));
        for site in ["cross-site", "same-site", "", "none, cross-site"] {
            assert!(!check(Some(site)), "{site}");
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
