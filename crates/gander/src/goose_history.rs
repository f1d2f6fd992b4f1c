//! Goose's own sessions, brought over: read from its database without changing it, imported over the API under the ids that
//! they have. What is known already, or was deleted here, is left alone, so it can be done again at any time.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use gander_client::{Client, ClientError};
use gander_config::Paths;
use gander_formats::goose_session;
use gander_proto::v1::{
    ErrorReason, GetSessionRequest, ImportSessionRequest, import_session_request::Source,
};
use gander_store::goose::GooseSessions;
use tokio_util::sync::CancellationToken;

/// One session, however long it is.
const DEADLINE: Duration = Duration::from_secs(120);
/// What says that the first import of this root is done.
const MARK: &str = "goose-history";

/// What an import did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Sessions that are new here.
    pub imported: usize,
    /// Sessions that were here, or were deleted here.
    pub known: usize,
    /// Sessions that could not be imported, and why.
    pub failed: Vec<(String, String)>,
}

/// Where Goose keeps its sessions, seen from these paths.
pub fn database(paths: &Paths) -> std::path::PathBuf {
    paths.goose_data_dir().join("sessions").join("sessions.db")
}

/// Imports all sessions of Goose's database. `None`: there is no such file.
///
/// # Errors
/// The database cannot be read at all. A single session that cannot be read or imported is told in the result.
pub async fn import(
    client: &Client,
    database: &Path,
    cancel: &CancellationToken,
) -> Result<Option<Imported>> {
    let path = database.to_owned();
    let opened = blocking(move || GooseSessions::open(&path)).await??;
    let Some(mut sessions) = opened else { return Ok(None) };
    let mut done = Imported::default();
    let ids;
    (sessions, ids) = blocking(move || {
        let ids = sessions.session_ids();
        (sessions, ids)
    })
    .await?;
    for id in ids? {
        if cancel.is_cancelled() {
            break;
        }
        if is_known(client, &id).await? {
            done.known += 1;
            continue;
        }
        let wanted = id.clone();
        let read;
        (sessions, read) = blocking(move || {
            let read = sessions.session(&wanted);
            (sessions, read)
        })
        .await?;
        let outcome = match read {
            Ok(Some(value)) => import_one(client, &value.to_string()).await,
            Ok(None) => continue,
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(true) => done.imported += 1,
            Ok(false) => done.known += 1,
            Err(error) => done.failed.push((id, format!("{error:#}"))),
        }
    }
    Ok(Some(done))
}

/// The first import of a root, unless it was done before. For the daemon: what cannot be imported is logged.
pub async fn import_once(client: &Client, paths: &Paths, cancel: &CancellationToken) {
    let mark = paths.data_dir().join(MARK);
    if mark.exists() {
        return;
    }
    match import(client, &database(paths), cancel).await {
        Ok(Some(done)) if !cancel.is_cancelled() => {
            for (session_id, error) in &done.failed {
                tracing::warn!(session_id, error, "a session of Goose's could not be imported");
            }
            tracing::info!(
                imported = done.imported,
                failed = done.failed.len(),
                "Goose's sessions were imported"
            );
            let said = "Goose's sessions were imported; `gander session import --goose` brings newer ones.\n";
            if let Err(error) = std::fs::write(&mark, said) {
                tracing::warn!(%error, "the next start will look for Goose's sessions again");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(error = format!("{error:#}"), "Goose's sessions could not be imported"),
    }
}

/// Imports one document of Goose's under its own id. `false`: the id is taken or was deleted here.
async fn import_one(client: &Client, json: &str) -> Result<bool> {
    let document = goose_session::import(json).context("its row cannot be read")?;
    let mut request = tonic::Request::new(ImportSessionRequest {
        source: Some(Source::Document(Box::new(document))),
        keep_session_id: true,
        idempotency_key: uuid::Uuid::now_v7().to_string(),
        ..ImportSessionRequest::default()
    });
    request.set_timeout(DEADLINE);
    match client.sessions().import_session(request).await.map_err(ClientError::from) {
        Ok(_) => Ok(true),
        Err(error) if error.is(ErrorReason::SessionExists) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn is_known(client: &Client, session_id: &str) -> Result<bool> {
    let request = GetSessionRequest { session_id: session_id.to_owned() };
    match client.sessions().get_session(request).await.map_err(ClientError::from) {
        Ok(_) => Ok(true),
        Err(error) if error.is(ErrorReason::SessionNotFound) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("the reader of Goose's sessions has died")
}
