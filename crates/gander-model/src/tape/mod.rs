//! Record and replay of model calls: one file per call, so that a session runs again offline and gives the same.
//!
//! Recording stands at the port, behind brake and prices: what the engine saw is what is kept. A reply is found again by
//! what was asked. First the whole request counts; then the request without the system prompt, which holds dates and
//! paths; then its outline without tool results, which may hold anything. Every reply is given once, in the order of the
//! record. Files hold the conversation: they are readable by their owner only.

mod key;
mod wire;

use std::{
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};

use crate::{
    CheckResult, ModelError, ModelErrorClass, ModelEvent, ModelInfo, ModelProvider, ModelRequest,
    ModelStream, ProviderInfo,
};
use key::Keys;
use wire::Call;

/// Most calls that are played back.
const MAX_CALLS: usize = 100_000;
/// Longest file of a record.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// A directory with recorded calls.
#[derive(Debug)]
pub struct Tape {
    directory: PathBuf,
    /// Calls to play back; none while recording.
    calls: Option<Mutex<Vec<Option<Call>>>>,
    next: AtomicU64,
    /// Provider and model of the first call.
    selection: Option<(String, String)>,
}

impl Tape {
    /// Records into this directory, behind what is there already.
    ///
    /// # Errors
    /// The directory cannot be made or read, as a sentence.
    pub fn record(directory: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot record into {}: {error}", directory.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let last =
            files(directory).map_err(failed)?.iter().filter_map(|path| number(path)).max().unwrap_or(0);
        Ok(Self {
            directory: directory.to_owned(),
            calls: None,
            next: AtomicU64::new(last + 1),
            selection: None,
        })
    }

    /// Plays the calls of this directory back.
    ///
    /// # Errors
    /// There is no record, or it cannot be read, as a sentence.
    pub fn replay(directory: &Path) -> Result<Self, String> {
        let failed =
            |what: &dyn std::fmt::Display| format!("cannot play back {}: {what}", directory.display());
        let files = files(directory).map_err(|error| failed(&error))?;
        if files.is_empty() {
            return Err(failed(&"it holds no record; `gander run --record DIR` makes one"));
        }
        let mut calls = Vec::new();
        for path in files.iter().take(MAX_CALLS) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let size = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
            if size > MAX_FILE_BYTES {
                return Err(failed(&format!("{name} is larger than {MAX_FILE_BYTES} bytes")));
            }
            let text = std::fs::read_to_string(path).map_err(|error| failed(&format!("{name}: {error}")))?;
            calls.push(Some(Call::parse(&text).map_err(|error| failed(&format!("{name}: {error}")))?));
        }
        let first = calls.first().and_then(Option::as_ref);
        let selection = first.map(|call| (call.provider_id.clone(), call.model_id.clone()));
        Ok(Self {
            directory: directory.to_owned(),
            calls: Some(Mutex::new(calls)),
            next: AtomicU64::new(1),
            selection,
        })
    }

    /// Whether calls are played back.
    pub fn plays(&self) -> bool {
        self.calls.is_some()
    }

    /// Provider and model of the first recorded call.
    pub fn selection(&self) -> Option<(String, String)> {
        self.selection.clone()
    }

    /// A provider whose calls are recorded.
    pub fn recorder(tape: &Arc<Self>, inner: Arc<dyn ModelProvider>) -> Arc<dyn ModelProvider> {
        Arc::new(Recorder { tape: Arc::clone(tape), inner })
    }

    /// A provider that plays back, and needs neither key nor network.
    pub fn player(tape: &Arc<Self>, provider_id: &str, info: Option<ProviderInfo>) -> Arc<dyn ModelProvider> {
        let info = info.unwrap_or_else(|| ProviderInfo {
            provider_id: provider_id.to_owned(),
            display_name: provider_id.to_owned(),
            description: "Played back from a record".to_owned(),
            default_model_id: tape.selection().map(|(_, model_id)| model_id),
            models: Vec::new(),
            doc_url: None,
            config_keys: Vec::new(),
            allows_unlisted_models: true,
            kind: "custom".to_owned(),
        });
        Arc::new(Player { tape: Arc::clone(tape), info })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("call-{number:05}.json"))
    }

    fn write(&self, number: u64, call: &Call) -> Result<(), ModelError> {
        let path = self.path(number);
        let failed = |error: std::io::Error| {
            let message = format!("the model call cannot be recorded in {}: {error}", path.display());
            ModelError::new(ModelErrorClass::InvalidRequest, message)
        };
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        file.write_all(call.text().as_bytes()).map_err(failed)
    }

    /// The next unused reply to this request.
    fn find(&self, request: &ModelRequest) -> Result<Call, ModelError> {
        let keys = Keys::of(request);
        let mut calls = match &self.calls {
            Some(calls) => calls.lock().unwrap_or_else(PoisonError::into_inner),
            None => return Err(not_recorded(&self.directory, request)),
        };
        let at = |same: &dyn Fn(&Keys) -> bool| {
            calls.iter().position(|call| call.as_ref().is_some_and(|call| same(&call.keys)))
        };
        let found = at(&|known| known.whole == keys.whole)
            .or_else(|| at(&|known| known.talk == keys.talk))
            .or_else(|| at(&|known| known.outline == keys.outline));
        found.and_then(|at| calls[at].take()).ok_or_else(|| not_recorded(&self.directory, request))
    }
}

