//! The probe's call, `clock.now`, as it would cost over gRPC on the loopback: what a skill in a container of its own pays.
//!
//! Client and server are in this process, each on a thread and a runtime of its own, with one connection that stays open. The
//! messages are written by hand as Rust types, so that no protoc is needed.

use std::future::{Ready, ready};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body, BoxFuture, Context, Poll, Service, StdError, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::{Server, TcpIncoming};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use waza_robot::Robot;

const CALLS: u32 = 500;

/// The fastest counts, as it does for calls into the host.
const ROUNDS: usize = 21;

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct Now {
    #[prost(uint64, tag = "1")]
    robot_time_ns: u64,
}

/// Time of one call, from the request to its answer.
pub fn call(robot: &Robot) -> Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on the loopback")?;
    let address = listener.local_addr()?;
    let clock = Clock(robot.clone());
    let (end, ended) = oneshot::channel::<()>();
    let serving = std::thread::spawn(move || serve(listener, clock, ended));
    let measured = runtime()?.block_on(measure(address));
    drop(end);
    serving.join().map_err(|_| anyhow::anyhow!("the gRPC server panicked"))??;
    measured
}

fn serve(listener: TcpListener, clock: Clock, ended: oneshot::Receiver<()>) -> Result<()> {
    listener.set_nonblocking(true)?;
    runtime()?.block_on(async {
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true));
        let end = async { drop(ended.await) };
        Ok(Server::builder().add_service(clock).serve_with_incoming_shutdown(incoming, end).await?)
    })
}

async fn measure(address: SocketAddr) -> Result<Duration> {
    let mut client = Grpc::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?);
    let mut fastest = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            now(&mut client).await?;
        }
        fastest = fastest.min(start.elapsed() / CALLS);
    }
    Ok(fastest)
}

async fn now(client: &mut Grpc<Channel>) -> Result<Now> {
    client.ready().await?;
    let path = PathAndQuery::from_static("/waza.bench.Clock/Now");
    let codec = ProstCodec::<Nothing, Now>::default();
    Ok(client.unary(Request::new(Nothing {}), path, codec).await?.into_inner())
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_io().enable_time().build()?)
}

#[derive(Clone)]
struct Clock(Robot);

impl NamedService for Clock {
    const NAME: &'static str = "waza.bench.Clock";
}

impl UnaryService<Nothing> for Clock {
    type Response = Now;
    type Future = Ready<Result<Response<Now>, Status>>;

    fn call(&mut self, _: Request<Nothing>) -> Self::Future {
        ready(Ok(Response::new(Now { robot_time_ns: self.0.tick_ns(self.0.tick()) })))
    }
}

/// What generated code would be: one method.
impl<B> Service<http::Request<B>> for Clock
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let clock = self.clone();
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Now, Nothing>::default());
        Box::pin(async move { Ok(grpc.unary(clock, request).await) })
    }
}
