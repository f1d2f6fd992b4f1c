//! Who may call: tokens, tools, certificates.

use std::sync::atomic::{AtomicU32, Ordering};

use gander_client::{ClientError, ClientIdentity, TcpEndpoint, TlsRoots};
use gander_proto::v1::ErrorReason;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::*;
use crate::{ListenError, TlsOptions};

#[tokio::test]
async fn tcp_needs_the_token() {
    let (server, address, _heard) = tcp(with_token()).await;
    let endpoint = Endpoint::tcp(format!("http://{address}"));
    for token in [None, Some("0123456789abcdeX")] {
        let client = client(&endpoint, token).await;
        let error = ClientError::from(client.system().get_server_info(info()).await.unwrap_err());
        assert!(error.is(ErrorReason::TokenInvalid) && error.code == Code::Unauthenticated, "{error:?}");
        assert!(!error.message.contains(TOKEN));
        let mut health = HealthClient::new(client.transport());
        health.check(HealthCheckRequest::default()).await.unwrap();
        let error = health.watch(HealthCheckRequest::default()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
    }
    let client = client(&endpoint, Some(TOKEN)).await;
    let answer = client.system().get_server_info(info()).await.unwrap().into_inner();
    assert_eq!(answer.server_info.unwrap().version, "token|test/1|rest");
    drop(server);
}

#[tokio::test]
async fn a_tcp_listener_without_proof_is_not_served() {
    let (front, _heard) = front(Options::default());
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    assert!(matches!(Server::start(listener, &front), Err(ListenError::NeedsToken { .. })));
    for address in ["0.0.0.0:0", "[::]:0"] {
        let error = Listener::tcp(address.parse().unwrap(), None).await.unwrap_err();
        assert!(matches!(error, ListenError::NeedsTls { .. }));
        assert!(error.to_string().contains("127.0.0.1"));
    }
    let mut tls = authority().server;
    tls.allow_plain = true;
    let error = Listener::tcp("0.0.0.0:0".parse().unwrap(), Some(tls)).await.unwrap_err();
    assert!(matches!(error, ListenError::NeedsTls { .. }));
}

#[tokio::test]
async fn a_tool_is_refused_on_the_unix_socket() {
    let own = std::process::id();
    let options = Options { caller_check: Some(Arc::new(move |pid| pid == own)), ..with_token() };
    let daemon = unix(options).await;
    let client = client(&daemon.endpoint, Some(TOKEN)).await;
    let error = ClientError::from(client.system().get_server_info(info()).await.unwrap_err());
    assert!(error.is(ErrorReason::CallerIsTool) && error.code == Code::PermissionDenied, "{error:?}");
    let mut health = HealthClient::new(client.transport());
    let error = health.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(daemon.server.metrics_text().contains("gander_tool_calls_refused_total 2"));
}

#[tokio::test]
async fn another_process_is_served_beside_a_tool() {
    let options = Options { caller_check: Some(Arc::new(|_| false)), ..Options::default() };
    let daemon = unix(options).await;
    client(&daemon.endpoint, None).await.system().get_server_info(info()).await.unwrap();
}

/// A shell command of a tool that has the token, over TCP.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_tool_is_refused_on_tcp_though_it_has_the_token() {
    use tokio::process::Command;

    let tool = Arc::new(AtomicU32::new(0));
    let check = tool.clone();
    let caller_check: Arc<dyn crate::CallerCheck> =
        Arc::new(move |pid| pid != 0 && pid == check.load(Ordering::SeqCst));
    let (server, address, _heard) = tcp(Options { caller_check: Some(caller_check), ..with_token() }).await;
    let script = format!(
        "read -r; exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET /hello HTTP/1.1\\r\\nhost: localhost\\r\\n\
         x-secret-key: {TOKEN}\\r\\nconnection: close\\r\\n\\r\\n' >&3; cat <&3",
        address.port()
    );
    for (is_tool, expected) in [(true, "HTTP/1.1 403"), (false, "HTTP/1.1 200")] {
        let mut child = Command::new("bash")
            .arg("-c")
            .arg(&script)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        tool.store(if is_tool { child.id().unwrap() } else { 0 }, Ordering::SeqCst);
        child.stdin.take().unwrap().write_all(b"go\n").await.unwrap();
        let output = soon(child.wait_with_output()).await.unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(answer.starts_with(expected), "{is_tool}: {answer}");
    }
    drop(server);
}

