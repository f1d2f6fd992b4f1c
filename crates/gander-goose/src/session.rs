//! Goose's session documents, read from the daemon.

use gander_formats::{goose_session::Whole, session::Document};
use gander_proto::v1::{
    ExtensionStatus, GetServerInfoRequest, ListSessionExtensionsRequest, ModelSelection, Session,
};

use crate::{App, chat::snapshot::Snapshot, error::ApiError, turns};

/// A session with its conversation and its extensions.
pub(crate) async fn whole(app: &App, session_id: &str) -> Result<Document, ApiError> {
    let session = turns::session(app.client(), session_id).await?;
    let extensions = extensions(app, session_id).await?;
    with_conversation(app, &session, &extensions).await
}

/// The same, of what was read already.
pub(crate) async fn with_conversation(
    app: &App,
    session: &Session,
    extensions: &[ExtensionStatus],
) -> Result<Document, ApiError> {
    let snapshot = Snapshot::read(app.client(), &session.session_id).await?;
    let default_model = if session.model.is_none() { default_model(app).await } else { None };
    let whole = Whole {
        session,
        extensions,
        items: &snapshot.items,
        turns: &snapshot.turns,
        questions: &snapshot.questions,
        default_model: default_model.as_ref(),
    };
    Ok(whole.document())
}

/// The model that sessions without one of their own follow.
async fn default_model(app: &App) -> Option<ModelSelection> {
    match app.client().system().get_server_info(GetServerInfoRequest::default()).await {
        Ok(response) => response.into_inner().server_info?.default_model,
        Err(status) => {
            tracing::debug!(%status, "the configured model could not be read");
            None
        }
    }
}

/// The session's extensions.
pub(crate) async fn extensions(app: &App, session_id: &str) -> Result<Vec<ExtensionStatus>, ApiError> {
    let request = ListSessionExtensionsRequest { session_id: session_id.to_owned() };
    Ok(app.client().extensions().list_session_extensions(request).await?.into_inner().extensions)
}
