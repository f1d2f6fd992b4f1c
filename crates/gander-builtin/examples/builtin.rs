//! A builtin extension as a stdio server, for the tests and for trying it by hand:
//! `builtin developer FOLDER DATA_FOLDER`. As `builtin supervise ...` it is its own supervisor.

use std::{error::Error, process::ExitCode};

use gander_builtin::{BuiltinContext, serve_stdio};
use gander_process::{Spawner, ToolProcesses, supervise_main};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let name = args.next().unwrap_or_default();
    if name == "supervise" {
        return Ok(supervise_main(args));
    }
    let folder = args.next().ok_or("the folder to work in is missing")?;
    let data = args.next().ok_or("the folder for data is missing")?;
    let mut context = BuiltinContext::new(std::fs::canonicalize(folder)?, &data);
    context.global_memory_dir = Some(std::path::Path::new(&data).join("memory"));
    context.environment.insert("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned());
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    context.spawner = Spawner::new(Some(vec![program, "supervise".to_owned()]), ToolProcesses::new());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve_stdio(&name.to_string_lossy(), context))?;
    Ok(ExitCode::SUCCESS)
}
