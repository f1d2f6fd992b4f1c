//! What the tests share: a home, a daemon, a terminal, and ways to wait that end.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

/// Longest time for one run of the program.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A root directory and a working directory.
pub(crate) struct Home {
    pub(crate) root: TempDir,
    pub(crate) work: TempDir,
}

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self { root: tempfile::tempdir().unwrap(), work: tempfile::tempdir().unwrap() };
        std::fs::write(home.work.path().join("hello.txt"), "hello\n").unwrap();
        home
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gander"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            // A model server of whoever runs the tests is none of their business.
            .env("GANDER_AUTO_MODEL", "false")
            .env("HOME", self.root.path())
            .env("GANDER_PATH_ROOT", self.root.path())
            .current_dir(self.work.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments).spawn().unwrap(), None)
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        finish(child, Some(input.to_owned()))
    }

    /// Runs, expects exit code 0 and gives stdout.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    /// The id of the only session.
    pub(crate) fn session(&self) -> String {
        let list = self.json(&["session", "list", "--json"]);
        assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
        list[0]["session_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn serve(&self, arguments: &[&str]) -> Daemon {
        let mut child = self.command(&[&["serve"], arguments].concat()).spawn().unwrap();
        let (sender, ready) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut BufReader::new(stderr), &mut std::io::sink());
        });
        Daemon { child, ready }
    }
}

/// A daemon in the foreground; killed when the test is over.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) ready: mpsc::Receiver<String>,
}

impl Daemon {
    /// The next ready line that begins so, without its beginning.
    pub(crate) fn line(&self, prefix: &str) -> String {
        let line = self.ready.recv_timeout(DEADLINE).expect("a ready line in time");
        line.strip_prefix(prefix)
            .unwrap_or_else(|| panic!("{line:?} does not begin with {prefix:?}"))
            .to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        wait(&mut self.child).code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits for the end of a program, which is killed when it takes too long.
pub(crate) fn wait(child: &mut Child) -> std::process::ExitStatus {
    let (done, watch) = mpsc::channel::<()>();
    let pid = child.id().to_string();
    let watcher = std::thread::spawn(move || {
        let late = watch.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        }
        late
    });
    let status = child.wait().unwrap();
    drop(done);
    assert!(!watcher.join().unwrap(), "the program did not end in time");
    status
}

pub(crate) fn finish(mut child: Child, input: Option<String>) -> Ran {
    if let Some(input) = input {
        let mut stdin = child.stdin.take().unwrap();
        std::thread::spawn(move || {
            let _ = stdin.write_all(input.as_bytes());
        });
    }
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|s| Box::new(s) as Box<dyn std::io::Read + Send>));
    let stderr = read(child.stderr.take().map(|s| Box::new(s) as Box<dyn std::io::Read + Send>));
    let status = wait(&mut child);
    Ran { code: status.code().unwrap_or(-1), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Reads until this was said.
pub(crate) fn read_until(stream: &mut impl std::io::Read, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the end came before {wanted:?}: {seen}");
        seen.push(char::from(byte[0]));
    }
}

/// The lines of a child's stdout; the child is killed when nobody reads them any more.
pub(crate) fn lines(mut child: Child) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    });
    receiver
}

/// The program on a terminal of its own.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    pub(crate) screen: std::fs::File,
    pub(crate) seen: String,
}

impl Terminal {
    pub(crate) fn start(home: &Home, arguments: &[&str]) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        let open = || {
            use std::os::unix::fs::OpenOptionsExt as _;
            let flags = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap();
            std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(&name).unwrap()
        };
        let mut command = home.command(arguments);
        command.env("TERM", "xterm").stdin(open()).stdout(open()).stderr(open());
        Self { child: command.spawn().unwrap(), screen: screen.into(), seen: String::new() }
    }

    /// Reads until this is shown after what was waited for before.
    pub(crate) fn wait_for(&mut self, wanted: &str) {
        let from = self.seen.len();
        while !self.seen[from..].contains(wanted) {
            assert!(self.read(), "the end came before {wanted:?}: {}", self.seen);
        }
    }

    /// Reads a piece; false at the end.
    pub(crate) fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // When the program is gone Linux reports an error instead of an end.
        let count = self.screen.read(&mut bytes).unwrap_or(0);
        self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        count > 0
    }

    pub(crate) fn type_line(&mut self, line: &str) {
        self.screen.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        while self.read() {}
        (wait(&mut self.child).code(), self.seen)
    }
}
