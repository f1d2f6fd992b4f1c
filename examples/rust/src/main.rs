//! A client of gander in Rust: one session, one turn, printed as it happens.
//!
//! Start a daemon with `gander serve`, then: `cargo run -p gander-example-rust -- SOCKET "list the files here"`,
//! where SOCKET is the path in the daemon's first line.
#![allow(clippy::print_stdout, reason = "it is an example for a terminal")]

use std::io::Write as _;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use gander_client::{Client, ClientOptions, Endpoint};
use gander_proto::v1::{
    CreateSessionRequest, Part, RunTurnRequest, TurnInput, TurnState, item, part, session_event::Payload,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(socket), Some(prompt)) = (arguments.next(), arguments.next()) else {
        bail!("usage: gander-example-rust SOCKET PROMPT");
    };
    let client = Client::connect(Endpoint::unix(socket), ClientOptions::new("example")).await?;

    let here = std::path::absolute(".")?.display().to_string();
    let request = CreateSessionRequest {
        working_directory: here,
        demo_allowed: true,
        ..CreateSessionRequest::default()
    };
    let created = client.sessions().create_session(request).await?.into_inner();
    let session = created.session.context("no session in the answer")?;

    let input = TurnInput {
        parts: vec![Part { body: Some(part::Body::Text(prompt)), ..Part::default() }],
        ..TurnInput::default()
    };
    // The stream survives lost connections; dropping it does not end the turn (`turns().cancel_turn` does).
    let request =
        RunTurnRequest { session_id: session.session_id, input: Some(input), ..RunTurnRequest::default() };
    let mut events = client.run_turn(request);
    while let Some(event) = events.next().await {
        match event?.payload {
            Some(Payload::TextDelta(delta)) => print!("{}", delta.text),
            Some(Payload::ItemCompleted(completed)) => match completed.item.and_then(|item| item.body) {
                Some(item::Body::AgentMessage(_)) => println!(),
                Some(item::Body::ToolCall(call)) => println!("[{} {:?}]", call.title, call.status()),
                _ => {}
            },
            // The stream ends well also when the turn did not: look at its state.
            Some(Payload::TurnEnded(ended)) => {
                let turn = ended.turn.context("no turn in the event")?;
                let error = turn.error.as_ref().map_or("", |error| &error.message);
                anyhow::ensure!(turn.state() == TurnState::Completed, "the turn {:?}: {error}", turn.state());
            }
            _ => {}
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
