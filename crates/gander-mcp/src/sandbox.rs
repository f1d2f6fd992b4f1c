//! The sandbox of an extension's processes: from its configuration and its session to what the supervisor enforces.

use std::path::PathBuf;

use gander_domain::extension::{ExtensionConfig, SandboxMode as Mode};
use gander_process::{SandboxMode, SandboxSpec, SessionPaths};

use crate::host::SessionContext;

/// What processes of this extension are bound by; `None`: nothing. The daemon's own files are hidden in any case.
pub(crate) fn sandbox_of(
    config: &ExtensionConfig,
    key: &str,
    context: &SessionContext,
) -> Option<SandboxSpec> {
    let sandbox = config.sandbox.as_ref()?;
    let mode = match sandbox.mode {
        Mode::Off => SandboxMode::Off,
        Mode::ReadOnly => SandboxMode::ReadOnly,
        Mode::WorkspaceWrite => SandboxMode::WorkspaceWrite,
    };
    let workspace: Vec<PathBuf> =
        std::iter::once(&context.working_directory).chain(&context.additional_directories).cloned().collect();
    let writable: Vec<PathBuf> = sandbox.writable_paths.iter().map(PathBuf::from).collect();
    let readable: Vec<PathBuf> = sandbox.readable_paths.iter().map(PathBuf::from).collect();
    let private_tmp = context.data_dir.join("tmp").join(key);
    SandboxSpec::for_session(
        mode,
        sandbox.network,
        &SessionPaths {
            workspace: &workspace,
            writable: &writable,
            readable: &readable,
            denied: &context.denied_paths,
            private_tmp: Some(&private_tmp),
        },
    )
}
