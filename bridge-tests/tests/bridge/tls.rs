//! TLS and mutual TLS on the TCP port, with certificates made for the test.

use std::{path::Path, sync::Arc};

use gander::daemon::TlsFiles;
use gander_bridge_tests::{TestDaemon, connect, events, pb};
use gander_client::{ClientIdentity, Endpoint, TcpEndpoint, TlsRoots};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use secrecy::SecretString;

/// A certificate authority with a server's and a client's certificate, PEM.
struct Certificates {
    ca: String,
    server: (String, String),
    client: (String, String),
}

fn certificates() -> Certificates {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(params, key);
    let signed = |names: &[&str]| {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("parameters");
        (params.signed_by(&key, &issuer).expect("a certificate").pem(), key.serialize_pem())
    };
    Certificates { ca, server: signed(&["localhost", "127.0.0.1"]), client: signed(&["a client"]) }
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

async fn start(certificates: &Certificates, mutual: bool) -> TestDaemon {
    TestDaemon::start_with(|options| {
        let root = options.root.clone().expect("a root");
        options.tls = Some(TlsFiles {
            cert: write(&root, "cert.pem", &certificates.server.0),
            key: write(&root, "key.pem", &certificates.server.1),
            client_ca: mutual.then(|| write(&root, "ca.pem", &certificates.ca)),
        });
    })
    .await
}

fn endpoint(daemon: &TestDaemon, ca: &str, identity: Option<&(String, String)>) -> Endpoint {
    let port = daemon.ready().tcp.expect("a port").port();
    Endpoint::Tcp(TcpEndpoint {
        url: format!("https://localhost:{port}"),
        roots: TlsRoots::Pem(ca.as_bytes().to_vec()),
        identity: identity.map(|(certificate, key)| ClientIdentity {
            certificate_pem: certificate.as_bytes().to_vec(),
            key_pem: Arc::new(SecretString::from(key.as_str())),
        }),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_over_tls() {
    let certificates = certificates();
    let daemon = start(&certificates, false).await;
    let client = connect(endpoint(&daemon, &certificates.ca, None), Some(daemon.token())).await.expect("TLS");
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    events::complete(&client, &session_id, "list the files here").await;

    let stranger =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate").cert.pem();
    let refused = connect(endpoint(&daemon, &stranger, None), Some(daemon.token())).await;
    assert!(refused.is_err(), "a certificate of a stranger is not trusted");
    let plain = connect(Endpoint::tcp(daemon.url()), Some(daemon.token())).await;
    let plain = match plain {
        Err(_) => true,
        Ok(client) => client.sessions().list_sessions(pb::ListSessionsRequest::default()).await.is_err(),
    };
    assert!(plain, "plain text on a TLS port is not served");
    let tokenless = connect(endpoint(&daemon, &certificates.ca, None), None).await.expect("TLS");
    let error = events::refused(tokenless.sessions().list_sessions(pb::ListSessionsRequest::default()).await);
    assert!(error.is(pb::ErrorReason::TokenInvalid), "{error:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_over_mutual_tls() {
    let certificates = certificates();
    let daemon = start(&certificates, true).await;
    let known = endpoint(&daemon, &certificates.ca, Some(&certificates.client));
    let client = connect(known, Some(daemon.token())).await.expect("mutual TLS");
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    events::complete(&client, &session_id, "list the files here").await;
    let other = self::certificates();
    for identity in [None, Some(&other.client)] {
        let unknown = connect(endpoint(&daemon, &certificates.ca, identity), Some(daemon.token())).await;
        // TLS 1.3 tells a client that its certificate was refused only with the first answer.
        let refused = match unknown {
            Err(_) => true,
            Ok(client) => client.sessions().list_sessions(pb::ListSessionsRequest::default()).await.is_err(),
        };
        assert!(refused, "a client without a certificate of the authority is refused");
    }
    daemon.finish().await;
}
