//! Stands for the daemon in the tests: starts `OWNER [--sandboxed] COMMAND ARGS...` under the sibling example
//! `supervise`, copies the command's stdout to its own, and waits. Killing it shows what happens when a daemon dies.

use std::{collections::BTreeMap, error::Error, process::ExitCode};

use gander_process::{SandboxSpec, SpawnSpec, Spawner, StdinMode, ToolProcesses};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let supervisor = std::env::current_exe()?.with_file_name("supervise");
    let spawner = Spawner::new(Some(vec![supervisor.to_string_lossy().into_owned()]), ToolProcesses::new());
    let mut args = std::env::args_os().skip(1).peekable();
    let sandbox = args.next_if(|arg| arg == "--sandboxed").map(|_| SandboxSpec::default());
    let spec = SpawnSpec {
        argv: args.collect(),
        working_directory: "/".into(),
        environment: BTreeMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]),
        stdin: StdinMode::Null,
    };
    let mut child = spawner.spawn_sandboxed(&spec, sandbox.as_ref())?;
    if let Some(mut stdout) = child.take_stdout() {
        tokio::io::copy(&mut stdout, &mut tokio::io::stdout()).await?;
    }
    let exit = child.wait().await?;
    Ok(ExitCode::from(u8::try_from(exit.code).unwrap_or(u8::MAX)))
}
