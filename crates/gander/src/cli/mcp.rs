//! `gander mcp NAME`: a builtin extension as a stdio server, for other programs. No engine, no session, no daemon.

use gander_builtin::BuiltinContext;

use super::{
    connect::Context,
    error::{CliError, CliResult, exit},
};
use crate::daemon;

pub(super) async fn mcp(context: &Context, name: &str) -> CliResult<u8> {
    if gander_builtin::find(name).is_none() {
        let known: Vec<&str> = gander_builtin::catalogue().iter().map(|info| info.name).collect();
        return Err(CliError::usage(format!("there is no builtin extension {name:?}"))
            .remedy(format!("there is: {}", known.join(", "))));
    }
    let paths = context.paths()?;
    let server = BuiltinContext {
        environment: daemon::tool_environment(&context.environment),
        denied_paths: vec![paths.data_dir().to_owned(), paths.secrets_file()],
        ..BuiltinContext::new(&context.cwd, paths.data_dir().join("mcp"))
    };
    gander_builtin::serve_stdio(name, server).await.map_err(|error| CliError::new(error.to_string()))?;
    Ok(exit::OK)
}
