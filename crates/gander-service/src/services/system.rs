//! SystemService: the daemon itself.

use std::time::Duration;

use gander_domain::{ErrorDetail, ErrorReason, SessionId};
use gander_engine::{Change, EngineInfo, MAX_INLINE_BYTES, StoreCheck};
use gander_proto::v1::{self as pb, ServerChangeKind as Kind, system_service_server::SystemService};
use tokio::sync::{OwnedSemaphorePermit, broadcast::error::RecvError};
use tonic::{Request, Response, Status};

use super::content;
use crate::{
    Api, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES,
    convert::{At, Violations, duration_to_pb, int32, int64, session},
    error::IntoStatus as _,
    watch::{Answers, closing},
};

type Answer<T> = Result<Response<T>, Status>;

/// What this daemon can do beyond the basics; clients look for a name instead of comparing versions.
const FEATURES: &[&str] = &[
    "compaction",
    "config",
    "diagnostics",
    "direct_tool_calls",
    "export_import",
    "extensions",
    "host_service",
    "permission_rules",
    "recipes",
    "prompt_templates",
    "redaction",
    "schedules",
    "search",
];
/// Largest event, by the rule that larger values are stored beside the log.
const MAX_EVENT_BYTES: i64 = 1024 * 1024;
/// Streams that the listeners allow per HTTP/2 connection.
const MAX_STREAMS_PER_CONNECTION: i32 = 256;
/// Time for running turns where neither the request nor the daemon says otherwise.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

#[tonic::async_trait]
impl SystemService for Api {
    async fn get_server_info(
        &self,
        _request: Request<pb::GetServerInfoRequest>,
    ) -> Answer<pb::GetServerInfoResponse> {
        let info = self.engine.info().await;
        let model =
            self.run_blocking(|engine| Ok(engine.default_model(false).map_err(|e| e.message))).await?;
        let (default_model, default_model_reason) = match model {
            Ok(resolved) => (Some(session::model_to_pb(&resolved.selection)), resolved.reason),
            Err(why) => (None, why),
        };
        let server_info =
            Some(pb::ServerInfo { default_model, default_model_reason, ..self.server_info(&info) });
        Ok(Response::new(pb::GetServerInfoResponse { server_info }))
    }

    type WatchServerStream = Answers<pb::WatchServerResponse>;

    async fn watch_server(
        &self,
        request: Request<pb::WatchServerRequest>,
    ) -> Answer<Self::WatchServerStream> {
        let kinds = request.into_inner().kinds;
        let permit = self.open_stream().or_status()?;
        Ok(Response::new(watch_server(self, kinds, permit)))
    }

    type CheckStoreStream = Answers<pb::CheckStoreResponse>;

    async fn check_store(&self, request: Request<pb::CheckStoreRequest>) -> Answer<Self::CheckStoreStream> {
        let mut v = Violations::default();
        let session_id = &request.get_ref().session_id;
        let only = v.optional_id(&At::root("session_id"), session_id, |t| SessionId::new(t));
        let only = v.finish(Some(only)).or_status()?;
        if let Some(id) = &only {
            self.engine.get_session(id).await.or_status()?;
        }
        let check = self.engine.check_store(only.as_ref()).await.or_status()?;
        Ok(Response::new(Box::pin(futures::stream::iter(check_to_pb(check).map(Ok)))))
    }

    type GetDiagnosticsStream = Answers<pb::GetDiagnosticsResponse>;

    async fn get_diagnostics(
        &self,
        request: Request<pb::GetDiagnosticsRequest>,
    ) -> Answer<Self::GetDiagnosticsStream> {
        let mut v = Violations::default();
        let id = v.optional_id(&At::root("session_id"), &request.get_ref().session_id, |t| SessionId::new(t));
        let id = v.finish(Some(id)).or_status()?;
        let info = self.engine.info().await;
        let server = self.server_info(&info);
        let described = serde_json::json!({
            "version": server.version,
            "commit": server.commit,
            "platform": server.platform,
            "features": server.api_features,
            "data_directory": server.data_directory,
            "config_directory": server.config_directory,
            "uptime_seconds": info.uptime.as_secs(),
            "active_turns": info.active_turns,
            "loaded_sessions": info.loaded_sessions,
            "listeners": server.listeners.iter().map(|l| &l.address).collect::<Vec<_>>(),
        });
        let bytes = self.engine.diagnostics(id.as_ref(), described).await.or_status()?;
        Ok(Response::new(content::chunks(bytes.into(), |data| pb::GetDiagnosticsResponse { data })))
    }

    async fn shutdown(&self, request: Request<pb::ShutdownRequest>) -> Answer<pb::ShutdownResponse> {
        let request = request.into_inner();
        let mut v = Violations::default();
        let grace = v.duration(&At::root("grace_period"), request.grace_period).unwrap_or(DEFAULT_GRACE);
        let grace = v.finish(Some(grace)).or_status()?;
        let Some(shutdown) = &self.options.shutdown else {
            let message = "this daemon is embedded in another program, which alone can stop it";
            return Err(ErrorDetail::new(ErrorReason::CapabilityMissing, message)).or_status();
        };
        let info = self.engine.info().await;
        if request.only_if_idle && !self.engine.is_idle().await {
            let message = "the daemon is not idle: a turn runs or waits, or a host is attached";
            return Err(ErrorDetail::new(ErrorReason::TurnAlreadyRunning, message)).or_status();
        }
        tracing::info!(grace_ms = crate::convert::millis(grace), "a client asked the daemon to stop");
        shutdown(grace);
        Ok(Response::new(pb::ShutdownResponse { active_turn_count: int32(info.active_turns) }))
    }
}