fn not_recorded(directory: &Path, request: &ModelRequest) -> ModelError {
    ModelError::new(
        ModelErrorClass::InvalidRequest,
        format!(
            "the record in {} holds no further reply to this call (model {}, {} items); record it again with \
             `gander run --record DIR`",
            directory.display(),
            request.model_id,
            request.items.len()
        ),
    )
}

fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| number(path).is_some())
        .collect();
    files.sort_by_key(|path| number(path));
    Ok(files)
}

/// The number of a record's file.
fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("call-")?.strip_suffix(".json")?.parse().ok()
}

struct Recorder {
    tape: Arc<Tape>,
    inner: Arc<dyn ModelProvider>,
}

impl ModelProvider for Recorder {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }

    fn stream(&self, request: ModelRequest) -> ModelStream {
        let number = self.tape.next.fetch_add(1, Ordering::SeqCst);
        let mut call = Call {
            provider_id: self.inner.info().provider_id.clone(),
            model_id: request.model_id.clone(),
            keys: Keys::of(&request),
            events: Vec::new(),
        };
        let tape = Arc::clone(&self.tape);
        self.inner
            .stream(request)
            .map(move |item| {
                call.events.push(item.clone());
                // A call that was dropped or never made has no outcome to keep.
                let over = match &item {
                    Ok(event) => matches!(event, ModelEvent::Finished { .. }),
                    Err(error) => !error.held_back,
                };
                match over.then(|| tape.write(number, &call)) {
                    Some(Err(error)) => Err(error),
                    _ => item,
                }
            })
            .boxed()
    }

    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        self.inner.list_models()
    }

    fn check(&self) -> BoxFuture<'_, CheckResult> {
        self.inner.check()
    }

    fn can_choose_thoughts(&self, model_id: &str) -> bool {
        self.inner.can_choose_thoughts(model_id)
    }

    fn agent(&self) -> Option<Arc<dyn crate::AgentBackend>> {
        self.inner.agent()
    }
}

struct Player {
    tape: Arc<Tape>,
    info: ProviderInfo,
}

impl ModelProvider for Player {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn stream(&self, request: ModelRequest) -> ModelStream {
        match self.tape.find(&request) {
            Ok(call) => futures::stream::iter(call.events).boxed(),
            Err(error) => futures::stream::once(async move { Err(error) }).boxed(),
        }
    }

    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        async { Ok(self.info.models.clone()) }.boxed()
    }

    fn check(&self) -> BoxFuture<'_, CheckResult> {
        async { Ok(()) }.boxed()
    }
}

#[cfg(test)]
mod tests;
