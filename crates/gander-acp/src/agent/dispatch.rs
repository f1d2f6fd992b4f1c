//! Who handles which message, in which order.

use std::sync::Arc;

use agent_client_protocol_schema::v1 as acp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Inner, Prompt, watching::Start};
use crate::rpc::{self, Incoming, RpcError};

/// Messages that may come before `initialize` is answered.
const MAX_EARLY: usize = 64;

/// Requests of a client at a time, prompts included.
const MAX_WORKING: usize = 1024;

/// What handling a request gave.
pub(super) enum Handled {
    Reply(Value),
    /// The answer first, then these updates of the session.
    ReplyThen(Value, String, Vec<acp::SessionUpdate>),
    /// The answer first, then the session is followed.
    Start(Value, Box<Start>),
    /// Somebody else answers.
    Later,
}

pub(super) type Outcome = Result<Handled, RpcError>;

impl Handled {
    pub(super) fn reply(value: &impl Serialize) -> Outcome {
        Ok(Self::Reply(to_json(value)?))
    }
}

pub(super) fn to_json(value: &impl Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(value)
        .map_err(|error| RpcError::internal(format!("an answer has no JSON form: {error}")))
}

/// A text of the parameters that must be there.
pub(super) fn required<'a>(params: &'a Value, key: &str) -> Result<&'a str, RpcError> {
    params
        .get(key)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| RpcError::params(format!("{key} must be a text")))
}

/// Whether a request about a session waits for the ones before it and holds up the ones behind it. What may take long and
/// changes nothing that the others rely on does not: a tool's call must not keep a prompt from starting.
fn waits_its_turn(method: &str) -> bool {
    let rest = method.strip_prefix("_goose/").unwrap_or(method);
    let rest = rest.strip_prefix("unstable/").unwrap_or(rest);
    !matches!(
        rest,
        "tools/call"
            | "tools/list"
            | "tools"
            | "resources/read"
            | "resource/read"
            | "session/export"
            // What it answers may be what the others wait for.
            | "elicitation/respond"
    )
}

impl Inner {
    pub(super) async fn dispatch(self: &Arc<Self>, message: Incoming) {
        match message {
            Incoming::Response { id, outcome } => self.answered(&id, outcome),
            Incoming::Request { id, method, params } if method == "initialize" => {
                self.initialize(&id, &params).await;
                let early = std::mem::take(&mut self.state().early);
                for message in early {
                    self.route(message).await;
                }
            }
            other => {
                let refused = {
                    let mut state = self.state();
                    if state.initialized {
                        None
                    } else if state.early.len() < MAX_EARLY {
                        state.early.push(other);
                        return;
                    } else {
                        Some(())
                    }
                };
                match (refused, other) {
                    (None, other) => self.route(other).await,
                    (Some(()), Incoming::Request { id, .. }) => {
                        let error =
                            RpcError::new(rpc::INVALID_REQUEST, "the first message must be initialize");
                        self.queue.push(None, rpc::response(&id, Err(error))).await;
                    }
                    (Some(()), _) => {}
                }
            }
        }
    }

    async fn route(self: &Arc<Self>, message: Incoming) {
        match message {
            Incoming::Notification { method, params } => self.notified(&method, &params),
            Incoming::Request { id, method, params } => {
                let error = {
                    let state = self.state();
                    if state.working.contains_key(&id.to_string()) {
                        // Two answers with one id could not be told apart, nor the two cancelled.
                        Some(RpcError::new(rpc::INVALID_REQUEST, "a request with this id is still open"))
                    } else if state.working.len() >= MAX_WORKING {
                        let error = RpcError::internal("too many requests at a time");
                        Some(error.with(json!({"retryable": true})))
                    } else {
                        None
                    }
                };
                match error {
                    None => self.requested(id, method, params),
                    Some(error) => self.queue.push(None, rpc::response(&id, Err(error))).await,
                }
            }
            Incoming::Response { id, outcome } => self.answered(&id, outcome),
        }
    }

    fn notified(self: &Arc<Self>, method: &str, params: &Value) {
        match method {
            "session/cancel" => match params.get("sessionId").and_then(Value::as_str) {
                Some(session_id) => self.cancel_session(session_id),
                None => tracing::debug!("session/cancel without a sessionId"),
            },
            "$/cancel_request" | "$/cancelRequest" => {
                if let Some(id) = params.get("requestId").or_else(|| params.get("id")) {
                    self.cancel_request(id);
                }
            }
            // Notifications that nobody knows are ignored, as the protocol says.
            _ => tracing::debug!(method, "notification ignored"),
        }
    }

    fn cancel_request(self: &Arc<Self>, id: &Value) {
        let (prompt, token) = {
            let state = self.state();
            let prompt = state.prompts.iter().find(|prompt| prompt.id == *id).map(|p| p.turn_id.clone());
            (prompt, state.working.get(&id.to_string()).cloned())
        };
        match prompt {
            Some(turn_id) => self.cancel_prompts(|prompt| prompt.turn_id == turn_id),
            None => {
                if let Some(token) = token {
                    token.cancel();
                }
            }
        }
    }

