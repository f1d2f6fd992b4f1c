//! `gander agent`: the server that Goose Desktop starts.

use tokio_util::sync::CancellationToken;

use super::{
    connect::Context,
    error::{CliError, CliResult, exit},
    serve::Signals,
};
use crate::agent::{self, AgentSettings};

pub(super) async fn agent(context: &Context) -> CliResult<u8> {
    if context.global.server.is_some() || context.global.embed {
        return Err(CliError::usage(
            "gander agent uses the daemon of its root: leave out --server and --embed",
        )
        .remedy("--root DIR chooses another root"));
    }
    let paths = context.paths()?;
    paths.create_dirs()?;
    let settings = AgentSettings::from_environment(&context.environment, &paths)?;
    let mut signals = Signals::new()?;
    let shutdown = CancellationToken::new();
    let serving = agent::serve(paths, context.background_options()?, settings, shutdown.clone());
    tokio::pin!(serving);
    loop {
        tokio::select! {
            result = &mut serving => {
                result?;
                return Ok(exit::OK);
            }
            _ = signals.next() => {
                if shutdown.is_cancelled() {
                    return Ok(exit::ERROR);
                }
                shutdown.cancel();
            }
        }
    }
}
