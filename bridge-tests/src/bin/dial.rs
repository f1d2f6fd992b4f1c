//! Calls a daemon once and prints how it answered: `ok`, or the reason of the refusal. Tests start it in places from
//! which a daemon must not be called.
//!
//! `dial unix:PATH` or `dial http://HOST:PORT`, and as the second word the path of a token file.
#![allow(clippy::print_stdout, reason = "the answer is what this program is for")]

use std::process::ExitCode;

use gander_client::{Client, ClientError, ClientOptions, Endpoint};
use gander_proto::v1::ListSessionsRequest;
use secrecy::SecretString;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match call().await {
        Ok(()) => {
            println!("dial: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("dial: {} {:?} {}", error.reason, error.code, error.message);
            ExitCode::FAILURE
        }
    }
}

async fn call() -> Result<(), ClientError> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_default();
    let endpoint = match address.strip_prefix("unix:") {
        Some(path) => Endpoint::unix(path),
        None => Endpoint::tcp(address),
    };
    let mut options = ClientOptions::new("dial");
    let token = arguments.next().and_then(|file| std::fs::read_to_string(file).ok());
    options.token = token.map(|token| SecretString::from(token.trim()));
    let client = Client::connect(endpoint, options).await?;
    client.sessions().list_sessions(ListSessionsRequest::default()).await?;
    Ok(())
}
