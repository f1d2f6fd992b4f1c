//! The `todo` extension: the plan of a session as a checklist.
//!
//! The text is kept as it was written, under [`STATE_KEY`]; its steps are found anew each time. The result carries
//! both, so that whoever runs the session can show a plan without knowing Markdown.

mod checklist;

use std::sync::{Arc, LazyLock};

use futures::{FutureExt as _, future::BoxFuture};
use rmcp::{
    model::{CallToolRequestParams, Tool},
    service::{RequestContext, RoleServer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::checklist::{Status, Step};
use crate::{
    context::BuiltinContext,
    hooks::StateStore,
    server::{
        About, Builtin, Hints, ToolError, ToolResult, Tools, answer_as, cancelled, parse, tool_with_output,
    },
};

/// The name in an extension's config.
pub(crate) const NAME: &str = "todo";

/// Where the list is in the session's [`StateStore`]: a JSON object `{"content": "- [ ] ..."}`, as Goose keeps it.
pub const STATE_KEY: &str = "todo.v0";

/// Characters of a list.
const MAX_CHARS: usize = 50_000;

const REPLACES: Hints = Hints { read_only: false, destructive: true, idempotent: true, open_world: false };

const WRITE: &str = "Replaces the todo list of this session. Give the whole list each time: what you leave out is \
gone. Write Markdown with one line for each step: `- [ ] step` is open, `- [~] step` is what you work on, \
`- [x] step` is done; steps may be nested. `(high)` or `(low)` at the end of a step is its priority. Notes may stand \
between steps. Empty content clears the list. The user sees the steps as your plan.";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The whole list.
    content: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Written {
    plan: Plan,
}

/// The list as it is now.
#[derive(Debug, Serialize, JsonSchema)]
struct Plan {
    entries: Vec<Step>,
    /// The text that was written.
    source_text: String,
}

/// What is kept.
#[derive(Debug, Deserialize, Serialize)]
struct Saved {
    content: String,
}

/// The tool.
pub(crate) struct Todo {
    state: Arc<dyn StateStore>,
    closing: CancellationToken,
    /// Writers take turns, so that answers come in the order in which lists were saved.
    turn: Mutex<()>,
}

impl Todo {
    pub(crate) fn new(context: &BuiltinContext, closing: CancellationToken) -> Self {
        Self { state: Arc::clone(&context.state), closing, turn: Mutex::new(()) }
    }

    async fn write(&self, arguments: Arguments) -> ToolResult {
        let Arguments { content } = arguments;
        let length = content.chars().count();
        if length > MAX_CHARS {
            return Err(ToolError::new(format!(
                "content: the list has {length} characters, {MAX_CHARS} are allowed; shorten the notes, or drop steps \
                 that are done"
            )));
        }
        let failed = |error: &dyn std::fmt::Display| {
            ToolError::new(format!("the list was not saved and is as it was before: {error}"))
        };
        let entries = checklist::parse(&content);
        let saved = Saved { content };
        let value = serde_json::to_string(&saved).map_err(|error| failed(&error))?;
        let _turn = self.turn.lock().await;
        self.state.save(STATE_KEY, value).await.map_err(|error| failed(&error))?;
        let text = summary(&entries, &saved.content);
        answer_as(text, &Written { plan: Plan { entries, source_text: saved.content } })
    }

    async fn saved(&self) -> Option<String> {
        let value = match self.state.load(STATE_KEY).await {
            Ok(value) => value?,
            Err(error) => {
                tracing::warn!(%error, "the todo list of the session cannot be loaded");
                return None;
            }
        };
        let saved: Saved = serde_json::from_str(&value).ok()?;
        Some(saved.content).filter(|content| !content.trim().is_empty())
    }
}

fn summary(entries: &[Step], content: &str) -> String {
    let count = |status| entries.iter().filter(|step| step.status == status).count();
    let (done, working) = (count(Status::Completed), count(Status::InProgress));
    if content.trim().is_empty() {
        "The list is empty now.".to_owned()
    } else if entries.is_empty() {
        "Saved. There is no step in it: a step is a line like `- [ ] text`.".to_owned()
    } else {
        format!("Saved: {} steps, {done} done, {working} in progress.", entries.len())
    }
}

static TOOLS: Tools = LazyLock::new(|| {
    [tool_with_output::<Arguments, Written>("todo_write", "Write the todo list", WRITE, &REPLACES)].into()
});

impl Builtin for Todo {
    fn about(&self) -> About {
        About {
            name: "gander-todo",
            title: "Todo",
            instructions: "Keep a todo list for work of more than a few steps: write all steps down when you start, \
                           mark what you work on and what is done as you go, and check at the end that nothing is \
                           left."
                .to_owned(),
        }
    }

    fn recall(&self) -> BoxFuture<'_, Option<String>> {
        let list = |content| format!("The list that was kept earlier in this session:\n\n{content}");
        async move { self.saved().await.map(list) }.boxed()
    }

    fn tools(&self) -> Arc<[Tool]> {
        Arc::clone(&TOOLS)
    }

    fn call<'a>(
        &'a self,
        request: CallToolRequestParams,
        context: &'a RequestContext<RoleServer>,
    ) -> BoxFuture<'a, ToolResult> {
        let run = async move {
            let arguments = parse(request.arguments.unwrap_or_default())?;
            tokio::select! {
                biased;
                () = context.ct.cancelled() => Err(cancelled()),
                () = self.closing.cancelled() => Err(cancelled()),
                result = self.write(arguments) => result,
            }
        };
        run.boxed()
    }
}
