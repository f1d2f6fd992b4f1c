//! Builtin extensions as the MCP host starts them.

use gander_builtin::BuiltinContext;
use gander_domain::{ErrorDetail, ErrorReason};
use gander_mcp::{BuiltinConnection, BuiltinFactory, SessionContext};
use gander_process::{Spawner, ToolProcesses};

/// Makes builtin servers in process; their commands are supervised and registered as tools.
pub(super) struct Builtins {
    spawner: Spawner,
}

impl Builtins {
    pub(super) fn new(supervisor: Option<Vec<String>>, processes: ToolProcesses) -> Self {
        Self { spawner: Spawner::new(supervisor, processes) }
    }
}

impl BuiltinFactory for Builtins {
    fn names(&self) -> Vec<String> {
        gander_builtin::catalogue().iter().map(|info| info.name.to_owned()).collect()
    }

    fn connect(&self, name: &str, context: &SessionContext) -> Result<BuiltinConnection, ErrorDetail> {
        let builtin = BuiltinContext {
            additional_directories: context.additional_directories.clone(),
            environment: context.environment.clone(),
            spawner: self.spawner.clone(),
            denied_paths: context.denied_paths.clone(),
            ..BuiltinContext::new(&context.working_directory, &context.data_dir)
        };
        let server = gander_builtin::serve_in_process(name, builtin).ok_or_else(|| {
            let reason = gander_builtin::known_elsewhere(name).map_or_else(
                || {
                    format!(
                        "this gander has no builtin extension {name:?}; it has {}",
                        self.names().join(", ")
                    )
                },
                str::to_owned,
            );
            ErrorDetail::new(ErrorReason::ExtensionTypeUnsupported, reason).with("name", name)
        })?;
        Ok(BuiltinConnection::new(server.sender, server.receiver, server.server))
    }
}