    fn requested(self: &Arc<Self>, id: Value, method: String, params: Value) {
        let session_id = params.get("sessionId").and_then(Value::as_str).map(str::to_owned);
        let cancel = CancellationToken::new();
        let (done, wait) = {
            let mut state = self.state();
            state.working.insert(id.to_string(), cancel.clone());
            match &session_id {
                Some(session_id) if waits_its_turn(&method) => {
                    let (done, latest) = oneshot::channel();
                    state.lines.retain(|_, line| {
                        matches!(line.try_recv(), Err(oneshot::error::TryRecvError::Empty))
                    });
                    (Some(done), state.lines.insert(session_id.clone(), latest))
                }
                _ => (None, None),
            }
        };
        // Known before anything is waited for, so that a cancel right behind it finds it.
        if method == "session/prompt"
            && let Some(session_id) = &session_id
        {
            let prompt = Prompt {
                id: id.clone(),
                session_id: session_id.clone(),
                turn_id: uuid::Uuid::now_v7().to_string(),
                asked_for: false,
                started: false,
                cancelled: false,
            };
            self.state().prompts.push(prompt);
        }
        let inner = self.clone();
        self.spawn(async move {
            if let Some(wait) = wait {
                // Dropped without a word means done as well.
                let _ = wait.await;
            }
            // What makes a session is not cut off in the middle: it would be left behind.
            let whole = matches!(method.as_str(), "session/new" | "session/fork");
            let handled = tokio::select! {
                handled = inner.handle(&id, &method, params) => handled,
                () = cancel.cancelled(), if !whole => Err(RpcError::cancelled()),
            };
            inner.conclude(&id, session_id.as_deref(), handled, cancel.is_cancelled()).await;
            drop(done);
        });
    }

    async fn conclude(
        self: &Arc<Self>,
        id: &Value,
        session_id: Option<&str>,
        handled: Outcome,
        cancelled: bool,
    ) {
        match handled {
            Ok(Handled::Later) => return,
            Ok(Handled::Reply(result)) => self.reply(id, session_id, Ok(result)).await,
            Ok(Handled::ReplyThen(result, session_id, updates)) => {
                self.reply(id, Some(&session_id), Ok(result)).await;
                for update in updates {
                    self.queue.update(&session_id, update).await;
                }
            }
            Ok(Handled::Start(_, start)) if cancelled && start.created => {
                self.forget_new(&start).await;
                self.reply(id, session_id, Err(RpcError::cancelled())).await;
            }
            Ok(Handled::Start(result, start)) => {
                self.reply(id, session_id, Ok(result)).await;
                self.begin(*start).await;
            }
            Err(error) => self.reply(id, session_id, Err(error)).await,
        }
        self.done(id);
    }

    async fn reply(&self, id: &Value, session_id: Option<&str>, outcome: Result<Value, RpcError>) {
        self.queue.push(session_id, rpc::response(id, outcome)).await;
    }

    /// The request is answered.
    pub(super) fn done(&self, id: &Value) {
        self.state().working.remove(&id.to_string());
        self.prompt_answered.notify_waiters();
        self.prompt_answered.notify_one();
    }

    async fn handle(self: &Arc<Self>, id: &Value, method: &str, params: Value) -> Outcome {
        if !params.is_object() {
            return Err(RpcError::params("the parameters must be an object"));
        }
        let params = &params;
        match method {
            "authenticate" => self.authenticate(params).await,
            "logout" => self.logout(id).await,
            "session/new" => Box::pin(self.new_session(params)).await,
            "session/load" => Box::pin(self.load_session(params)).await,
            "session/resume" => Box::pin(self.resume_session(params)).await,
            "session/list" => self.list_sessions(params).await,
            "session/close" => Box::pin(self.close_session(params)).await,
            "session/delete" => self.delete_session(params).await,
            "session/prompt" => Box::pin(self.prompt(id, params)).await,
            "session/set_mode" => self.set_mode(params).await,
            "session/set_config_option" => self.set_config_option(params).await,
            "session/set_model" => self.set_model(params).await,
            "session/fork" => Box::pin(self.fork_session(params)).await,
            "session/set_title" => self.set_title(params).await,
            "session/archive" => self.archive(params, true).await,
            "session/unarchive" => self.archive(params, false).await,
            "session/status" => self.session_status(params).await,
            "_session/steering" => self.steer(params).await,
            // Some clients send what should be a notification as a request.
            "session/cancel" => {
                self.cancel_session(required(params, "sessionId")?);
                Ok(Handled::Reply(json!({})))
            }
            other => match other.strip_prefix("_goose/") {
                Some(rest) => {
                    Box::pin(self.goose(id, rest.strip_prefix("unstable/").unwrap_or(rest), params)).await
                }
                None => Err(RpcError::unknown_method(other)),
            },
        }
    }
}
