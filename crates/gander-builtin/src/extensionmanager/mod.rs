//! The `extensionmanager` extension: the model finds, enables and disables extensions of its session, and reads the
//! resources that they offer.
//!
//! The work is done by the [`ExtensionManager`] of the context. Here are the tools: what they are called, what they
//! take, and how answers read. Whether the model may enable something is not decided here.

mod render;

use std::sync::{Arc, LazyLock};

use futures::{FutureExt as _, future::BoxFuture};
use rmcp::{
    model::{CallToolRequestParams, Tool},
    service::{RequestContext, RoleServer},
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    context::BuiltinContext,
    hooks::ExtensionManager,
    server::{
        About, Builtin, Hints, READS, ToolError, ToolResult, Tools, answer_as, cancelled, parse, tool,
        tool_with_output,
    },
};

/// The name in an extension's config. Recipes and permission rules of Goose rely on it.
pub(crate) const NAME: &str = "extensionmanager";

/// What the model gains is for the user to judge, hence not harmless; and other machines may be involved.
const MANAGES: Hints = Hints { read_only: false, destructive: true, idempotent: true, open_world: true };

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchArguments {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Action {
    Enable,
    Disable,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ManageArguments {
    /// What to do.
    action: Action,
    /// The name, as `search_available_extensions` returns it.
    extension_name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    /// Only resources of this extension. Without it, of all extensions.
    extension_name: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadArguments {
    /// The resource, as `list_resources` returns it.
    uri: String,
    /// The extension that has it. Without it, all extensions are asked.
    extension_name: Option<String>,
}

const SEARCH: &str = "Lists the extensions that this session has or could have, each with what it is good for. Use it \
when your tools cannot do what is asked: another extension may bring the ones you need.";
const MANAGE: &str = "Enables or disables an extension for this session. After enabling one, its tools are yours to \
use. The user may be asked first.";
const LIST: &str = "Lists the resources that the session's extensions offer: files, database schemas, documents and \
other data that can be read by address.";
const READ: &str = "Reads a resource of an extension by its address and returns what is in it. Text and images come \
back as they are; of other data you are told type and size.";

/// The tools.
pub(crate) struct Extensions {
    manager: Option<Arc<dyn ExtensionManager>>,
    closing: CancellationToken,
}

impl Extensions {
    pub(crate) fn new(context: &BuiltinContext, closing: CancellationToken) -> Self {
        Self { manager: context.manager.clone(), closing }
    }

    async fn run(&self, request: CallToolRequestParams) -> ToolResult {
        let arguments = request.arguments.unwrap_or_default();
        match &*request.name {
            "search_available_extensions" => {
                let SearchArguments {} = parse(arguments)?;
                let found = self.manager()?.search().await?;
                answer_as(render::extensions(&found), &render::Found::new(found))
            }
            "manage_extensions" => self.manage(parse(arguments)?).await,
            "list_resources" => {
                let ListArguments { extension_name } = parse(arguments)?;
                let extension = given(extension_name.as_deref())?;
                let listed = self.manager()?.list_resources(extension).await?;
                answer_as(render::resources(&listed, extension), &render::Listed::new(listed))
            }
            "read_resource" => {
                let ReadArguments { uri, extension_name } = parse(arguments)?;
                if uri.trim().is_empty() {
                    return Err(ToolError::new("uri: it is empty; `list_resources` shows what there is"));
                }
                let extension = given(extension_name.as_deref())?;
                let contents = self.manager()?.read_resource(&uri, extension).await?;
                Ok(render::contents(&uri, contents))
            }
            other => Err(ToolError::new(format!("there is no tool {other:?}"))),
        }
    }

    async fn manage(&self, arguments: ManageArguments) -> ToolResult {
        let ManageArguments { action, extension_name } = arguments;
        let manager = self.manager()?;
        let name = given(Some(&extension_name))?.unwrap_or_default();
        let (active, word) = match action {
            Action::Disable if name == NAME => {
                return Err(ToolError::new(format!(
                    "extension_name: {NAME} cannot disable itself; the user can do it"
                )));
            }
            Action::Disable => {
                manager.disable(name).await?;
                (false, "disabled")
            }
            Action::Enable => {
                manager.enable(name).await?;
                (true, "enabled")
            }
        };
        let managed = render::Managed { extension_name: name.to_owned(), active };
        answer_as(format!("The extension {name} is {word} for this session."), &managed)
    }

    fn manager(&self) -> Result<&Arc<dyn ExtensionManager>, ToolError> {
        self.manager.as_ref().ok_or_else(|| {
            ToolError::new(
                "there are no extensions to manage here: this server does not run inside a session; use it as a \
                 builtin extension of one",
            )
        })
    }
}

/// A name that is given must not be empty.
fn given(name: Option<&str>) -> Result<Option<&str>, ToolError> {
    match name.map(str::trim) {
        Some("") => Err(ToolError::new(
            "extension_name: it is empty; `search_available_extensions` shows the names there are",
        )),
        name => Ok(name),
    }
}

static TOOLS: Tools = LazyLock::new(|| {
    [
        tool_with_output::<SearchArguments, render::Found>(
            "search_available_extensions",
            "Find extensions",
            SEARCH,
            &READS,
        ),
        tool_with_output::<ManageArguments, render::Managed>(
            "manage_extensions",
            "Enable or disable an extension",
            MANAGE,
            &MANAGES,
        ),
        tool_with_output::<ListArguments, render::Listed>("list_resources", "List resources", LIST, &READS),
        tool::<ReadArguments>("read_resource", "Read a resource", READ, &READS),
    ]
    .into()
});

impl Builtin for Extensions {
    fn about(&self) -> About {
        About {
            name: "gander-extensionmanager",
            title: "Extension Manager",
            instructions: "Tools to see which extensions there are, to enable and disable them for this session, and \
                           to read the resources that they offer. When your tools do not suffice for a task, search \
                           for an extension before you give up."
                .to_owned(),
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
        let run = async move {
            tokio::select! {
                biased;
                () = context.ct.cancelled() => Err(cancelled()),
                () = self.closing.cancelled() => Err(cancelled()),
                result = self.run(request) => result,
            }
        };
        run.boxed()
    }
}
