//! Who asks, and under which idempotency key.

use gander_domain::{Actor, ErrorDetail};
use gander_engine::{IdempotencyKey, RequestContext};
use gander_proto::v1 as pb;
use prost::Message;
use tonic::{Request, Status, metadata::MetadataMap};

use crate::{canonical, error::IntoStatus as _};

/// Name and version of the client program, such as `gander-cli/0.1.0`.
const CLIENT_KEY: &str = "gander-client";
/// Protocol that an adapter speaks to the outside, such as `acp`.
const PROTOCOL_KEY: &str = "gander-protocol";
const MAX_CLIENT_BYTES: usize = 128;
const MAX_PROTOCOL_BYTES: usize = 32;
const MAX_KEY_BYTES: usize = 64;

/// Whom the listener has authenticated. It puts this into the request's extensions; without it the caller is `unknown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// `uid:1000`, `token`.
    pub name: String,
    /// `grpc` unless an adapter says more.
    pub protocol: String,
}

impl Default for Principal {
    fn default() -> Self {
        Self { name: "unknown".to_owned(), protocol: "grpc".to_owned() }
    }
}

/// Who sent a request. Client name and protocol are what the client says of itself: informational only.
pub(crate) fn actor<T>(request: &Request<T>) -> Actor {
    let principal = request.extensions().get::<Principal>().cloned().unwrap_or_default();
    let metadata = request.metadata();
    let protocol = said(metadata, PROTOCOL_KEY, MAX_PROTOCOL_BYTES)
        .filter(|p| p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    Actor {
        principal: principal.name,
        client_name: said(metadata, CLIENT_KEY, MAX_CLIENT_BYTES).unwrap_or_default(),
        protocol: protocol.unwrap_or(principal.protocol),
    }
}

fn said(metadata: &MetadataMap, key: &str, max: usize) -> Option<String> {
    let text = metadata.get(key)?.to_str().ok()?.trim();
    // Metadata values are visible ASCII, so bytes are characters.
    (!text.is_empty()).then(|| text.get(..max).unwrap_or(text).to_owned())
}

/// A request that may carry an idempotency key.
pub(crate) trait Keyed: Message {
    /// RPC name.
    const METHOD: &'static str;
    fn idempotency_key(&self) -> &str;
}

macro_rules! keyed {
    ($($method:literal => $request:ident,)*) => {$(
        impl Keyed for pb::$request {
            const METHOD: &'static str = $method;
            fn idempotency_key(&self) -> &str {
                &self.idempotency_key
            }
        }
    )*};
}

keyed! {
    "CreateSession" => CreateSessionRequest,
    "UpdateSession" => UpdateSessionRequest,
    "DeleteSession" => DeleteSessionRequest,
    "LoadSession" => LoadSessionRequest,
    "UnloadSession" => UnloadSessionRequest,
    "ForkSession" => ForkSessionRequest,
    "RewindSession" => RewindSessionRequest,
    "ReplaceHistory" => ReplaceHistoryRequest,
    "CompactSession" => CompactSessionRequest,
    "ImportSession" => ImportSessionRequest,
    "RedactItem" => RedactItemRequest,
    "SetSessionOption" => SetSessionOptionRequest,
    "SteerTurn" => SteerTurnRequest,
    "CancelTurn" => CancelTurnRequest,
    "RespondToInteraction" => RespondToInteractionRequest,
    "ReportHostProgress" => ReportHostProgressRequest,
    "CompleteHostCall" => CompleteHostCallRequest,
    "AddSessionExtension" => AddSessionExtensionRequest,
    "RemoveSessionExtension" => RemoveSessionExtensionRequest,
    "RestartSessionExtension" => RestartSessionExtensionRequest,
    "CallTool" => CallToolRequest,
    "SaveRecipe" => SaveRecipeRequest,
    "DeleteRecipe" => DeleteRecipeRequest,
    "SetRecipeCommand" => SetRecipeCommandRequest,
    "DraftRecipe" => DraftRecipeRequest,
    "CreateSchedule" => CreateScheduleRequest,
    "UpdateSchedule" => UpdateScheduleRequest,
    "DeleteSchedule" => DeleteScheduleRequest,
    "RunSchedule" => RunScheduleRequest,
    "CancelScheduleRun" => CancelScheduleRunRequest,
}

/// Takes a request apart: who asks under which key, and the message.
pub(crate) fn incoming<M: Keyed>(request: Request<M>) -> Result<(RequestContext, M), Status> {
    let actor = actor(&request);
    let message = request.into_inner();
    let key = message.idempotency_key();
    if key.len() > MAX_KEY_BYTES {
        let why = format!("must have at most {MAX_KEY_BYTES} characters, has {}; a UUID is best", key.len());
        return Err(ErrorDetail::invalid("idempotency_key", why)).or_status();
    }
    let idempotency = (!key.is_empty()).then(|| IdempotencyKey {
        method: M::METHOD.to_owned(),
        key: key.to_owned(),
        request_hash: canonical::request_hash(&format!("{}Request", M::METHOD), &message),
    });
    Ok((RequestContext { actor, idempotency }, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(message: pb::CancelTurnRequest) -> Request<pb::CancelTurnRequest> {
        Request::new(message)
    }

    #[test]
    fn the_actor_is_the_principal_and_what_the_client_says() {
        let mut r = request(pb::CancelTurnRequest::default());
        assert_eq!(actor(&r).principal, "unknown");
        assert_eq!(actor(&r).protocol, "grpc");
        r.extensions_mut().insert(Principal { name: "uid:7".into(), protocol: "grpc".into() });
        r.metadata_mut().insert(CLIENT_KEY, "cli/1".parse().unwrap());
        r.metadata_mut().insert(PROTOCOL_KEY, "acp".parse().unwrap());
        let expected =
            Actor { principal: "uid:7".into(), client_name: "cli/1".into(), protocol: "acp".into() };
        assert_eq!(actor(&r), expected);
        r.metadata_mut().insert(PROTOCOL_KEY, "Not A Word".parse().unwrap());
        r.metadata_mut().insert(CLIENT_KEY, "x".repeat(500).parse().unwrap());
        assert_eq!((actor(&r).protocol.as_str(), actor(&r).client_name.len()), ("grpc", 128));
    }

    #[test]
    fn keys_become_part_of_the_context() {
        let message = |key: &str, session: &str| pb::CancelTurnRequest {
            idempotency_key: key.into(),
            session_id: session.into(),
            ..Default::default()
        };
        let key = |m| incoming(request(m)).unwrap().0.idempotency;
        assert_eq!(key(message("", "s")), None);
        let (a, b, c) = (key(message("k", "s")), key(message("l", "s")), key(message("k", "t")));
        let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
        assert_eq!((a.method.as_str(), a.key.as_str()), ("CancelTurn", "k"));
        assert_eq!(a.request_hash, b.request_hash);
        assert_ne!(a.request_hash, c.request_hash);
        assert_eq!(
            incoming(request(message(&"k".repeat(65), "s"))).unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }
}
