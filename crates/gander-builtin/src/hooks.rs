//! What builtin servers ask of whoever runs the session.
//!
//! Hooks are given in the [`BuiltinContext`](crate::BuiltinContext). They report failures in words that a model may
//! read, and must not panic. A future is dropped when its call is cancelled; what it has begun must then either be
//! undone or be harmless.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future, future::BoxFuture};
use tokio::sync::mpsc;

/// Why a hook could not do its work: for models and people, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookError(String);

impl HookError {
    /// `reason`: one sentence, with a remedy if there is one.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HookError {}

/// Small pieces of JSON text that live as long as the session, each under a key like `todo.v0`.
pub trait StateStore: Send + Sync {
    /// What was last saved under `key`.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn load<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<String>, HookError>>;

    /// Replaces what is under `key`. Once it has returned, `load` gives `value` back.
    ///
    /// # Errors
    /// When nothing was saved.
    fn save<'a>(&'a self, key: &'a str, value: String) -> BoxFuture<'a, Result<(), HookError>>;
}

/// A [`StateStore`] that lives in memory.
#[derive(Debug, Default)]
pub struct MemoryState(Mutex<BTreeMap<String, String>>);

impl StateStore for MemoryState {
    fn load<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<String>, HookError>> {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        future::ready(Ok(values.get(key).cloned())).boxed()
    }

    fn save<'a>(&'a self, key: &'a str, value: String) -> BoxFuture<'a, Result<(), HookError>> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.insert(key.to_owned(), value);
        future::ready(Ok(())).boxed()
    }
}

/// Text files of the session as a program sees them that is attached to it: an editor, with its unsaved changes. It may
/// come and go between any two calls. Paths are absolute, in the session's folders, and were judged before.
pub trait HostFiles: Send + Sync {
    /// The whole text of a file; `None` when nobody is attached who reads files.
    ///
    /// # Errors
    /// When the program does not know the file, fails, or does not answer in time.
    fn read_text<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Option<Result<String, HookError>>>;

    /// Replaces the whole text of a file or creates it; its folder exists. `None` when nobody is attached who writes
    /// files: nothing has happened then.
    ///
    /// # Errors
    /// When the program fails or does not answer in time; the file may have been written all the same.
    fn write_text<'a>(
        &'a self,
        path: &'a Path,
        text: &'a str,
    ) -> BoxFuture<'a, Option<Result<(), HookError>>>;
}

/// A command for a terminal of a program that is attached to the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminalCommand {
    /// The tool call that it is: the program shows the terminal there.
    pub item_id: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Absolute.
    pub working_directory: PathBuf,
    /// Variables on top of the program's own.
    pub environment: BTreeMap<String, String>,
    /// Bytes of output that are wanted; of more, the last ones.
    pub output_limit: u64,
    /// After it the program ends the command.
    pub timeout: Duration,
}

/// How a command in a terminal ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminalEnd {
    /// It ran to its end, or was ended.
    Ended {
        /// What the terminal holds.
        output: String,
        /// Whether something is missing at the start of it.
        truncated: bool,
        /// The exit code, where there is one.
        exit_code: Option<i32>,
        /// The name of the signal that ended it, where one did.
        signal: Option<String>,
    },
    /// It was not started, for this reason.
    NotStarted(HookError),
    /// Nobody knows whether it ran and how it ended.
    Lost(HookError),
}

/// Terminals of a program that is attached to the session: an editor that shows a command where it runs. It may come
/// and go between any two calls.
pub trait HostTerminals: Send + Sync {
    /// Runs a command to its end; `None` when nobody is attached who does, and then nothing has happened. `output` gets
    /// what the command writes, as far as it fits in and it is known before the end. Dropping the future ends the
    /// command.
    fn run(
        &self,
        command: TerminalCommand,
        output: mpsc::Sender<String>,
    ) -> BoxFuture<'_, Option<TerminalEnd>>;
}

/// An extension that the session has or could have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableExtension {
    /// The key by which it is enabled, and which begins the names of its tools.
    pub name: String,
    /// What it is good for. May be empty.
    pub description: String,
    /// Whether the configuration switches it on for new sessions.
    pub enabled: bool,
    /// Whether this session has it.
    pub active: bool,
}

/// A resource that an extension of the session offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedResource {
    /// The key of the extension.
    pub extension: String,
    /// Address within the extension.
    pub uri: String,
    /// For people.
    pub name: String,
    /// What is in it. May be empty.
    pub description: String,
    /// May be empty.
    pub mime_type: String,
}

/// One part of a resource that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceContent {
    /// Address of this part.
    pub uri: String,
    /// May be empty.
    pub mime_type: String,
    /// What is in it.
    pub body: Body,
}

/// What a resource holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Text.
    Text(String),
    /// Anything else, decoded.
    Bytes(Vec<u8>),
}

/// The extensions of one session. Approval by the user is the implementor's or its caller's matter.
pub trait ExtensionManager: Send + Sync {
    /// All extensions that are configured or active, whether they are enabled or not.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    fn search(&self) -> BoxFuture<'_, Result<Vec<AvailableExtension>, HookError>>;

    /// Adds a configured extension to the session and waits until its tools can be called. Nothing happens if it is
    /// active already.
    ///
    /// # Errors
    /// When it is not configured or does not start.
    fn enable<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HookError>>;

    /// Takes an extension out of the session.
    ///
    /// # Errors
    /// When it is not active.
    fn disable<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HookError>>;

    /// The resources of one active extension, or of all that have some.
    ///
    /// # Errors
    /// When the named extension is not active, or a server fails.
    fn list_resources<'a>(
        &'a self,
        extension: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<ListedResource>, HookError>>;

    /// Reads a resource of one active extension, or of the first that knows `uri`.
    ///
    /// # Errors
    /// When nobody has it, or a server fails.
    fn read_resource<'a>(
        &'a self,
        uri: &'a str,
        extension: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<ResourceContent>, HookError>>;
}
