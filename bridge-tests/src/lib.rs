//! The harness of the tests that cross crates: a daemon in this process or as a child, clients over every transport, and
//! small helpers over the API's messages.
//!
//! Every wait has a deadline and panics with what it waited for. Every daemon is checked with `CheckStore` at the end of
//! its test (`finish`), and dropping one that was not finished is a failure by itself. Nothing here is shared between
//! tests, no port is fixed, and the environment of this process is never changed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "this crate is tests only: a panic is how it reports"
)]

pub mod child;
pub mod daemon;
pub mod events;
pub mod files;
pub mod processes;
pub mod window;
pub mod wire;

use std::{future::Future, path::PathBuf, time::Duration};

use gander_client::{Client, ClientError, ClientOptions, Endpoint, ReconnectOptions};
use secrecy::SecretString;

pub use child::ChildDaemon;
pub use daemon::TestDaemon;
pub use gander_proto::v1 as pb;

/// Longest wait of a test for anything that has no bound of its own.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for `future`, at most [`DEADLINE`].
///
/// # Panics
/// When it takes longer; `what` tells for what it waited.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(DEADLINE, what, future).await
}

/// Waits for `future`, at most `limit`.
///
/// # Panics
/// When it takes longer.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {limit:?} in vain for {what}"),
    }
}

/// Asks again and again, with short pauses, until `probe` gives something; for what tells nobody when it changes.
///
/// # Panics
/// When nothing came within `limit`.
pub async fn eventually<T, F>(limit: Duration, what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = std::time::Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The `gander` program: `GANDER_TEST_GANDER`, else the one beside this test program.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn gander_binary() -> PathBuf {
    let path = std::env::var_os("GANDER_TEST_GANDER").map_or_else(|| built("gander"), PathBuf::from);
    assert!(
        path.is_file(),
        "{} does not exist: run the tests with `cargo xtask test`, or first `cargo build -p gander`, or set \
         GANDER_TEST_GANDER",
        path.display()
    );
    path
}

/// A program of this workspace that was built with the same profile as this test program.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let folder = own.parent().expect("a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("a profile's folder") } else { folder };
    folder.join(name)
}

/// Whether a test may be skipped because something outside of the repository is missing. Prints why.
///
/// # Panics
/// When `GANDER_TEST_REQUIRE` is set: then nothing may be skipped.
pub fn skip(why: &str) {
    assert!(std::env::var_os("GANDER_TEST_REQUIRE").is_none(), "must not be skipped: {why}");
    eprintln!("skipped: {why}");
}

/// Options of a test's client: it gives up a lost daemon only after [`DEADLINE`].
#[must_use]
pub fn client_options(token: Option<&str>) -> ClientOptions {
    let mut options = ClientOptions::new("bridge-tests");
    options.token = token.map(SecretString::from);
    options.reconnect = ReconnectOptions {
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(200),
        max_outage: DEADLINE,
        max_silence: Duration::from_secs(60),
    };
    options
}

/// A connected client.
///
/// # Errors
/// Nobody listens there.
pub async fn connect(endpoint: Endpoint, token: Option<&str>) -> Result<Client, ClientError> {
    Client::connect(endpoint, client_options(token)).await
}

/// A number that occurs nowhere else, as text of digits: it may stand in a `sleep` and is found again in `/proc`.
#[must_use]
pub fn unique_digits() -> String {
    (uuid::Uuid::now_v7().as_u128() % 10_u128.pow(18) + 10_u128.pow(18)).to_string()
}

/// A word that occurs nowhere else.
#[must_use]
pub fn unique_word() -> String {
    format!("mark{:032x}", uuid::Uuid::now_v7().as_u128().rotate_left(64))
}
