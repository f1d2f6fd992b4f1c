//! What a sandboxed tree can and cannot do. Where the kernel has no sandbox, the tests that need one say so and stop.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{MetadataExt as _, symlink},
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
};

use gander_process::{SandboxSpec, sandbox_support};
use rustix::io::FdFlags;
use tempfile::TempDir;

use super::*;

const EPERM: &str = "1\n";
const EACCES: &str = "13\n";

/// Whether this machine can run `test`.
fn available(test: &str) -> bool {
    let support = sandbox_support().check(true);
    if let Err(error) = &support {
        let _ = writeln!(std::io::stderr(), "skipped: {test}: {error}");
    }
    support.is_ok()
}

fn abi() -> u32 {
    sandbox_support().landlock_abi.unwrap()
}

/// A directory with `work`, `else`, and `secret`, each with a file in it.
struct Places(TempDir);

impl Places {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["work", "else", "secret"] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("file"), format!("the file in {name}\n")).unwrap();
        }
        Self(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `work` is writable, `secret` is denied.
    fn sandbox(&self) -> SandboxSpec {
        SandboxSpec {
            writable: vec![self.path("work")],
            denied: vec![self.path("secret")],
            ..SandboxSpec::default()
        }
    }

    /// A script that runs in the root directory.
    fn script(&self, script: &str) -> SpawnSpec {
        SpawnSpec { working_directory: self.0.path().to_owned(), ..shell(script) }
    }
}

async fn run(spec: &SpawnSpec, sandbox: &SandboxSpec) -> (String, String, Exit) {
    output(&mut supervised().spawn_sandboxed(spec, Some(sandbox)).unwrap()).await
}

async fn probe(sandbox: &SandboxSpec, what: &str, target: &str) -> String {
    let (out, err, _) = run(&spec(&[example("probe").to_str().unwrap(), what, target]), sandbox).await;
    assert_eq!(err, "", "probe {what} {target}");
    out
}

#[tokio::test]
async fn only_writable_paths_can_be_written_however_deep_the_process() {
    if !available("only_writable_paths_can_be_written_however_deep_the_process") {
        return;
    }
    let places = Places::new();
    let script = r#"
        exec 2>/dev/null
        echo new > work/new && mkdir work/d && mv work/new work/d/new && ln -s x work/link && mkfifo work/fifo || exit 10
        echo changed > work/file && rm work/fifo || exit 11
        (echo x > else/new) && exit 20
        (echo x > else/file) && exit 21
        (echo x >> else/file) && exit 22
        rm -f else/file && exit 23
        mkdir else/d && exit 24
        mv work/file else/ && exit 25
        mv else/file work/ && exit 26
        ln else/file work/hard && exit 27
        ln -s x else/link && exit 28
        (cd else && echo x > new) && exit 29
        (echo x > "work/../else/new") && exit 30
        ln -s "$PWD/else/new" work/out; (echo x > work/out) && exit 31
        sh -c 'sh -c "echo x > else/new"' && exit 40
        setsid sh -c 'echo x > else/new' && exit 41
        sh -c '(echo x > else/orphan; echo x > work/orphan) &'
        until test -s work/orphan; do :; done
        test -e else/orphan && exit 42
        cat else/file && ls else > /dev/null
    "#;
    let (out, err, exit) = run(&places.script(script), &places.sandbox()).await;
    assert_eq!((exit.code, out.as_str(), err.as_str()), (0, "the file in else\n", ""));
    assert_eq!(fs::read_to_string(places.path("work/file")).unwrap(), "changed\n");
    assert_eq!(fs::read_dir(places.path("else")).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(places.path("else/file")).unwrap(), "the file in else\n");
}

