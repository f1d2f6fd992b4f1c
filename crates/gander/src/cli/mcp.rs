//! `gander mcp NAME`: a builtin extension as a stdio server, for other programs. No engine, no session, no daemon.
//! `gander mcp conformance URL` is the other way round: gander as the client of a server.

use gander_builtin::BuiltinContext;

use super::{
    args::McpArgs,
    conformance,
    connect::Context,
    error::{CliError, CliResult, exit},
};
use crate::daemon;

pub(super) async fn mcp(context: &Context, args: &McpArgs) -> CliResult<u8> {
    let name = args.name.as_str();
    match &args.url {
        Some(url) if name == "conformance" => return Box::pin(conformance::conformance(context, url)).await,
        None if name == "conformance" => {
            return Err(CliError::usage("`gander mcp conformance` needs the URL of the suite's server"));
        }
        Some(_) => return Err(CliError::usage(format!("`gander mcp {name}` takes no URL"))),
        None => {}
    }
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
