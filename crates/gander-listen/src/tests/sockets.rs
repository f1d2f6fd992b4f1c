//! Binding, and peers that say nothing.

use std::os::unix::fs::PermissionsExt as _;

use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::{Limits, ListenError};

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let directory = private_directory();
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left behind");
    let listener = Listener::unix(&path).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let error = Listener::unix(&path).await.unwrap_err();
    assert!(matches!(error, ListenError::SocketInUse { .. }));
    if cfg!(target_os = "linux") {
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    }
    drop(listener);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn a_file_or_an_open_directory_is_refused() {
    let directory = private_directory();
    let path = directory.path().join("s");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::unix(&path).await, Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let other = directory.path().join("t");
    assert!(matches!(Listener::unix(&other).await, Err(ListenError::DirectoryNotPrivate { .. })));
}

#[tokio::test]
async fn a_taken_port_names_its_holder() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Listener::tcp(address, None).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("another port"), "{error}");
    if cfg!(target_os = "linux") {
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_let_go() {
    let limits = Limits { first_byte: Duration::from_millis(50), max_connections: 1, ..Limits::default() };
    let daemon = unix(Options { limits, ..Options::default() }).await;
    for begin in [&b""[..], b"PRI * HTTP/2"] {
        let mut silent = UnixStream::connect(&daemon.path).await.unwrap();
        silent.write_all(begin).await.unwrap();
        assert_eq!(soon(silent.read(&mut [0; 8])).await.unwrap_or(0), 0);
    }
    // The only place is free again.
    client(&daemon.endpoint, None).await.system().get_server_info(info()).await.unwrap();
    assert!(daemon.server.metrics_text().contains("gander_connections_silent_total 2"));
}

#[tokio::test]
async fn two_daemons_do_not_see_each_other() {
    let (one, two) = (unix(Options::default()).await, unix(Options::default()).await);
    client(&one.endpoint, None).await.system().get_server_info(info()).await.unwrap();
    assert!(one.server.metrics_text().contains("gander_connections_total 1"));
    assert!(two.server.metrics_text().contains("gander_connections_total 0"));
    soon(one.server.drain(Duration::from_secs(10))).await;
    client(&two.endpoint, None).await.system().get_server_info(info()).await.unwrap();
}
