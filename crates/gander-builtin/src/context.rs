//! Everything that a builtin server may know and do.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use gander_process::{SandboxSpec, Spawner};

use crate::hooks::{ExtensionManager, HostFiles, HostTerminals, MemoryState, StateStore};

/// The folder below [`BuiltinContext::data_dir`] that holds the output of commands which was too long for a result.
/// Tools may read it even where `data_dir` itself is denied; nothing else may be kept there.
pub const OUTPUT_DIRECTORY: &str = "tool-output";

/// What one builtin server works with; made per session.
#[derive(Clone)]
pub struct BuiltinContext {
    /// Absolute. Where relative paths start and where commands run.
    pub working_directory: PathBuf,
    /// Absolute. Further folders of the session: tools may write there too.
    pub additional_directories: Vec<PathBuf>,
    /// The complete environment of commands, already without secrets and with the daemon's marker for tools. Its
    /// `HOME` is what `~` means, its `PATH` is where programs are found.
    pub environment: BTreeMap<String, String>,
    /// Absolute. Long output goes to [`OUTPUT_DIRECTORY`] in here; whoever deletes the session deletes it.
    pub data_dir: PathBuf,
    /// Starts commands: with the daemon's supervisor, or (in tests) without.
    pub spawner: Spawner,
    /// What commands are bound by; the file tools keep to its writable and readable paths as well.
    pub sandbox: Option<SandboxSpec>,
    /// Whether files outside of the session's folders may be written. Reading them is always allowed.
    pub allow_outside: bool,
    /// Files and folders that no tool may read, list, search or change: the daemon's own. They need not exist.
    /// This binds the file tools; what a command can reach is up to the operating system.
    pub denied_paths: Vec<PathBuf>,
    /// Absolute. Where `memory` keeps what holds for all projects of the user: the folder `memory` of the config
    /// directory. It need not exist. Without it only memories of the project can be kept.
    pub global_memory_dir: Option<PathBuf>,
    /// Where builtins keep what belongs to the session.
    pub state: Arc<dyn StateStore>,
    /// What `extensionmanager` works on. Without it its tools say that there is no session to manage.
    pub manager: Option<Arc<dyn ExtensionManager>>,
    /// Where the file tools of `developer` look first for text files of the session's folders. Without it they know
    /// only what is on the disk.
    pub host_files: Option<Arc<dyn HostFiles>>,
    /// Where the tool `shell` runs commands that are part of a tool call which is shown, if nothing binds them to this
    /// machine (`sandbox`). Without it they always run here.
    pub host_terminals: Option<Arc<dyn HostTerminals>>,
}

impl BuiltinContext {
    /// A context with an empty environment that runs commands without a supervisor and denies nothing, has no global
    /// memories and no extensions to manage, and forgets its state when it is dropped.
    #[must_use]
    pub fn new(working_directory: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            working_directory: working_directory.into(),
            additional_directories: Vec::new(),
            environment: BTreeMap::new(),
            data_dir: data_dir.into(),
            spawner: Spawner::default(),
            sandbox: None,
            allow_outside: false,
            denied_paths: Vec::new(),
            global_memory_dir: None,
            state: Arc::new(MemoryState::default()),
            manager: None,
            host_files: None,
            host_terminals: None,
        }
    }
}

impl std::fmt::Debug for BuiltinContext {
    /// Without values of the environment.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuiltinContext")
            .field("working_directory", &self.working_directory)
            .field("environment", &self.environment.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
