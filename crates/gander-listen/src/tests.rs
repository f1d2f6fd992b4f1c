//! Real sockets in one process: a stub of `SystemService` behind a front, called through `gander-client` or raw.

mod auth;
mod calls;
mod drain;
mod sockets;
mod web;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use gander_client::{Client, ClientOptions, Endpoint};
use gander_proto::v1::{
    self as pb,
    system_service_client::SystemServiceClient,
    system_service_server::{SystemService, SystemServiceServer},
};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, metadata::MetadataMap, service::Routes, transport::Channel};

use crate::{App, BoundAddress, Front, Listener, Options, PeerIdentity, Server};

/// Longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "0123456789abcdef";

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// What the application sees of a caller.
#[derive(Clone)]
struct Caller(PeerIdentity);

/// Behaves as the metadata `x-do` says.
#[derive(Clone)]
struct Stub {
    draining: CancellationToken,
    /// Hears of every call that began and will not end by itself.
    began: mpsc::Sender<()>,
    /// Opens when the test lets go of the other end; a handler that waits here blocks its thread.
    gate: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

fn behaviour(metadata: &MetadataMap) -> String {
    metadata.get("x-do").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn change(subject: &str) -> Result<pb::WatchServerResponse, Status> {
    let change = pb::ServerChange { subject_id: subject.to_owned(), ..Default::default() };
    Ok(pb::WatchServerResponse { payload: Some(pb::watch_server_response::Payload::Change(change)) })
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SystemService for Stub {
    async fn get_server_info(
        &self,
        request: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::GetServerInfoResponse>, Status> {
        match behaviour(request.metadata()).as_str() {
            "panic" => panic!("as told"),
            "stuck" => {
                self.began.send(()).await.ok();
                std::future::pending::<()>().await;
            }
            "block" => {
                self.began.send(()).await.ok();
                let _ = self.gate.lock().unwrap().recv();
            }
            _ => {}
        }
        let caller = request.extensions().get::<Caller>().map(|caller| caller.0.clone());
        let caller =
            caller.map(|caller| format!("{}|{}|{}", caller.principal, caller.client, caller.protocol));
        let info = pb::ServerInfo { version: caller.unwrap_or_default(), ..Default::default() };
        Ok(Response::new(pb::GetServerInfoResponse { server_info: Some(info) }))
    }

    type WatchServerStream = Boxed<pb::WatchServerResponse>;

    async fn watch_server(
        &self,
        request: Request<pb::WatchServerRequest>,
    ) -> Result<Response<Self::WatchServerStream>, Status> {
        let first = stream::iter([change("first")]);
        let rest: Self::WatchServerStream = match behaviour(request.metadata()).as_str() {
            "panic" => Box::pin(stream::once(async { panic!("as told") })),
            // A question that is open: nobody answers, and the handler does not mind the drain.
            "question" => Box::pin(stream::pending()),
            "endless" => Box::pin(stream::repeat_with(|| change("again"))),
            _ => {
                let draining = self.draining.clone();
                let closing = async move {
                    draining.cancelled_owned().await;
                    let closing = pb::StreamClosing::default();
                    let payload = pb::watch_server_response::Payload::StreamClosing(closing);
                    Ok(pb::WatchServerResponse { payload: Some(payload) })
                };
                Box::pin(stream::once(closing))
            }
        };
        Ok(Response::new(Box::pin(first.chain(rest))))
    }

    type CheckStoreStream = Boxed<pb::CheckStoreResponse>;

    async fn check_store(
        &self,
        _: Request<pb::CheckStoreRequest>,
    ) -> Result<Response<Self::CheckStoreStream>, Status> {
        Ok(Response::new(Box::pin(stream::empty())))
    }

    type GetDiagnosticsStream = Boxed<pb::GetDiagnosticsResponse>;

    async fn get_diagnostics(
        &self,
        _: Request<pb::GetDiagnosticsRequest>,
    ) -> Result<Response<Self::GetDiagnosticsStream>, Status> {
        Ok(Response::new(Box::pin(stream::empty())))
    }

    async fn shutdown(
        &self,
        _: Request<pb::ShutdownRequest>,
    ) -> Result<Response<pb::ShutdownResponse>, Status> {
        Ok(Response::new(pb::ShutdownResponse::default()))
    }
}

/// A front around the stub, and what hears of stuck calls.
fn front(options: Options) -> (Front, mpsc::Receiver<()>) {
    front_behind(std::sync::mpsc::channel().1, options)
}

fn front_behind(gate: std::sync::mpsc::Receiver<()>, mut options: Options) -> (Front, mpsc::Receiver<()>) {
    let (began, heard) = mpsc::channel(64);
    let stub = Stub { draining: options.draining.clone(), began, gate: Arc::new(Mutex::new(gate)) };
    options.identify = Some(Arc::new(|extensions, identity| {
        extensions.insert(Caller(identity.clone()));
    }));
    let (_, health) = tonic_health::server::health_reporter();
    let grpc = Routes::new(SystemServiceServer::new(stub)).add_service(health);
    let router = axum::Router::new()
        .route("/hello", axum::routing::get(|| async { "hello" }))
        .route("/boom", axum::routing::get(|| async { panic!("as told") as &'static str }));
    let http =
        crate::HttpRoutes { router, auth: crate::HttpAuth::Listener { public: vec!["/boom".to_owned()] } };
    (Front::new(App { grpc, http: Some(http) }, options), heard)
}

struct Unix {
    server: Server,
    heard: mpsc::Receiver<()>,
    endpoint: Endpoint,
    path: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

async fn unix(options: Options) -> Unix {
    unix_for(front(options)).await
}

async fn unix_for((front, heard): (Front, mpsc::Receiver<()>)) -> Unix {
    let directory = private_directory();
    let path = directory.path().join("s");
    let server = Server::start(Listener::unix(&path).await.unwrap(), &front).unwrap();
    Unix { server, heard, endpoint: Endpoint::unix(&path), path, _directory: directory }
}

fn private_directory() -> tempfile::TempDir {
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir().unwrap()
}

fn with_token() -> Options {
    Options { token: Some(SecretString::from(TOKEN)), ..Options::default() }
}

async fn tcp(options: Options) -> (Server, SocketAddr, mpsc::Receiver<()>) {
    let (front, heard) = front(options);
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let server = Server::start(listener, &front).unwrap();
    let BoundAddress::Tcp(address) = *server.address() else { panic!("a TCP address") };
    (server, address, heard)
}

async fn client(endpoint: &Endpoint, token: Option<&str>) -> Client {
    let mut options = ClientOptions::new("test/1");
    options.protocol = "rest".to_owned();
    options.token = token.map(SecretString::from);
    soon(Client::connect(endpoint.clone(), options)).await.unwrap()
}

/// A client without deadlines, retries and metadata of its own.
async fn raw(path: &std::path::Path) -> SystemServiceClient<Channel> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    SystemServiceClient::new(soon(endpoint.connect_with_connector(connector)).await.unwrap())
}

fn told<T>(message: T, what: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-do", what.parse().unwrap());
    request
}

/// One HTTP/1.1 exchange, raw; the answer is read to the end of the connection.
async fn http1(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn info() -> pb::GetServerInfoRequest {
    pb::GetServerInfoRequest {}
}

fn watch() -> pb::WatchServerRequest {
    pb::WatchServerRequest::default()
}
