//! What the actor of a server does about challenges.

use std::sync::Arc;

use gander_domain::{ErrorDetail, ErrorReason, extension::ExtensionState};

use super::{
    access::{Challenge, Kind},
    flow::{Question, Refusal, Step, ask, prepare},
};
use crate::{connection::Connection, server::Server, stderr::clean};

/// Cause of a failure that was the user's decision, or nobody's answer.
const AUTH_DECLINED: &str = "AUTH_DECLINED";

/// The error of a server that waits for its user.
pub(crate) fn needs_auth(server: &Server, kind: Kind) -> ErrorDetail {
    let wants = match kind {
        Kind::Unauthorized => "wants to be authorized",
        Kind::Scope => "wants to be authorized for more than before",
    };
    ErrorDetail::new(
        ErrorReason::ExtensionNeedsAuth,
        format!("extension {} {wants}; answer the session's open question", server.key()),
    )
    .with("extensionName", server.key())
    .with("authorization", "asked")
}

/// The state, the cause and the error of a server that did not get its authorization.
pub(crate) fn refused(server: &Server, refusal: &Refusal) -> (ExtensionState, String, ErrorDetail) {
    let text = clean(&refusal.text, server.sensitive());
    let cause = if refusal.declined { format!("{AUTH_DECLINED}: {text}") } else { text.clone() };
    // Before anybody was asked, nothing was decided.
    let state = if refusal.asked { ExtensionState::Failed } else { ExtensionState::NeedsAuth };
    // Where nobody was asked, asking again would change nothing by itself.
    let remedy = if refusal.asked {
        "restart it to try again"
    } else {
        "set its credentials (an Authorization header, or MCP_OAUTH_CLIENT_ID in its environment), or restart it to \
         try again"
    };
    let error = ErrorDetail::new(
        ErrorReason::ExtensionNeedsAuth,
        format!("extension {} is not authorized: {text}; {remedy}", server.key()),
    )
    .with("extensionName", server.key());
    let error = if refusal.declined { error.with("cause", AUTH_DECLINED) } else { error };
    (state, cause, error)
}

/// Asks, and says so in the server's state.
pub(crate) async fn ask_openly(server: &Server, kind: Kind, question: Question) -> Result<(), Refusal> {
    let error = needs_auth(server, kind);
    let cause = error.message.clone();
    server.enter(ExtensionState::NeedsAuth, &cause, Some(error), None);
    ask(server, question).await
}

/// Answers the challenges of a ready server. Ends when the server cannot go on.
pub(crate) async fn answer_challenges(server: &Server, connection: &Arc<Connection>) -> Refusal {
    loop {
        let challenge = server.access().raised().await;
        let outcome = Box::pin(answer(server, connection, &challenge)).await;
        match outcome {
            Ok(()) => {
                server.resumed(connection);
                server.access().settle(true);
            }
            // What it was granted before still holds.
            Err(refusal) if challenge.kind == Kind::Scope => {
                let text = clean(&refusal.text, server.sensitive());
                tracing::warn!(extension = server.key(), "no authorization for more scopes: {text}");
                server.resumed(connection);
                server.access().settle(false);
            }
            Err(refusal) => {
                server.access().settle(false);
                return refusal;
            }
        }
    }
}

async fn answer(server: &Server, connection: &Connection, challenge: &Challenge) -> Result<(), Refusal> {
    match prepare(server, challenge).await? {
        Step::Authorized => Ok(()),
        Step::Ask(question) => {
            // The call that met the challenge waits; a person is slower than a server may be.
            let _waiting = connection.asks.pause();
            ask_openly(server, challenge.kind, *question).await
        }
    }
}