struct Authority {
    ca_pem: Vec<u8>,
    server: TlsOptions,
    client: ClientIdentity,
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        (certificate.pem().into_bytes(), SecretString::from(key.serialize_pem()))
    };
    let (cert_pem, key_pem) = issue("127.0.0.1");
    let (certificate_pem, client_key) = issue("client.test");
    let ca_pem = ca.pem().into_bytes();
    Authority {
        server: TlsOptions { cert_pem, key_pem, client_ca_pem: None, allow_plain: false },
        client: ClientIdentity { certificate_pem, key_pem: Arc::new(client_key) },
        ca_pem,
    }
}

async fn serve_tls(tls: TlsOptions, options: Options) -> (Server, SocketAddr) {
    let (front, _heard) = front(options);
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), Some(tls)).await.unwrap();
    let server = Server::start(listener, &front).unwrap();
    let BoundAddress::Tcp(address) = *server.address() else { panic!("a TCP address") };
    (server, address)
}

fn https(address: SocketAddr, ca_pem: &[u8], identity: Option<ClientIdentity>) -> Endpoint {
    let roots = TlsRoots::Pem(ca_pem.to_vec());
    Endpoint::Tcp(TcpEndpoint { url: format!("https://{address}"), roots, identity })
}

async fn version(client: &Client) -> String {
    let answer = client.system().get_server_info(info()).await.unwrap().into_inner();
    answer.server_info.unwrap().version
}

#[tokio::test]
async fn tls_and_plain_text_share_a_port_where_that_is_allowed() {
    let mut authority = authority();
    let (server, address) = serve_tls(authority.server.clone(), with_token()).await;
    let secure = client(&https(address, &authority.ca_pem, None), Some(TOKEN)).await;
    assert_eq!(version(&secure).await, "token|test/1|rest");
    let plain = Endpoint::tcp(format!("http://{address}"));
    let refused = match soon(Client::connect(plain, ClientOptions::new("x"))).await {
        Err(error) => error,
        Ok(client) => ClientError::from(client.system().get_server_info(info()).await.unwrap_err()),
    };
    assert!(refused.is_transport_loss(), "{refused:?}");
    assert!(soon(server.drain(Duration::from_secs(10))).await.cut == 0);

    authority.server.allow_plain = true;
    let (_server, address) = serve_tls(authority.server.clone(), with_token()).await;
    let secure = client(&https(address, &authority.ca_pem, None), Some(TOKEN)).await;
    let plain = client(&Endpoint::tcp(format!("http://{address}")), Some(TOKEN)).await;
    assert_eq!(version(&secure).await, version(&plain).await);
}

#[tokio::test]
async fn a_client_certificate_stands_for_a_token() {
    let mut authority = authority();
    authority.server.client_ca_pem = Some(authority.ca_pem.clone());
    let (_server, address) = serve_tls(authority.server.clone(), Options::default()).await;
    let known = https(address, &authority.ca_pem, Some(authority.client.clone()));
    assert_eq!(version(&client(&known, None).await).await, "certificate|test/1|rest");
    let stranger = https(address, &authority.ca_pem, None);
    let refused = match soon(Client::connect(stranger, ClientOptions::new("x"))).await {
        Err(error) => error,
        Ok(client) => ClientError::from(client.system().get_server_info(info()).await.unwrap_err()),
    };
    assert!(refused.is_transport_loss(), "{refused:?}");
}