impl Api {
    fn server_info(&self, info: &EngineInfo) -> pb::ServerInfo {
        let listener = |l: &crate::Listener| pb::ServerListener {
            address: l.address.clone(),
            protocols: l.protocols.clone(),
        };
        let drain = if info.draining { pb::DrainState::Draining } else { pb::DrainState::Serving };
        pb::ServerInfo {
            version: self.options.version.clone(),
            commit: self.options.commit.clone(),
            api_features: FEATURES.iter().map(|f| (*f).to_owned()).collect(),
            limits: Some(pb::ServerLimits {
                max_request_bytes: MAX_REQUEST_BYTES as i64,
                max_response_bytes: MAX_RESPONSE_BYTES as i64,
                max_event_bytes: MAX_EVENT_BYTES,
                max_inline_part_bytes: MAX_INLINE_BYTES as i64,
                max_page_size: 200,
                max_streams_per_connection: MAX_STREAMS_PER_CONNECTION,
                checkpoint_interval: Some(duration_to_pb(self.options.checkpoint_interval)),
                min_client_ping_interval: Some(duration_to_pb(Duration::from_secs(300))),
            }),
            default_model: None,
            default_model_reason: String::new(),
            listeners: self.options.listeners.iter().map(listener).collect(),
            uptime: Some(duration_to_pb(info.uptime)),
            drain_state: drain as i32,
            data_directory: self.options.data_directory.clone(),
            config_directory: self.engine.config().paths().config_dir().to_string_lossy().into_owned(),
            pid: i64::from(std::process::id()),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            active_turn_count: int32(info.active_turns),
            loaded_session_count: int32(info.loaded_sessions),
        }
    }
}

/// Hints about changes until the daemon drains.
fn watch_server(
    api: &Api,
    kinds: Vec<i32>,
    permit: OwnedSemaphorePermit,
) -> Answers<pb::WatchServerResponse> {
    use pb::watch_server_response::Payload;
    let interval = api.options.checkpoint_interval;
    // Subscribed before the first message: whoever fetches after it misses nothing.
    let (mut changes, mut config) = (api.engine.changes(), api.engine.config().subscribe());
    let closed = api.engine.closing();
    let wrap = |payload| Ok(pb::WatchServerResponse { payload: Some(payload) });
    let checkpoint = || Payload::Checkpoint(pb::Checkpoint { caught_up: true });
    Box::pin(async_stream::stream! {
        let _permit = permit;
        yield wrap(checkpoint());
        loop {
            let hints = tokio::select! {
                change = changes.recv() => match change {
                    Ok(change) => hint(change),
                    // Too slow for single hints: everything may have changed.
                    Err(RecvError::Lagged(_)) => anything(&[Kind::Sessions, Kind::Interactions]),
                    Err(RecvError::Closed) => return,
                },
                changed = config.changed() => match changed {
                    // Providers and extensions are configured in the same files.
                    Ok(()) => anything(&[Kind::Config, Kind::Extensions, Kind::Providers]),
                    Err(_) => return,
                },
                () = closed.cancelled() => {
                    yield wrap(Payload::StreamClosing(closing(gander_engine::WatchClosed::Drain)));
                    return;
                }
                () = tokio::time::sleep(interval) => {
                    yield wrap(checkpoint());
                    continue;
                }
            };
            for hint in hints.into_iter().filter(|h| kinds.is_empty() || kinds.contains(&h.kind)) {
                yield wrap(Payload::Change(hint));
            }
        }
    })
}

fn hint(change: Change) -> Vec<pb::ServerChange> {
    let (kind, id) = match change {
        Change::Session(id) => (Kind::Sessions, Some(id)),
        Change::Interactions(id) => (Kind::Interactions, Some(id)),
        Change::Recipes => (Kind::Recipes, None),
        Change::Schedules => (Kind::Schedules, None),
    };
    let subject_id = id.map(|id| id.as_str().to_owned()).unwrap_or_default();
    vec![pb::ServerChange { kind: kind as i32, subject_id }]
}

fn anything(kinds: &[Kind]) -> Vec<pb::ServerChange> {
    kinds.iter().map(|k| pb::ServerChange { kind: *k as i32, subject_id: String::new() }).collect()
}

fn check_to_pb(check: StoreCheck) -> impl Iterator<Item = pb::CheckStoreResponse> {
    use pb::check_store_response::Payload;
    let summary = pb::StoreSummary {
        session_count: int64(check.sessions),
        event_count: int64(check.events),
        finding_count: int64(check.findings.len() as u64),
    };
    let findings = check.findings.into_iter().map(|(session_id, sequence, rule, message)| {
        let session_id = session_id.map(|id| id.as_str().to_owned()).unwrap_or_default();
        Payload::Finding(pb::StoreFinding { session_id, sequence, rule, message })
    });
    findings
        .chain(std::iter::once(Payload::Summary(summary)))
        .map(|payload| pb::CheckStoreResponse { payload: Some(payload) })
}
