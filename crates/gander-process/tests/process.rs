//! Whole trees of real processes, with the example programs as supervisor and as daemon. Nothing here waits by
//! sleeping: the end of a process is an event on its pidfd.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

#[path = "process/sandbox.rs"]
mod sandbox;

use gander_process::{Exit, SpawnError, SpawnSpec, Spawner, StdinMode, SupervisedChild, ToolProcesses, tree};
use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, unix::AsyncFd},
    time::timeout,
};

/// A tree of five: a background child, one in a session of its own, an orphan, an orphan that ignores SIGTERM, and
/// the command itself. Prints their numbers.
const TREE: &str = r#"
sleep 1000 & echo $!
setsid sleep 1000 & echo $!
sh -c 'sleep 1000 & echo $!'
sh -c '(trap "" TERM; echo $(sh -c "echo \$PPID"); while :; do sleep 1000; done) &'
echo $$
sleep 1000
"#;
const SLOW: Duration = Duration::from_secs(30);
const KILLED: Duration = Duration::from_secs(2);

fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo test` without `--test`, or `cargo build --examples`",
        path.display()
    );
    path
}

fn supervised() -> Spawner {
    Spawner::new(Some(vec![example("supervise").to_str().unwrap().to_owned()]), ToolProcesses::new())
}

fn both() -> [Spawner; 2] {
    [supervised(), Spawner::default()]
}

fn spec(argv: &[&str]) -> SpawnSpec {
    SpawnSpec {
        argv: argv.iter().map(Into::into).collect(),
        working_directory: "/".into(),
        environment: BTreeMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]),
        stdin: StdinMode::Null,
    }
}

fn shell(script: &str) -> SpawnSpec {
    spec(&["sh", "-c", script])
}

async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    timeout(limit, future).await.unwrap_or_else(|_| panic!("{what} took longer than {limit:?}"))
}

/// A process that can be waited for although it is not ours.
struct Watched(AsyncFd<std::os::fd::OwnedFd>, u32);

impl Watched {
    // The descriptor is owned by the value, which is what the replacement asks its callers to promise.
    #[allow(deprecated)]
    fn new(pid: u32) -> Self {
        let fd = pidfd_open(tree::to_pid(pid).unwrap(), PidfdFlags::NONBLOCK).unwrap();
        Self(AsyncFd::new(fd).unwrap(), pid)
    }

    async fn gone(&self) {
        drop(self.0.readable().await.unwrap());
    }
}

/// Reads `count` process numbers, one per line.
async fn read_tree(stdout: impl tokio::io::AsyncRead + Unpin, count: usize) -> Vec<Watched> {
    let mut lines = BufReader::new(stdout).lines();
    let mut found = Vec::new();
    while found.len() < count {
        let line =
            within(SLOW, "a line", lines.next_line()).await.unwrap().expect("the tree prints its numbers");
        found.push(Watched::new(line.trim().parse().unwrap()));
    }
    found
}

async fn all_gone(tree: &[Watched], since: Instant) {
    for process in tree {
        let left = KILLED.saturating_sub(since.elapsed());
        within(left, &format!("the end of process {}", process.1), process.gone()).await;
    }
}

async fn output(child: &mut SupervisedChild) -> (String, String, Exit) {
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (child.take_stdout().unwrap(), child.take_stderr().unwrap());
    let (a, b, exit) = within(SLOW, "the command", async {
        tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err), child.wait())
    })
    .await;
    a.unwrap();
    b.unwrap();
    (out, err, exit.unwrap())
}

#[tokio::test]
async fn kill_dash_nine_of_the_daemon_takes_the_whole_tree_down() {
    let mut daemon = tokio::process::Command::new(example("owner"))
        .args(["sh", "-c", TREE])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let tree = read_tree(daemon.stdout.take().unwrap(), 5).await;
    let started = Instant::now();
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    all_gone(&tree, started).await;
}

#[tokio::test]
async fn kill_takes_the_whole_tree_down_and_returns_after_it() {
    for spawner in both() {
        let mut child = spawner.spawn(&shell(TREE)).unwrap();
        let count = if spawner.is_supervised() { 5 } else { 1 };
        let tree = read_tree(child.take_stdout().unwrap(), count).await;
        let started = Instant::now();
        let exit = within(KILLED, "kill", child.kill()).await.unwrap();
        assert!(!exit.success());
        all_gone(&tree, started).await;
        for process in &tree {
            assert!(tree::lookup(process.1).is_none_or(|entry| entry.zombie), "{} lives", process.1);
        }
    }
}

#[tokio::test]
async fn dropping_the_owner_takes_the_whole_tree_down() {
    for spawner in both() {
        let mut child = spawner
            .spawn(&shell("sleep 1000 & echo $!; setsid sleep 1000 & echo $!; echo $$; wait"))
            .unwrap();
        let tree = read_tree(child.take_stdout().unwrap(), 3).await;
        let started = Instant::now();
        drop(child);
        all_gone(&tree, started).await;
    }
}

#[tokio::test]
async fn a_tree_that_dies_when_asked_is_not_made_to_wait() {
    for spawner in both() {
        let mut child = spawner.spawn(&shell("echo $$; sleep 1000")).unwrap();
        let _tree = read_tree(child.take_stdout().unwrap(), 1).await;
        let started = Instant::now();
        let exit = within(KILLED, "kill", child.kill()).await.unwrap();
        assert_eq!(exit, Exit::from_signal(15));
        assert!(started.elapsed() < gander_process::GRACE, "took {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn exit_codes_and_signals_are_mirrored() {
    for spawner in both() {
        for code in [0, 1, 3, 42, 255] {
            let mut child = spawner.spawn(&shell(&format!("exit {code}"))).unwrap();
            let exit = within(SLOW, "exit", child.wait()).await.unwrap();
            assert_eq!(exit, Exit { code, signal: None });
            assert_eq!(within(SLOW, "a second wait", child.wait()).await.unwrap(), exit);
        }
        for (name, number) in [("TERM", 15), ("KILL", 9), ("HUP", 1)] {
            let mut child = spawner.spawn(&shell(&format!("kill -{name} $$"))).unwrap();
            assert_eq!(
                within(SLOW, "exit", child.wait()).await.unwrap(),
                Exit::from_signal(number),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn output_arrives_intact_on_both_streams_and_the_environment_is_exact() {
    for spawner in both() {
        let script = "head -c 3000000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero | tr '\\0' y >&2";
        let (out, err, exit) = output(&mut spawner.spawn(&shell(script)).unwrap()).await;
        assert!(exit.success());
        assert!(out.len() == 3_000_000 && out.bytes().all(|byte| byte == b'x'));
        assert!(err.len() == 300_000 && err.bytes().all(|byte| byte == b'y'));

        let mut wanted = spec(&["env"]);
        wanted.environment.insert("CANARY".to_owned(), "tweet".to_owned());
        let (out, err, _) = output(&mut spawner.spawn(&wanted).unwrap()).await;
        let mut lines: Vec<&str> = out.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["CANARY=tweet", "PATH=/usr/local/bin:/usr/bin:/bin"]);
        assert_eq!(err, "");
    }
}

#[tokio::test]
async fn the_command_gets_no_control_pipe() {
    let pipes = |pid: u32, from: usize| -> Vec<String> {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        fds.filter(|fd| fd.file_name().to_str().unwrap().parse::<usize>().unwrap() >= from)
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .map(|link| link.to_str().unwrap().to_owned())
            .filter(|link| link.starts_with("pipe:"))
            .collect()
    };
    // The test itself may have been started with a stray pipe that everything inherits.
    let before = pipes(std::process::id(), 3);
    let mut child = supervised().spawn(&shell("echo $$; sleep 1000")).unwrap();
    let command = read_tree(child.take_stdout().unwrap(), 1).await[0].1;
    let own = pipes(std::process::id(), 3);
    let mut control = pipes(child.pid(), 3);
    control.retain(|pipe| own.contains(pipe) && !before.contains(pipe));
    assert_eq!(control.len(), 1, "the supervisor holds the other end of one new pipe of ours");
    assert!(pipes(command, 0).iter().all(|pipe| !control.contains(pipe)), "{control:?}");
    within(KILLED, "kill", child.kill()).await.unwrap();
}

#[tokio::test]
async fn stdin_is_a_pipe_or_empty() {
    for spawner in both() {
        let (out, _, exit) = output(&mut spawner.spawn(&spec(&["cat"])).unwrap()).await;
        assert!(out.is_empty() && exit.success());

        let mut child = spawner.spawn(&SpawnSpec { stdin: StdinMode::Piped, ..spec(&["cat"]) }).unwrap();
        let mut stdin = child.take_stdin().unwrap();
        stdin.write_all(b"through").await.unwrap();
        drop(stdin);
        let (out, _, exit) = output(&mut child).await;
        assert!(out == "through" && exit.success());
    }
}

#[tokio::test]
async fn what_a_command_leaves_behind_dies_with_it() {
    for spawner in both() {
        let mut child = spawner.spawn(&shell("sleep 1000 & echo $!; exit 7")).unwrap();
        let mut line = String::new();
        BufReader::new(child.take_stdout().unwrap()).read_line(&mut line).await.unwrap();
        // It may be dead already, so only its number is kept.
        let pid: u32 = line.trim().parse().unwrap();
        let exit = within(KILLED, "wait", child.wait()).await.unwrap();
        assert_eq!(exit.code, 7);
        assert!(tree::lookup(pid).is_none_or(|entry| entry.zombie));
    }
}

#[tokio::test]
async fn impossible_commands_are_refused_by_name() {
    for spawner in both() {
        assert!(matches!(spawner.spawn(&spec(&[])), Err(SpawnError::EmptyCommand)));
        assert!(matches!(spawner.spawn(&spec(&[""])), Err(SpawnError::EmptyCommand)));
        assert!(
            matches!(spawner.spawn(&spec(&["sh", "a\0b"])), Err(SpawnError::NulByte(what)) if what == "argument 1")
        );
        let missing = spawner.spawn(&spec(&["echo x; touch /tmp/never"])).unwrap_err();
        assert!(matches!(missing, SpawnError::NotFound { .. }), "{missing}");
        let missing = spawner.spawn(&spec(&["no-such-program-here"])).unwrap_err();
        assert_eq!(missing.to_string(), "the program \"no-such-program-here\" was not found in PATH");
        let nowhere = SpawnSpec { working_directory: "/no/such/place".into(), ..spec(&["true"]) };
        assert!(matches!(spawner.spawn(&nowhere), Err(SpawnError::WorkingDirectory(_))));
        let mut values = spec(&["true"]);
        values.environment.insert("SECRET".to_owned(), "hush".to_owned());
        assert!(!format!("{values:?}").contains("hush"));
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_executed_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("garbage");
    std::fs::write(&path, [0x7f, 0x45, 0x4c, 0x46, 0, 1, 2]).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let argv = spec(&[path.to_str().unwrap()]);
    let (_, err, exit) = output(&mut supervised().spawn(&argv).unwrap()).await;
    assert_eq!(exit.code, 126);
    assert!(err.contains("garbage"), "{err}");
    assert!(matches!(Spawner::default().spawn(&argv), Err(SpawnError::Start { .. })));
}

#[tokio::test]
async fn a_supervisor_that_is_killed_is_reported_as_killed() {
    let mut child = supervised().spawn(&shell("echo $$; exec sleep 1000")).unwrap();
    let tree = read_tree(child.take_stdout().unwrap(), 1).await;
    kill_process(tree::to_pid(child.pid()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(within(SLOW, "wait", child.wait()).await.unwrap(), Exit::from_signal(9));
    kill_process(tree::to_pid(tree[0].1).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_stuck_supervisor_does_not_save_its_tree() {
    let mut child = supervised()
        .spawn(&shell("sleep 1000 & echo $!; setsid sleep 1000 & echo $!; echo $$; wait"))
        .unwrap();
    let tree = read_tree(child.take_stdout().unwrap(), 3).await;
    kill_process(tree::to_pid(child.pid()).unwrap(), Signal::STOP).unwrap();
    let started = Instant::now();
    within(KILLED, "kill", child.kill()).await.unwrap();
    all_gone(&tree, started).await;
}

#[tokio::test]
async fn descendants_of_a_tool_are_recognised_and_nobody_else() {
    let spawner = supervised();
    let mut child = spawner.spawn(&shell(TREE)).unwrap();
    let tree = read_tree(child.take_stdout().unwrap(), 5).await;
    let processes = spawner.processes();
    for process in &tree {
        assert!(
            processes.is_tool_descendant(process.1),
            "{} is below the tool, even as an orphan",
            process.1
        );
        assert!(gander_process::descends_from(process.1, &[child.pid()]));
    }
    assert!(!processes.is_tool_descendant(std::process::id()));
    within(KILLED, "kill", child.kill()).await.unwrap();
    drop(child);
    assert!(processes.is_empty());
}

#[tokio::test]
async fn many_fast_commands_leave_nothing_behind() {
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    for spawner in both() {
        let before = fds();
        for _ in 0..5 {
            let started: Vec<_> =
                (0..10).map(|_| spawner.spawn(&shell("sleep 1000 & echo $$")).unwrap()).collect();
            let pids: Vec<u32> = started.iter().map(SupervisedChild::pid).collect();
            for mut child in started {
                let (out, _, exit) = output(&mut child).await;
                assert!(exit.success() && out.trim().parse::<u32>().is_ok());
            }
            for pid in pids {
                assert!(tree::descendants(pid).is_empty());
                assert!(
                    tree::lookup(pid).is_none_or(|entry| entry.parent != std::process::id()),
                    "{pid} is a zombie"
                );
            }
        }
        assert!(spawner.processes().is_empty());
        // Tests that run beside this one hold some of their own.
        assert!(fds() < before + 60, "{before} descriptors became {}", fds());
    }
}