#[tokio::test]
async fn what_is_denied_cannot_be_read_by_any_name() {
    if !available("what_is_denied_cannot_be_read_by_any_name") {
        return;
    }
    let places = Places::new();
    symlink(places.path("secret"), places.path("way-in")).unwrap();
    symlink(places.path("secret/file"), places.path("work/link")).unwrap();
    fs::copy("/bin/true", places.path("secret/program")).unwrap();
    let script = r#"
        cat else/file work/file || exit 10
        exec 2>/dev/null
        cat secret/file && exit 20
        cat way-in/file && exit 21
        cat work/link && exit 22
        cat "/proc/self/root/$PWD/secret/file" && exit 23
        (cd secret && cat file) && exit 24
        sh -c 'sh -c "cat secret/file"' && exit 25
        secret/program && exit 26
        cp secret/file work/stolen && exit 27
        mv secret/file work/stolen && exit 28
        ln secret/file work/stolen && exit 29
        mv secret work/stolen && exit 30
        (echo x > secret/new) && exit 31
        exit 0
    "#;
    let (out, err, exit) = run(&places.script(script), &places.sandbox()).await;
    assert_eq!((exit.code, out.as_str(), err.as_str()), (0, "the file in else\nthe file in work\n", ""));
    // The same without it being denied, or the above proves nothing.
    let open = SandboxSpec { denied: Vec::new(), ..places.sandbox() };
    let script = places.script("cat secret/file way-in/file work/link && secret/program");
    assert!(run(&script, &open).await.2.success());
    // What does not exist yet is hidden too, and what exists beside it is not.
    let later = SandboxSpec { denied: vec![places.path("secret/later/deep")], ..places.sandbox() };
    fs::create_dir_all(places.path("secret/later")).unwrap();
    fs::write(places.path("secret/later/deep"), "x").unwrap();
    let (out, _, exit) = run(&places.script("cat secret/file; cat secret/later/deep"), &later).await;
    assert!(out == "the file in secret\n" && !exit.success(), "{out}");
}

#[tokio::test]
async fn a_list_of_readable_paths_is_all_there_is_besides_the_system() {
    if !available("a_list_of_readable_paths_is_all_there_is_besides_the_system") {
        return;
    }
    let places = Places::new();
    let listed = SandboxSpec { readable: Some(vec![places.path("else")]), ..places.sandbox() };
    let script =
        "cat else/file work/file; cat secret/file 2>/dev/null; cat /etc/passwd > /dev/null || exit 9";
    let (out, err, exit) = run(&places.script(script), &listed).await;
    assert_eq!((out.as_str(), err.as_str(), exit.code), ("the file in else\nthe file in work\n", "", 0));
    let (_, err, exit) = run(&places.script("ls ."), &listed).await;
    assert!(!exit.success() && !err.is_empty());
}

