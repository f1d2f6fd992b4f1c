//! `/sessions`: the history.

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    routing::{get, post, put},
};
use gander_client::ClientError;
use gander_formats::{
    goose_session::{
        self,
        document::{configurations, document},
        times::seconds,
    },
    session::Document,
};
use gander_proto::v1::{
    DeleteSessionRequest, ErrorReason, ForkSessionRequest, GetSessionStatsRequest, ImportSessionRequest,
    Item, ListSessionsRequest, RenderRecipeRequest, RewindSessionRequest, SearchSessionsRequest, Session,
    SessionKind, SessionOrder, import_session_request, item::Body, recipe_source,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::agent::update;
use crate::{
    App,
    chat::snapshot,
    error::{ApiError, is_unknown_session, sentence},
    extract::{IMPORT_LIMIT, Json, Query},
    session, turns,
};

/// Longest name in bytes, as with Goose.
const MAX_NAME: usize = 200;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/sessions", get(list))
        .route("/sessions/insights", get(insights))
        .route("/sessions/search", get(search))
        .route("/sessions/import", post(import).layer(DefaultBodyLimit::max(IMPORT_LIMIT)))
        .route("/sessions/{session_id}", get(show).delete(delete))
        .route("/sessions/{session_id}/name", put(rename))
        .route("/sessions/{session_id}/fork", post(fork))
        .route("/sessions/{session_id}/export", get(export))
        .route("/sessions/{session_id}/extensions", get(extensions))
        .route("/sessions/{session_id}/user_recipe_values", put(recipe_values))
}

#[derive(Debug, Serialize)]
struct SessionList {
    sessions: Vec<Document>,
}

async fn list(State(app): State<App>) -> Result<Json<SessionList>, ApiError> {
    let mut request = ListSessionsRequest {
        page_size: 200,
        kinds: vec![SessionKind::User as i32, SessionKind::Scheduled as i32],
        with_messages_only: true,
        order: SessionOrder::UpdateTimeDesc as i32,
        ..ListSessionsRequest::default()
    };
    let mut sessions = Vec::new();
    loop {
        let page = app.client().sessions().list_sessions(request.clone()).await?.into_inner();
        sessions.extend(page.sessions.iter().map(|session| document(session, None)));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(Json(SessionList { sessions }));
        }
    }
}

async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Document>, ApiError> {
    Ok(Json(session::whole(&app, &id).await?))
}

async fn delete(State(app): State<App>, Path(session_id): Path<String>) -> Result<StatusCode, ApiError> {
    let request = DeleteSessionRequest { session_id, ..DeleteSessionRequest::default() };
    app.client().sessions().delete_session(request).await?;
    Ok(StatusCode::OK)
}

async fn insights(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let stats = app.client().sessions().get_session_stats(GetSessionStatsRequest {}).await?.into_inner();
    Ok(Json(json!({"totalSessions": stats.session_count, "totalTokens": stats.total_tokens})))
}

/// Dates in both spellings: the documented one and the one that Goose's server really reads.
#[derive(Debug, Deserialize)]
struct SearchQuery {
    query: String,
    #[serde(default)]
    limit: Option<i64>,
    #[serde(default, alias = "afterDate")]
    after_date: Option<String>,
    #[serde(default, alias = "beforeDate")]
    before_date: Option<String>,
}

fn date(name: &str, text: Option<&str>) -> Result<Option<prost_types::Timestamp>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        let text = format!("{name} must be a time such as 2026-03-05T10:00:00Z");
        ApiError::text(StatusCode::BAD_REQUEST, text)
    })?;
    let nanos = i32::try_from(time.nanosecond()).unwrap_or(0);
    Ok(Some(prost_types::Timestamp { seconds: time.unix_timestamp(), nanos }))
}

