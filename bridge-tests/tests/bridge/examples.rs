//! The programs in `examples/` do what their READMEs say, against a daemon of their own.

use std::path::{Path, PathBuf};

use gander_bridge_tests::{ChildDaemon, built, child, daemon, skip};
use tokio::process::Command;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// A command with nothing of this process's environment but PATH.
fn command(program: impl AsRef<std::ffi::OsStr>, root: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().kill_on_drop(true).process_group(0).stdin(std::process::Stdio::null());
    for (name, value) in daemon::environment(root).iter() {
        command.env(name, value);
    }
    command.current_dir(root.join("work"));
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_quickstart() {
    let Some(python) = std::env::var_os("GANDER_TEST_PYTHON") else {
        return skip("GANDER_TEST_PYTHON is not set: no Python with gRPC");
    };
    let root = daemon::new_root();
    let generated = root.path().join("gen");
    std::fs::create_dir(&generated).expect("a directory");
    let protos: Vec<_> = std::fs::read_dir(repository().join("proto/gander/v1"))
        .expect("protos")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    let mut protoc = command(&python, root.path());
    protoc
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(repository().join("proto"))
        .arg("--python_out")
        .arg(&generated)
        .arg("--grpc_python_out")
        .arg(&generated)
        .args(&protos);
    let output = child::finished(&mut protoc).await;
    assert_eq!(output.code, Some(0), "{output:?}");

    std::fs::write(root.path().join("work/seen-by-python.txt"), "x").expect("a file");
    let daemon = ChildDaemon::start(root.path()).await;
    let script = repository().join("examples/python/quickstart.py");
    let run = |address: String, token: Option<String>, prompt: &str| {
        let mut run = command(&python, root.path());
        run.env("PYTHONPATH", &generated)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(&script)
            .arg(address)
            .arg(prompt);
        if let Some(token) = token {
            run.env("GANDER_TOKEN", token);
        }
        run
    };
    let socket = daemon.socket().display().to_string();
    let output = child::finished(&mut run(socket.clone(), None, "list the files here")).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("seen-by-python.txt"), "{output:?}");
    assert!(output.stdout.contains("TURN_STATE_COMPLETED"), "{output:?}");
    let token = std::fs::read_to_string(root.path().join("data/token")).expect("the token").trim().to_owned();
    let tcp = daemon.tcp().to_owned();
    let output = child::finished(&mut run(tcp.clone(), Some(token), "say over tcp")).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let output = child::finished(&mut run(tcp, None, "say over tcp")).await;
    assert_eq!(output.code, Some(1), "without a token: {output:?}");
    assert!(output.stderr.contains("UNAUTHENTICATED"), "{output:?}");
    let output = child::finished(&mut run(socket, None, "fail auth")).await;
    assert_eq!(output.code, Some(1), "a failed turn: {output:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_quickstart() {
    let program = built("gander-example-rust");
    assert!(
        program.is_file(),
        "{} does not exist: run the tests with `cargo xtask test`, or first `cargo build -p gander-example-rust`",
        program.display()
    );
    let root = daemon::new_root();
    std::fs::write(root.path().join("work/seen-by-rust.txt"), "x").expect("a file");
    let daemon = ChildDaemon::start(root.path()).await;
    let run = |prompt: &str| {
        let mut run = command(&program, root.path());
        run.arg(daemon.socket()).arg(prompt);
        run
    };
    let output = child::finished(&mut run("list the files here")).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("seen-by-rust.txt"), "{output:?}");
    let output = child::finished(&mut run("fail auth")).await;
    assert_eq!(output.code, Some(1), "a failed turn: {output:?}");
    daemon.finish().await;
}
