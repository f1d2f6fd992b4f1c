//! Reports for a person with a problem, and what Goose's clients ask for that gander does not do.
//!
//! What a client calls in ordinary use gets a success that says "none" or "off"; nothing pretends to work.

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use futures::{StreamExt as _, stream};
use gander_client::ClientError;
use gander_proto::v1::{GetDiagnosticsRequest, GetServerInfoRequest, ListExtensionsRequest};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{App, error::ApiError, extract::Json};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/system_info", get(system_info))
        .route("/diagnostics/{session_id}", get(diagnostics))
        .route("/telemetry/event", post(telemetry))
        .route("/tunnel/status", get(tunnel_status))
        .route("/tunnel/start", post(tunnel_start))
        .route("/tunnel/stop", post(tunnel_stop))
        .route("/agent/list_apps", get(list_apps))
}

async fn system_info(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let (mut system, mut extensions) = (app.client().system(), app.client().extensions());
    let (info, listed) = tokio::try_join!(
        system.get_server_info(GetServerInfoRequest {}),
        extensions.list_extensions(ListExtensionsRequest {}),
    )?;
    let info = info.into_inner().server_info.unwrap_or_default();
    let enabled = listed.into_inner().extensions.into_iter().filter(|extension| extension.enabled);
    let names: Vec<String> = enabled.filter_map(|extension| Some(extension.config?.name)).collect();
    let (os, architecture) = info.platform.split_once('-').unwrap_or((&info.platform, ""));
    let model = info.default_model.as_ref();
    Ok(Json(json!({
        "app_version": info.version,
        "os": os,
        // The API does not tell; an empty text is what Goose sends when it cannot find out.
        "os_version": "",
        "architecture": architecture,
        "provider": model.map(|model| &model.provider_id),
        "model": model.map(|model| &model.model_id),
        "enabled_extensions": names,
    })))
}

/// The archive as it comes. The first chunk is awaited, so that an unknown session still gets a status.
async fn diagnostics(State(app): State<App>, Path(session_id): Path<String>) -> Result<Response, ApiError> {
    let request = GetDiagnosticsRequest { session_id: session_id.clone() };
    let mut chunks = app.client().system().get_diagnostics(request).await?.into_inner();
    let first = chunks.next().await.transpose()?.map(|chunk| chunk.data).unwrap_or_default();
    let rest = chunks.map(|chunk| match chunk {
        Ok(chunk) => Ok(chunk.data),
        Err(status) => Err(ClientError::from(status)),
    });
    let body = Body::from_stream(stream::iter([Ok(first)]).chain(rest));
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = session_id.chars().filter(plain).collect();
    let headers = [
        (header::CONTENT_TYPE, "application/zip".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"diagnostics_{name}.zip\"")),
    ];
    Ok((headers, body).into_response())
}

#[derive(Deserialize)]
struct TelemetryEvent {
    #[serde(rename = "event_name")]
    _event_name: String,
    #[serde(default, rename = "properties")]
    _properties: Map<String, Value>,
}

/// Read, so that a malformed event is told, and dropped: gander sends nothing anywhere.
async fn telemetry(Json(_event): Json<TelemetryEvent>) -> StatusCode {
    StatusCode::ACCEPTED
}

async fn tunnel_status() -> Json<Value> {
    Json(json!({ "state": "disabled", "url": "", "hostname": "", "secret": "" }))
}

/// The client of this route reads `error`, all others read `message`.
async fn tunnel_start() -> Response {
    let text = "gander opens no tunnels; reach it over the network with `gander serve`";
    (StatusCode::BAD_REQUEST, axum::Json(json!({ "error": text, "message": text }))).into_response()
}

async fn tunnel_stop() -> StatusCode {
    StatusCode::OK
}

async fn list_apps() -> Json<Value> {
    Json(json!({ "apps": [] }))
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use gander_proto::v1::{self as pb, ErrorReason};
    use serde_json::{Value, json};
    use tonic::Code;

    use crate::testing::Daemon;

    #[tokio::test]
    async fn the_system_is_described_from_the_daemon() {
        let info = pb::ServerInfo {
            version: "1.2.3".to_owned(),
            platform: "linux-x86_64".to_owned(),
            default_model: Some(pb::ModelSelection {
                provider_id: "openai".to_owned(),
                model_id: "gpt-4o".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let extension = |name: &str, enabled| pb::ConfiguredExtension {
            config: Some(pb::ExtensionConfig { name: name.to_owned(), ..Default::default() }),
            enabled,
            ..Default::default()
        };
        let extensions = vec![extension("developer", true), extension("memory", false)];
        let daemon = Daemon::new()
            .on("SystemService/GetServerInfo", &pb::GetServerInfoResponse { server_info: Some(info) })
            .on(
                "ExtensionService/ListExtensions",
                &pb::ListExtensionsResponse { extensions, warnings: vec![] },
            );
        let expected = json!({"app_version": "1.2.3", "os": "linux", "os_version": "", "architecture": "x86_64",
            "provider": "openai", "model": "gpt-4o", "enabled_extensions": ["developer"]});
        assert_eq!(daemon.get("/system_info").await.ok(), expected);
    }

    #[tokio::test]
    async fn the_archive_is_passed_on_whole() {
        let chunk = |data: &'static [u8]| pb::GetDiagnosticsResponse { data: data.into() };
        let daemon = Daemon::new()
            .streams("SystemService/GetDiagnostics", &[chunk(b"PK"), chunk(b"\x03\x04"), chunk(b"rest")]);
        let reply = daemon.get("/diagnostics/s1").await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["content-type"], "application/zip");
        assert_eq!(reply.headers["content-disposition"], "attachment; filename=\"diagnostics_s1.zip\"");
        assert_eq!(&reply.body[..], b"PK\x03\x04rest");
        let request: pb::GetDiagnosticsRequest = daemon.request("SystemService/GetDiagnostics");
        assert_eq!(request.session_id, "s1");
    }

    #[tokio::test]
    async fn an_unknown_session_has_no_archive() {
        let daemon = Daemon::new().fails(
            "SystemService/GetDiagnostics",
            Code::NotFound,
            ErrorReason::SessionNotFound,
            "there is no session s1",
        );
        assert_eq!(daemon.get("/diagnostics/s1").await.failed(), (404, "there is no session s1".to_owned()));
    }

    /// What gander does not do says so, without asking the daemon.
    #[tokio::test]
    async fn what_is_not_there_is_off_or_empty() {
        let daemon = Daemon::new();
        let off = json!({"state": "disabled", "url": "", "hostname": "", "secret": ""});
        assert_eq!(daemon.get("/tunnel/status").await.ok(), off);
        assert_eq!(daemon.get("/agent/list_apps?session_id=s").await.ok(), json!({"apps": []}));
        let event = json!({"event_name": "page_view", "properties": {"page": "home"}});
        let reply = daemon.post("/telemetry/event", event).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (202, 0));
        let reply = daemon.ask(Method::POST, "/tunnel/start", None).await;
        assert_eq!(reply.status, 400);
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        assert!(body["error"].as_str().unwrap().contains("gander serve"));
        for path in ["/dictation/config", "/local-inference/models", "/agent/export_app/x"] {
            assert_eq!(daemon.get(path).await.status, 404, "{path}");
        }
        assert_eq!(daemon.calls(), Vec::<String>::new());
    }
}