async fn search(
    State(app): State<App>,
    Query(query): Query<SearchQuery>,
) -> Result<Json<Vec<Document>>, ApiError> {
    if query.query.trim().is_empty() {
        return Err(ApiError::bare(StatusCode::BAD_REQUEST));
    }
    let limit = query.limit.unwrap_or(10).clamp(1, 50);
    let request = SearchSessionsRequest {
        query: query.query,
        limit_messages: i32::try_from(limit).unwrap_or(10),
        after_time: date("after_date", query.after_date.as_deref())?,
        before_time: date("before_date", query.before_date.as_deref())?,
        session_id: String::new(),
    };
    let found = app.client().sessions().search_sessions(request).await?.into_inner();
    let sessions = found.matches.into_iter().filter_map(|found| found.session);
    let listed = sessions
        .filter(|session| matches!(session.kind(), SessionKind::User | SessionKind::Scheduled))
        .map(|session| document(&session, None));
    Ok(Json(listed.collect()))
}

#[derive(Debug, Deserialize)]
struct NameRequest {
    name: String,
}

/// An unknown session is fine, as with Goose.
async fn rename(
    State(app): State<App>,
    Path(session_id): Path<String>,
    Json(request): Json<NameRequest>,
) -> Result<StatusCode, ApiError> {
    let title = request.name.trim().to_owned();
    if title.is_empty() || title.len() > MAX_NAME {
        return Err(ApiError::bare(StatusCode::BAD_REQUEST));
    }
    let session = Session { session_id, title, ..Session::default() };
    match update(app.client(), session, &["title"]).await {
        Err(error) if !is_unknown_session(&error) => Err(error.into()),
        _ => Ok(StatusCode::OK),
    }
}

async fn export(State(app): State<App>, Path(id): Path<String>) -> Result<Json<String>, ApiError> {
    let document = session::whole(&app, &id).await?;
    let text = document.to_pretty_json().map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(Json(text))
}

#[derive(Debug, Deserialize)]
struct ImportRequest {
    json: String,
}

async fn import(
    State(app): State<App>,
    Json(request): Json<ImportRequest>,
) -> Result<Json<Document>, ApiError> {
    let document =
        goose_session::import(&request.json).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let import = ImportSessionRequest {
        source: Some(import_session_request::Source::Document(Box::new(document))),
        ..ImportSessionRequest::default()
    };
    let imported = app.client().sessions().import_session(import).await.map_err(|status| {
        let error = ClientError::from(status);
        let lost = error.is_temporary();
        let told = ApiError::from(error);
        if lost { told } else { told.with_status(StatusCode::BAD_REQUEST) }
    })?;
    let session = imported.into_inner().session.unwrap_or_default();
    Ok(Json(session::whole(&app, &session.session_id).await?))
}