#[tokio::test]
async fn the_private_directory_is_writable_even_inside_a_denied_one() {
    if !available("the_private_directory_is_writable_even_inside_a_denied_one") {
        return;
    }
    let places = Places::new();
    let private = places.path("secret/tmp");
    let sandbox = SandboxSpec { private_tmp: Some(private.clone()), ..places.sandbox() };
    let script = r#"echo x > "$TMPDIR/a" && mktemp && echo "$TMP $TEMP"; cat secret/file 2>/dev/null"#;
    let (out, err, _) = run(&places.script(script), &sandbox).await;
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 2 && Path::new(lines[0]).starts_with(&private), "{out}{err}");
    assert_eq!(lines[1], format!("{0} {0}", private.display()));
    assert_eq!(private.metadata().unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn without_network_no_socket_leads_anywhere_and_with_it_they_do() {
    if !available("without_network_no_socket_leads_anywhere_and_with_it_they_do") {
        return;
    }
    let places = Places::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let path = places.path("else/socket");
    let _open = UnixListener::bind(&path).unwrap();
    let hidden = places.path("secret/socket");
    let _hidden = UnixListener::bind(&hidden).unwrap();
    let name = format!("gander-process-test-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();

    let without = places.sandbox();
    assert_eq!(probe(&without, "tcp", &address).await, EPERM);
    assert_eq!(probe(&without, "unix", path.to_str().unwrap()).await, EPERM);
    assert_eq!(probe(&without, "abstract", &name).await, EPERM);
    assert_eq!(probe(&without, "datagram-pair", "").await, EPERM);
    assert_eq!(probe(&without, "stream-pair", "").await, "ok\n");

    let with = SandboxSpec { network: true, ..without };
    assert_eq!(probe(&with, "tcp", &address).await, "ok\n");
    assert_eq!(probe(&with, "unix", path.to_str().unwrap()).await, "ok\n");
    assert_eq!(probe(&with, "datagram-pair", "").await, "ok\n");
    assert_eq!(probe(&with, "stream-pair", "").await, "ok\n");
    assert_eq!(probe(&with, "abstract", &name).await, if abi() < 6 { "ok\n" } else { EPERM });
    assert_eq!(probe(&with, "unix", hidden.to_str().unwrap()).await, if abi() < 9 { "ok\n" } else { EACCES });
}

#[tokio::test]
async fn processes_outside_are_out_of_reach() {
    if !available("processes_outside_are_out_of_reach") {
        return;
    }
    // Its memory, its variables and its descriptors.
    let outsider = std::process::id();
    let script = format!(
        "exec 2>/dev/null
         cat /proc/$$/environ > /dev/null || exit 10
         cat /proc/{outsider}/environ && exit 20
         cat /proc/{outsider}/fd/0 && exit 21
         head -c 1 /proc/{outsider}/mem && exit 23
         cat /proc/$PPID/environ && exit 24
         cat /proc/{outsider}/root/etc/passwd && exit 22
         kill -0 $$ || exit 11
         kill -0 {outsider} && exit 30
         kill -KILL $PPID && exit 31
         exit 0"
    );
    let (_, _, exit) = run(&shell(&script), &SandboxSpec::default()).await;
    assert_eq!(exit.code, if abi() < 6 { 30 } else { 0 });
}

#[tokio::test]
async fn privileges_namespaces_and_tracing_are_refused() {
    if !available("privileges_namespaces_and_tracing_are_refused") {
        return;
    }
    let sandbox = SandboxSpec { network: true, ..SandboxSpec::default() };
    let (out, ..) = run(&shell("grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status"), &sandbox).await;
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words[2..], ["NoNewPrivs:", "1", "Seccomp:", "2"]);
    let left = u64::from_str_radix(words[1], 16).unwrap();
    assert_eq!(left & !0x4fb, 0, "more than files and users: {left:#x}");
    for command in [&["unshare", "--user", "true"][..], &["strace", "-o", "/dev/null", "true"]] {
        let allowed = match supervised().spawn(&spec(command)) {
            Ok(mut child) => output(&mut child).await.2.success(),
            Err(_) => false,
        };
        if allowed {
            assert!(!run(&spec(command), &sandbox).await.2.success(), "{command:?}");
        } else {
            let _ = writeln!(std::io::stderr(), "skipped: {command:?}: does not work outside either");
        }
    }
}

#[tokio::test]
async fn threads_and_processes_still_work() {
    if !available("threads_and_processes_still_work") {
        return;
    }
    let (out, err, exit) = run(&shell("seq 3 | tr '\\n' ' ' | (cat; exit 3)"), &SandboxSpec::default()).await;
    assert_eq!((out.as_str(), err.as_str(), exit.code), ("1 2 3 ", "", 3));
    // A program with threads: they are made by `clone3` where there is one. Nested supervisors have a runtime.
    let supervisor = example("supervise");
    let nested = spec(&[supervisor.to_str().unwrap(), "--", "sh", "-c", "echo deep; exit 4"]);
    let with = SandboxSpec { network: true, ..SandboxSpec::default() };
    let (out, err, exit) = run(&nested, &with).await;
    assert_eq!((out.as_str(), err.as_str(), exit.code), ("deep\n", "", 4));
}

#[tokio::test]
async fn a_sandboxed_tree_can_be_killed_dropped_and_outlived() {
    if !available("a_sandboxed_tree_can_be_killed_dropped_and_outlived") {
        return;
    }
    let sandbox = SandboxSpec::default();
    let spawner = supervised();
    let mut child = spawner.spawn_sandboxed(&shell(TREE), Some(&sandbox)).unwrap();
    let tree = read_tree(child.take_stdout().unwrap(), 5).await;
    assert!(tree.iter().all(|process| spawner.processes().is_tool_descendant(process.1)));
    let started = Instant::now();
    assert!(!within(KILLED, "kill", child.kill()).await.unwrap().success());
    all_gone(&tree, started).await;
    drop(child);
    assert!(spawner.processes().is_empty());

    let mut child = spawner.spawn_sandboxed(&shell(TREE), Some(&sandbox)).unwrap();
    let tree = read_tree(child.take_stdout().unwrap(), 5).await;
    let started = Instant::now();
    drop(child);
    all_gone(&tree, started).await;

    let mut daemon = tokio::process::Command::new(example("owner"))
        .args(["--sandboxed", "sh", "-c", TREE])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let tree = read_tree(daemon.stdout.take().unwrap(), 5).await;
    let started = Instant::now();
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    all_gone(&tree, started).await;

    let mut child = spawner.spawn_sandboxed(&shell("sleep 1000 & echo $!; exit 7"), Some(&sandbox)).unwrap();
    let (out, _, exit) = output(&mut child).await;
    assert_eq!(exit.code, 7);
    assert!(tree::lookup(out.trim().parse().unwrap()).is_none_or(|entry| entry.zombie));
    for (script, wanted) in [("kill -TERM $$", Exit::from_signal(15)), ("exit 42", Exit::from_code(42))] {
        assert_eq!(run(&shell(script), &sandbox).await.2, wanted);
    }
}

#[tokio::test]
async fn descriptors_inherited_by_accident_do_not_lead_out() {
    if !available("descriptors_inherited_by_accident_do_not_lead_out") {
        return;
    }
    let places = Places::new();
    let stray = fs::File::open(places.path("secret/file")).unwrap();
    rustix::io::fcntl_setfd(stray.as_fd(), FdFlags::empty()).unwrap();
    let script = format!("ls -l /proc/$$/fd/{} 2>/dev/null; echo end", stray.as_raw_fd());
    let (out, ..) = output(&mut supervised().spawn(&shell(&script)).unwrap()).await;
    assert!(out.contains("secret/file"), "it is inherited without a sandbox: {out}");
    assert_eq!(run(&shell(&script), &places.sandbox()).await.0, "end\n");
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_had_is_an_error_and_nothing_runs() {
    let places = Places::new();
    let spec = places.script("echo x > else/ran");
    let error = Spawner::default().spawn_sandboxed(&spec, Some(&places.sandbox())).unwrap_err();
    assert!(matches!(error, SpawnError::SandboxNeedsSupervisor), "{error}");
    if let Err(expected) = sandbox_support().check(true) {
        let error = supervised().spawn_sandboxed(&spec, Some(&places.sandbox())).unwrap_err();
        assert_eq!(error.to_string(), expected.to_string());
    }
    // The supervisor itself, with a path that has gone since the daemon looked.
    let plan = r#"{"writable":["/no/such/place"],"readable":null,"denied":[],"network":true,"require":true}"#;
    for plan in [plan, "{}"] {
        let mut command = tokio::process::Command::new(example("supervise"));
        command.args(["--sandbox", plan, "--", "touch"]).arg(places.path("else/ran")).kill_on_drop(true);
        let output = within(SLOW, "the supervisor", command.output()).await.unwrap();
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&output.stderr).contains("sandbox"));
    }
    assert!(!places.path("else/ran").exists());
}

#[tokio::test]
async fn a_program_that_must_not_be_executed_is_reported() {
    if !available("a_program_that_must_not_be_executed_is_reported") {
        return;
    }
    let places = Places::new();
    fs::copy("/bin/true", places.path("secret/program")).unwrap();
    let program = places.path("secret/program");
    let (_, err, exit) = run(&spec(&[program.to_str().unwrap()]), &places.sandbox()).await;
    assert_eq!(exit.code, 126);
    assert!(err.contains("program"), "{err}");
}
