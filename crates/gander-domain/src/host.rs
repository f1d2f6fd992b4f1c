//! Host calls: one program's work for one executor (an editor's file system and terminals, client-side tools).

use serde::{Deserialize, Serialize};

use crate::{HostCallId, ItemId, Timestamp, item::ToolResult, tool::ToolDefinition};

/// What an attached host can do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostCapabilities {
    pub fs_read: bool,
    pub fs_write: bool,
    pub terminal: bool,
    /// Tools that the host runs itself.
    pub tools: Vec<ToolDefinition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCall {
    pub host_call_id: HostCallId,
    pub item_id: Option<ItemId>,
    pub deadline: Timestamp,
    pub kind: HostCallKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostCallKind {
    Tool { name: String, arguments_json: String },
    FsRead { path: String, line: Option<u32>, limit: Option<u32> },
    FsWrite { path: String, text: String },
    TerminalRun { argv: Vec<String>, cwd: String, env: Vec<(String, String)>, output_limit_bytes: u64 },
}

/// What the host answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostCallOutcome {
    Tool(ToolResult),
    FsRead {
        text: String,
    },
    FsWritten,
    Terminal {
        output: String,
        truncated: bool,
        exit_code: Option<i32>,
        signal: Option<String>,
    },
    /// `refused`: nothing of the work was begun, so somebody else may do it.
    Failed {
        message: String,
        refused: bool,
    },
}
