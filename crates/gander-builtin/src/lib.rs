//! Builtin extensions: ordinary MCP servers that happen to live in this process.
//!
//! * [`catalogue`] lists them; [`serve_in_process`] connects one through bounded channels of typed messages (no
//!   JSON in between), [`serve_stdio`] runs one as a stdio server, [`serve_bytes`] over any pair of byte streams.
//! * A server is given everything it may know in its [`BuiltinContext`]; it reads neither the process's environment
//!   nor its working directory.
//!
//! Invariants: whatever the link, the same code answers; a tool call never outlives its server by more than the time
//! it takes to kill its processes; tools reach no path that the context denies, through whatever name or link.
//!
//! This crate must not know sessions, policies or storage, and asks nobody for permission: that is the engine's.
#![warn(missing_docs)]

mod context;
mod developer;
mod extensionmanager;
mod hooks;
mod memory;
mod paths;
mod serve;
mod server;
mod todo;

pub use context::{BuiltinContext, OUTPUT_DIRECTORY};
pub use developer::{ITEM_META_KEY, OUTPUT_NOTIFICATION};
pub use hooks::{
    AvailableExtension, Body, ExtensionManager, HookError, HostFiles, HostTerminals, ListedResource,
    MemoryState, ResourceContent, StateStore, TerminalCommand, TerminalEnd,
};
pub use serve::{
    BuiltinServer, ClientReceiver, ClientSender, InProcess, ServeError, serve_bytes, serve_in_process,
    serve_stdio,
};
pub use todo::STATE_KEY as TODO_STATE_KEY;

/// What is said about a builtin extension before it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltinInfo {
    /// The name in an extension's config.
    pub name: &'static str,
    /// For people.
    pub display_name: &'static str,
    /// One sentence for people and models.
    pub description: &'static str,
}

/// Every builtin extension there is.
#[must_use]
pub fn catalogue() -> &'static [BuiltinInfo] {
    &[
        BuiltinInfo {
            name: developer::NAME,
            display_name: "Developer",
            description: "Runs shell commands and reads, writes, edits, lists and searches files.",
        },
        BuiltinInfo {
            name: memory::NAME,
            display_name: "Memory",
            description: "Keeps notes by category for later sessions, per project or for all of them.",
        },
        BuiltinInfo {
            name: todo::NAME,
            display_name: "Todo",
            description: "Keeps the session's plan as a checklist.",
        },
        BuiltinInfo {
            name: extensionmanager::NAME,
            display_name: "Extension Manager",
            description: "Finds, enables and disables extensions of the session and reads their resources.",
        },
    ]
}

/// The entry of the builtin extension `name`, if there is one.
#[must_use]
pub fn find(name: &str) -> Option<&'static BuiltinInfo> {
    catalogue().iter().find(|info| info.name == name)
}

/// Why the builtin extension `name`, which Goose bundles, is not here: for people, with what to do instead. `None` for
/// names that are here and for names that Goose does not bundle either.
#[must_use]
pub fn known_elsewhere(name: &str) -> Option<&'static str> {
    match name {
        "computercontroller" => Some(
            "Goose's builtin extension \"computercontroller\" is not part of gander; the tools of \"developer\" cover \
             commands and files, for the rest configure an MCP server of type stdio or streamable_http",
        ),
        "autovisualiser" => Some(
            "Goose's builtin extension \"autovisualiser\" is not part of gander; configure an MCP server that draws \
             charts, of type stdio or streamable_http",
        ),
        "tutorial" => Some(
            "Goose's builtin extension \"tutorial\" is not part of gander: its lessons are about Goose itself; disable \
             or remove the entry",
        ),
        _ => None,
    }
}
