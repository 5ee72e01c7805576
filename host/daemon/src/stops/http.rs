//! HTTP as a stop source: a request that goes the way of `POST /v1/stop` shows that one would arrive.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::auth::Token;

const PATIENCE: Duration = Duration::from_secs(2);

/// Sends a request to `/v1/stop/alive`, which does the rest. If it does not arrive the source stays unseen.
pub(crate) fn probe(server: SocketAddr, token: Option<&Token>) {
    let ip = match server.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    if let Err(error) = ask(SocketAddr::new(ip, server.port()), token) {
        tracing::error!("the HTTP API does not answer: {error}");
    }
}

fn ask(address: SocketAddr, token: Option<&Token>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let authorization = token.map_or_else(String::new, |token| format!("authorization: {}\r\n", token.header()));
    let head = format!(
        "POST /v1/stop/alive HTTP/1.1\r\nhost: {address}\r\n{authorization}content-type: application/json\r\n\
         content-length: 2\r\n\r\n{{}}"
    );
    stream.write_all(head.as_bytes())?;
    // It is there when the answer is; what the answer says does not matter.
    stream.read_exact(&mut [0]).map(drop)
}
