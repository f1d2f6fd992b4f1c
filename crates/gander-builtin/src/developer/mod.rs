//! The `developer` extension: a shell and files.
//!
//! Tools report what went wrong as results (`isError`), in words that let a model correct itself; only an unknown
//! tool is a protocol error. Blocking work runs off the reactor and looks at its cancel token.

mod capture;
mod diff;
mod edit;
mod list;
mod plain;
mod read;
mod search;
mod shell;
mod terminal;
mod texts;

use std::sync::{Arc, LazyLock};

use futures::{FutureExt as _, future::BoxFuture};
use rmcp::{
    model::{CallToolRequestParams, Tool},
    service::{RequestContext, RoleServer},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    context::BuiltinContext,
    paths::PathGuard,
    server::{
        About, Builtin, Hints, READS, ToolError, ToolResult, Tools, answer, cancelled, panicked, parse, tool,
    },
};

pub use shell::OUTPUT_NOTIFICATION;
pub use terminal::ITEM_META_KEY;
use texts::Texts;

/// The name in an extension's config.
pub(crate) const NAME: &str = "developer";

/// What all calls of one server share.
#[derive(Debug)]
struct Shared {
    context: BuiltinContext,
    guard: PathGuard,
    closing: CancellationToken,
}

/// The tools.
#[derive(Debug)]
pub(crate) struct Developer {
    shared: Arc<Shared>,
}

impl Developer {
    pub(crate) fn new(context: BuiltinContext, closing: CancellationToken) -> Self {
        let guard = PathGuard::new(&context);
        Self { shared: Arc::new(Shared { guard, context, closing }) }
    }

    async fn run(&self, request: CallToolRequestParams, context: &RequestContext<RoleServer>) -> ToolResult {
        let arguments = request.arguments.unwrap_or_default();
        match &*request.name {
            "shell" => shell::run(&self.shared, parse(arguments)?, context).await,
            "read" => self.on_texts(context, parse(arguments)?, read::run).await,
            "write" => self.on_texts(context, parse(arguments)?, edit::write).await,
            "edit" => self.on_texts(context, parse(arguments)?, edit::edit).await,
            "list" => self.blocking(context, parse(arguments)?, list::run).await,
            "search" => self.blocking(context, parse(arguments)?, search::run).await,
            other => Err(ToolError::new(format!("there is no tool {other:?}"))),
        }
    }

    /// Runs work on text files off the reactor.
    async fn on_texts<A: Send + 'static>(
        &self,
        context: &RequestContext<RoleServer>,
        arguments: A,
        work: fn(&Shared, &A, &Texts<'_>) -> ToolResult,
    ) -> ToolResult {
        let (shared, token, runtime) = (Arc::clone(&self.shared), context.ct.clone(), Handle::current());
        let task = tokio::task::spawn_blocking(move || {
            work(&shared, &arguments, &Texts::new(&shared, &token, &runtime))
        });
        task.await.unwrap_or_else(|_| Err(panicked()))
    }

    /// Runs file work off the reactor.
    async fn blocking<A: Send + 'static>(
        &self,
        context: &RequestContext<RoleServer>,
        arguments: A,
        work: fn(&Shared, &A, &dyn Fn() -> bool) -> ToolResult,
    ) -> ToolResult {
        let (shared, token) = (Arc::clone(&self.shared), context.ct.clone());
        let task = tokio::task::spawn_blocking(move || {
            let cancelled = || token.is_cancelled() || shared.closing.is_cancelled();
            work(&shared, &arguments, &cancelled)
        });
        task.await.unwrap_or_else(|_| Err(panicked()))
    }
}

impl Builtin for Developer {
    fn about(&self) -> About {
        let directory = self.shared.context.working_directory.display();
        About {
            name: "gander-developer",
            title: "Developer",
            instructions: format!(
                "Tools to work on files and to run commands. The working directory is {directory}; relative paths \
                 start there. Prefer `read`, `edit`, `list` and `search` to shell commands that do the same: they \
                 bound their output and say what went wrong. Read a file before you edit it."
            ),
        }
    }

    fn tools(&self) -> Arc<[Tool]> {
        Arc::clone(&TOOLS)
    }

    fn call<'a>(
        &'a self,
        request: CallToolRequestParams,
        context: &'a RequestContext<RoleServer>,
    ) -> BoxFuture<'a, ToolResult> {
        self.run(request, context).boxed()
    }
}

const OVERWRITES: Hints = Hints { read_only: false, destructive: true, idempotent: true, open_world: false };
const CHANGES: Hints = Hints { read_only: false, destructive: true, idempotent: false, open_world: false };
const ANYTHING: Hints = Hints { read_only: false, destructive: true, idempotent: false, open_world: true };

static TOOLS: Tools = LazyLock::new(|| {
    [
        tool::<shell::Arguments>("shell", "Run a command", shell::DESCRIPTION, &ANYTHING),
        tool::<read::Arguments>("read", "Read a file", read::DESCRIPTION, &READS),
        tool::<edit::WriteArguments>("write", "Write a file", edit::WRITE_DESCRIPTION, &OVERWRITES),
        tool::<edit::EditArguments>("edit", "Edit a file", edit::EDIT_DESCRIPTION, &CHANGES),
        tool::<list::Arguments>("list", "List a folder", list::DESCRIPTION, &READS),
        tool::<search::Arguments>("search", "Search in files", search::DESCRIPTION, &READS),
    ]
    .into()
});
