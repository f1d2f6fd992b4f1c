//! The `memory` extension: notes by category that outlive the session, for the project or for the user.
//!
//! Names of tools, arguments and files are Goose's, so that both find what the other has kept.

mod entry;
mod files;

use std::sync::{Arc, LazyLock};

use futures::{FutureExt as _, future::BoxFuture};
use rmcp::{
    model::{CallToolRequestParams, Tool},
    service::{RequestContext, RoleServer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::{
    entry::Entry,
    files::{Category, Folders, LOCAL_FOLDER, Scope},
};
use crate::{
    context::BuiltinContext,
    paths::PathGuard,
    server::{
        About, Builtin, Hints, READS, ToolError, ToolResult, Tools, answer_as, panicked, parse,
        tool_with_output,
    },
};

/// The name in an extension's config.
pub(crate) const NAME: &str = "memory";

/// Bytes of one memory.
const MAX_DATA: usize = 32 * 1024;
/// Bytes of memories in one answer.
const MAX_ANSWER: usize = 64 * 1024;
/// Bytes of global memories that every session is told at its start.
const MAX_RECALLED: usize = 16 * 1024;

const STORES: Hints = Hints { read_only: false, destructive: false, idempotent: true, open_world: false };
const REMOVES: Hints = Hints { read_only: false, destructive: true, idempotent: true, open_world: false };

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RememberArguments {
    /// What the memory is about, as a plain name such as "workflow" or "code-style".
    category: String,
    /// What to remember, in a few lines. Empty lines are left out.
    data: String,
    /// Words to find the memory by.
    #[serde(default)]
    tags: Vec<String>,
    /// true: for all projects of the user. false: for this project.
    is_global: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CategoryArguments {
    /// The category, or * for all of them.
    category: String,
    /// true: memories for all projects. false: memories of this project.
    is_global: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveArguments {
    /// The category that holds the memory.
    category: String,
    /// The text of the memory, or a part that no other memory of the category has.
    memory_content: String,
    /// true: memories for all projects. false: memories of this project.
    is_global: bool,
}

/// Memories that were found.
#[derive(Debug, Serialize, JsonSchema)]
struct Retrieved {
    is_global: bool,
    memories: Vec<Memorized>,
    /// Whether there are more than fit into the answer.
    truncated: bool,
}

/// One memory.
#[derive(Debug, Serialize, JsonSchema)]
struct Memorized {
    category: String,
    tags: Vec<String>,
    content: String,
}

/// What has been done.
#[derive(Debug, Serialize, JsonSchema)]
struct Stored {
    category: String,
    is_global: bool,
    /// false: the same memory was there already.
    stored: bool,
}

/// What is gone.
#[derive(Debug, Serialize, JsonSchema)]
struct RemovedCategories {
    is_global: bool,
    /// Categories that held something.
    removed: Vec<String>,
}

/// What is gone.
#[derive(Debug, Serialize, JsonSchema)]
struct RemovedMemory {
    category: String,
    is_global: bool,
    /// Its text.
    removed: String,
}

const REMEMBER: &str = "Keeps a memory for later sessions: preferences, conventions, decisions, commands that work. \
Ask the user before you keep something, and never keep secrets. Memories are grouped by category.";
const RETRIEVE: &str = "Returns the memories of one category, or with * of all categories. Use it when the user refers \
to something from before, or when conventions of the project matter for what you are about to do.";
const REMOVE_CATEGORY: &str = "Removes all memories of one category, or with * all memories of the project or of the \
user. They cannot be brought back: ask the user first.";
const REMOVE_ONE: &str = "Removes one memory. It is named by its text; if that fits several memories, nothing is \
removed and the answer says so. It cannot be brought back.";

/// What all calls of one server share.
#[derive(Debug)]
struct Shared {
    folders: Folders,
    closing: CancellationToken,
}

/// The tools.
#[derive(Debug)]
pub(crate) struct Memory {
    shared: Arc<Shared>,
}

/// One call, off the reactor.
struct Call<'a> {
    folders: &'a Folders,
    stop: &'a dyn Fn() -> bool,
}

impl Memory {
    pub(crate) fn new(context: &BuiltinContext, closing: CancellationToken) -> Self {
        let folders = Folders::new(PathGuard::new(context), context.global_memory_dir.clone());
        Self { shared: Arc::new(Shared { folders, closing }) }
    }

    async fn run(&self, request: CallToolRequestParams, context: &RequestContext<RoleServer>) -> ToolResult {
        let arguments = request.arguments.unwrap_or_default();
        match &*request.name {
            "remember_memory" => {
                let arguments: RememberArguments = parse(arguments)?;
                self.blocking(context, move |call| call.remember(&arguments)).await
            }
            "retrieve_memories" => {
                let arguments: CategoryArguments = parse(arguments)?;
                self.blocking(context, move |call| call.retrieve(&arguments)).await
            }
            "remove_memory_category" => {
                let arguments: CategoryArguments = parse(arguments)?;
                self.blocking(context, move |call| call.remove_category(&arguments)).await
            }
            "remove_specific_memory" => {
                let arguments: RemoveArguments = parse(arguments)?;
                self.blocking(context, move |call| call.remove_one(&arguments)).await
            }
            other => Err(ToolError::new(format!("there is no tool {other:?}"))),
        }
    }

    async fn blocking(
        &self,
        context: &RequestContext<RoleServer>,
        work: impl FnOnce(&Call<'_>) -> ToolResult + Send + 'static,
    ) -> ToolResult {
        let (shared, token) = (Arc::clone(&self.shared), context.ct.clone());
        let task = tokio::task::spawn_blocking(move || {
            let stop = || token.is_cancelled() || shared.closing.is_cancelled();
            work(&Call { folders: &shared.folders, stop: &stop })
        });
        task.await.unwrap_or_else(|_| Err(panicked()))
    }
}

static TOOLS: Tools = LazyLock::new(|| {
    [
        tool_with_output::<RememberArguments, Stored>("remember_memory", "Remember", REMEMBER, &STORES),
        tool_with_output::<CategoryArguments, Retrieved>(
            "retrieve_memories",
            "Retrieve memories",
            RETRIEVE,
            &READS,
        ),
        tool_with_output::<CategoryArguments, RemovedCategories>(
            "remove_memory_category",
            "Forget a category",
            REMOVE_CATEGORY,
            &REMOVES,
        ),
        tool_with_output::<RemoveArguments, RemovedMemory>(
            "remove_specific_memory",
            "Forget a memory",
            REMOVE_ONE,
            &REMOVES,
        ),
    ]
    .into()
});

impl Builtin for Memory {
    fn about(&self) -> About {
        About {
            name: "gander-memory",
            title: "Memory",
            instructions: format!(
                "Tools to keep what will matter in later sessions. Memories of the project are files in {LOCAL_FOLDER} \
                 below the working directory (is_global false); memories for all projects of the user are in the \
                 config directory (is_global true). When the user states a preference, a convention or a command \
                 worth keeping, propose to keep it, say where and under which category, and keep it if the user agrees."
            ),
        }
    }

    /// Only what the user has kept: a project's memories may be anybody's, so the model has to ask for them.
    fn recall(&self) -> BoxFuture<'_, Option<String>> {
        let shared = Arc::clone(&self.shared);
        let task = tokio::task::spawn_blocking(move || recall(&shared.folders));
        task.map(|recalled| recalled.ok().flatten()).boxed()
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

fn recall(folders: &Folders) -> Option<String> {
    let mut found = Found::new(MAX_RECALLED);
    for category in folders.categories(Scope::Global).ok()? {
        // A file that cannot be read is reported when it is asked for.
        found.add(&category, &folders.read(Scope::Global, &category).unwrap_or_default());
    }
    let Found { memories, truncated, .. } = found;
    if memories.is_empty() {
        return None;
    }
    let more =
        if truncated { "\n(There are more; use `retrieve_memories` with is_global true.)" } else { "" };
    let list = render(&memories);
    Some(format!(
        "What the user has kept for all projects follows. Mind it, but mention it only where it matters.\n\n{list}{more}"
    ))
}

impl Call<'_> {
    fn remember(&self, arguments: &RememberArguments) -> ToolResult {
        let RememberArguments { category, data, tags, is_global } = arguments;
        let (category, scope) = (Category::new(category)?, Scope::new(*is_global));
        let entry =
            Entry::new(data, tags).ok_or_else(|| ToolError::new("data: there is nothing to remember"))?;
        let block = entry.block();
        if block.len() > MAX_DATA {
            let message =
                format!("data: a memory may have {MAX_DATA} bytes; keep a summary, or the path of a file");
            return Err(ToolError::new(message));
        }
        let stored = self.folders.update(scope, &category, true, self.stop, |text| {
            let mut blocks: Vec<&str> = entry::blocks(text).collect();
            if blocks.contains(&block.as_str()) {
                return Ok((None, false));
            }
            blocks.push(&block);
            Ok((Some(entry::join(blocks.into_iter())), true))
        })?;
        let (name, word) = (category.as_str(), scope.word());
        let text = if stored {
            format!("Stored in the {word} category {name}.")
        } else {
            format!("The {word} category {name} has this memory already.")
        };
        answer_as(text, &Stored { category: name.to_owned(), is_global: *is_global, stored })
    }

    fn retrieve(&self, arguments: &CategoryArguments) -> ToolResult {
        let CategoryArguments { category, is_global } = arguments;
        let scope = Scope::new(*is_global);
        let categories = self.named(scope, category)?;
        let mut found = Found::new(MAX_ANSWER);
        for category in &categories {
            found.add(category, &self.folders.read(scope, category)?);
        }
        let Found { memories, truncated, .. } = found;
        let text = if memories.is_empty() {
            self.nothing(scope, category)?
        } else if truncated {
            let rest = "[more memories are left out; retrieve single categories, or read the files]";
            format!("{}\n{rest}\n", render(&memories))
        } else {
            render(&memories)
        };
        answer_as(text, &Retrieved { is_global: *is_global, memories, truncated })
    }

    fn remove_category(&self, arguments: &CategoryArguments) -> ToolResult {
        let CategoryArguments { category, is_global } = arguments;
        let scope = Scope::new(*is_global);
        let mut removed = Vec::new();
        for category in self.named(scope, category)? {
            let change = |text: &str| Ok((Some(String::new()), entry::blocks(text).next().is_some()));
            if self.folders.update(scope, &category, false, self.stop, change)? {
                removed.push(category.as_str().to_owned());
            }
        }
        let text = if removed.is_empty() {
            self.nothing(scope, category)?
        } else {
            format!("Removed the {} memories of: {}.", scope.word(), removed.join(", "))
        };
        answer_as(text, &RemovedCategories { is_global: *is_global, removed })
    }

    fn remove_one(&self, arguments: &RemoveArguments) -> ToolResult {
        let RemoveArguments { category: name, memory_content, is_global } = arguments;
        let (category, scope) = (Category::new(name)?, Scope::new(*is_global));
        let word = scope.word();
        let removed = self.folders.update(scope, &category, false, self.stop, |text| {
            let mut blocks: Vec<&str> = entry::blocks(text).collect();
            let index = entry::find(&blocks, memory_content).map_err(|matches| {
                ToolError::new(match matches {
                    0 => format!(
                        "no memory of the {word} category {name} has this text; `retrieve_memories` shows what is there"
                    ),
                    _ => format!(
                        "{matches} memories of the {word} category {name} contain this text and none was removed; give \
                         the whole text of one"
                    ),
                })
            })?;
            let removed = Entry::parse(blocks.remove(index));
            Ok((Some(entry::join(blocks.into_iter())), removed.text))
        })?;
        let text = format!("Removed from the {word} category {name}:\n{removed}\n");
        answer_as(text, &RemovedMemory { category: name.clone(), is_global: *is_global, removed })
    }

    /// The categories that `name` stands for.
    fn named(&self, scope: Scope, name: &str) -> Result<Vec<Category>, ToolError> {
        if name == "*" { self.folders.categories(scope) } else { Ok(vec![Category::new(name)?]) }
    }

    /// What to say when `name` holds nothing.
    fn nothing(&self, scope: Scope, name: &str) -> Result<String, ToolError> {
        let word = scope.word();
        let categories = self.folders.categories(scope)?;
        let names: Vec<&str> = categories.iter().map(Category::as_str).collect();
        Ok(match &names[..] {
            [] => format!("There are no {word} memories."),
            _ => format!("There are no {word} memories in {name}; there are some in: {}.", names.join(", ")),
        })
    }
}

/// Memories up to a number of bytes.
struct Found {
    memories: Vec<Memorized>,
    room: usize,
    truncated: bool,
}

impl Found {
    fn new(room: usize) -> Self {
        Self { memories: Vec::new(), room, truncated: false }
    }

    fn add(&mut self, category: &Category, text: &str) {
        for block in entry::blocks(text) {
            // Later memories may be shorter, but a gap would look like all there is.
            if self.truncated || block.len() > self.room {
                self.truncated = true;
                return;
            }
            self.room -= block.len();
            let Entry { tags, text } = Entry::parse(block);
            self.memories.push(Memorized { category: category.as_str().to_owned(), tags, content: text });
        }
    }
}

/// One heading for each category, one item for each memory.
fn render(memories: &[Memorized]) -> String {
    let mut text = String::new();
    let mut last = None;
    for Memorized { category, tags, content } in memories {
        if last != Some(category) {
            let gap = if last.is_some() { "\n" } else { "" };
            text.push_str(&format!("{gap}## {category}\n"));
            last = Some(category);
        }
        let tags = if tags.is_empty() { String::new() } else { format!(" [{}]", tags.join(", ")) };
        text.push_str(&format!("- {}{tags}\n", content.replace('\n', "\n  ")));
    }
    text
}