#[derive(Debug, Deserialize)]
struct ForkRequest {
    #[serde(default)]
    timestamp: Option<i64>,
    truncate: bool,
    copy: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ForkResponse {
    session_id: String,
}

async fn fork(
    State(app): State<App>,
    Path(session_id): Path<String>,
    Json(request): Json<ForkRequest>,
) -> Result<Json<ForkResponse>, ApiError> {
    let client = app.client();
    let session = turns::session(client, &session_id).await?;
    let before_item_id = match (request.truncate, request.timestamp) {
        (true, None) => {
            return Err(ApiError::bad_request("truncate=true requires a timestamp"));
        }
        (true, Some(timestamp)) => {
            let (items, _) = snapshot::items(client, &session_id, "").await?;
            cut_at(&items, timestamp)
        }
        (false, _) => None,
    };
    if request.copy {
        let fork = ForkSessionRequest {
            session_id,
            before_item_id: before_item_id.unwrap_or_default(),
            title: session.title,
            ..ForkSessionRequest::default()
        };
        let copy = client.sessions().fork_session(fork).await?.into_inner().session.unwrap_or_default();
        return Ok(Json(ForkResponse { session_id: copy.session_id }));
    }
    if let Some(before_item_id) = before_item_id {
        turns::settle(client, &session).await?;
        let rewind = RewindSessionRequest {
            session_id: session_id.clone(),
            before_item_id,
            ..RewindSessionRequest::default()
        };
        client.sessions().rewind_session(rewind).await?;
    }
    Ok(Json(ForkResponse { session_id }))
}

/// Goose names the place to cut by a second of the message that was edited. The user's message that shows this very
/// second is meant; where there is none, the first item at or after it.
fn cut_at(items: &[Item], timestamp: i64) -> Option<String> {
    let shown = |item: &Item| seconds(item.client_create_time.as_ref().or(item.create_time.as_ref()));
    let visible = |item: &&Item| item.visibility.is_none_or(|visibility| visibility.user);
    let said = items
        .iter()
        .filter(visible)
        .find(|item| matches!(item.body, Some(Body::UserMessage(_))) && shown(item) == timestamp);
    said.or_else(|| items.iter().find(|item| shown(item) >= timestamp)).map(|item| item.item_id.clone())
}

async fn extensions(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    turns::session(app.client(), &id).await?;
    let extensions = session::extensions(&app, &id).await?;
    Ok(Json(json!({"extensions": configurations(&extensions)})))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecipeValues {
    user_recipe_values: Map<String, Value>,
}

async fn recipe_values(
    State(app): State<App>,
    Path(session_id): Path<String>,
    Json(request): Json<RecipeValues>,
) -> Result<Json<Value>, ApiError> {
    let client = app.client();
    let mut session = turns::session(client, &session_id).await?;
    let Some(recipe) = &mut session.recipe else {
        return Err(ApiError::not_found("Recipe not found"));
    };
    recipe.values = request
        .user_recipe_values
        .into_iter()
        .map(|(key, value)| (key, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    let told = |error: ClientError| {
        if error.is(ErrorReason::RecipeParametersMissing) {
            ApiError::bad_request(format!("Missing required parameters: {}", sentence(&error)))
        } else {
            error.into()
        }
    };
    let wanted = Session { session_id, recipe: session.recipe, ..Session::default() };
    let updated = update(client, wanted, &["recipe.values"]).await.map_err(told)?;
    let recipe = updated.recipe.unwrap_or_default();
    let render = RenderRecipeRequest {
        recipe: Some(gander_proto::v1::RecipeSource {
            source: Some(recipe_source::Source::RecipeJson(recipe.recipe_json)),
            values: recipe.values,
            ..Default::default()
        }),
        session_id: String::new(),
    };
    let rendered = client.recipes().render_recipe(render).await.map_err(|status| told(status.into()))?;
    let json = rendered.into_inner().recipe_json;
    let recipe: Value =
        serde_json::from_str(&json).map_err(|_| ApiError::internal("the rendered recipe is no JSON"))?;
    Ok(Json(json!({ "recipe": recipe })))
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod route_tests;

#[cfg(test)]
mod tests {
    use gander_proto::v1::{AgentMessage, UserMessage};

    use super::*;

    fn item(id: &str, body: Body, created: i64, client: Option<i64>) -> Item {
        let time = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        Item {
            item_id: id.into(),
            body: Some(body),
            create_time: Some(time(created)),
            client_create_time: client.map(time),
            ..Item::default()
        }
    }

    #[test]
    fn the_edited_message_is_found_by_the_second_that_it_shows() {
        let user = || Body::UserMessage(UserMessage::default());
        let agent = || Body::AgentMessage(AgentMessage::default());
        // The window's clock runs five seconds behind the daemon's.
        let items = [
            item("u1", user(), 100, Some(95)),
            item("a1", agent(), 101, None),
            item("u2", user(), 106, Some(101)),
            item("a2", agent(), 107, None),
        ];
        assert_eq!(cut_at(&items, 101).as_deref(), Some("u2"), "not the answer of the same second");
        assert_eq!(cut_at(&items, 95).as_deref(), Some("u1"));
        assert_eq!(cut_at(&items, 107).as_deref(), Some("a2"), "nobody said anything then");
        assert_eq!(cut_at(&items, 500), None);
    }

    #[test]
    fn dates_are_times_or_refused() {
        assert_eq!(date("a", None), Ok(None));
        assert_eq!(date("a", Some("1970-01-01T00:00:05Z")).unwrap().unwrap().seconds, 5);
        assert_eq!(date("a", Some("yesterday")).unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
