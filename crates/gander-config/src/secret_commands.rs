//! Secrets that a command prints: `pass`, `op`, `vault`, or a script.
//!
//! The setting `gander.secret_commands` maps a secret's name to its command, a text for `sh` or a list of words. Nothing
//! else is run, and only when the secret is needed. What a command printed is kept in memory for some minutes; that it
//! failed, for some seconds. A command has a deadline, after which its whole group is ended; no lock is held meanwhile, so
//! that one that waits for a person holds up nobody else.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{environment::Environment, secrets::Secret};

/// The setting.
pub(crate) const KEY: &str = "gander.secret_commands";
/// How long a command may take: some ask a person.
const DEADLINE: Duration = Duration::from_secs(20);
const KEPT_FOR: Duration = Duration::from_secs(600);
const FAILED_FOR: Duration = Duration::from_secs(30);
/// Longest secret.
const MOST_BYTES: u64 = 64 * 1024;

/// The commands by the name of the secret, upper case. Entries of another shape are left out.
pub(crate) fn commands(setting: Option<&Value>) -> BTreeMap<String, Vec<String>> {
    let Some(Value::Object(entries)) = setting else { return BTreeMap::new() };
    let words = |value: &Value| match value {
        Value::String(line) if !line.trim().is_empty() => {
            Some(vec!["sh".to_owned(), "-c".to_owned(), line.clone()])
        }
        Value::Array(words) if !words.is_empty() => {
            words.iter().map(|word| word.as_str().map(str::to_owned)).collect()
        }
        _ => None,
    };
    entries.iter().filter_map(|(name, value)| Some((name.to_ascii_uppercase(), words(value)?))).collect()
}

struct Kept {
    words: Vec<String>,
    at: Instant,
    secret: Option<Secret>,
}

/// What commands printed.
#[derive(Default)]
pub(crate) struct SecretCommands(Mutex<HashMap<String, Kept>>);

impl SecretCommands {
    /// The secret that this command prints; nothing when it fails, which is logged without its output.
    pub(crate) fn secret(&self, name: &str, words: &[String], environment: &Environment) -> Option<Secret> {
        if let Some(known) = self.kept(name, words) {
            return known;
        }
        let secret = match run(words, environment, DEADLINE) {
            Ok(secret) => Some(secret),
            Err(why) => {
                tracing::warn!(secret = name, "the command for this secret failed: {why}");
                None
            }
        };
        let kept = Kept { words: words.to_vec(), at: Instant::now(), secret: secret.clone() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), kept);
        secret
    }

    /// What is still good of an earlier run of the same command.
    pub(crate) fn kept(&self, name: &str, words: &[String]) -> Option<Option<Secret>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.get(name).filter(|known| known.words == words)?;
        let good_for = if known.secret.is_some() { KEPT_FOR } else { FAILED_FOR };
        (known.at.elapsed() < good_for).then(|| known.secret.clone())
    }

    /// Everything that was printed, for redaction.
    pub(crate) fn values(&self) -> Vec<Secret> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.values().filter_map(|known| known.secret.clone()).collect()
    }
}

/// Ends the whole group of a command.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // Gone already is as good.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

fn run(words: &[String], environment: &Environment, deadline: Duration) -> Result<Secret, String> {
    let (program, arguments) = words.split_first().ok_or("it is empty")?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    let mut group = Group(child);
    let output = group.0.stdout.take().ok_or("it has no output")?;
    let (sender, receiver) = mpsc::channel();
    // Ends with the command's output, at the latest when its group is ended.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.take(MOST_BYTES + 1).read_to_end(&mut bytes).map(|_| bytes);
        let _ = sender.send(read);
    });
    let printed = receiver
        .recv_timeout(deadline)
        .map_err(|_| format!("it did not end within {} s", deadline.as_secs()))?
        .map_err(|error| format!("its output cannot be read: {error}"))?;
    if printed.len() as u64 > MOST_BYTES {
        return Err(format!("it printed more than {MOST_BYTES} bytes"));
    }
    let status = group.0.wait().map_err(|error| format!("it cannot be waited for: {error}"))?;
    if !status.success() {
        return Err(format!("it ended with {status}"));
    }
    let text = String::from_utf8(printed).map_err(|_| "it printed something that is no text".to_owned())?;
    match text.trim() {
        "" => Err("it printed nothing".to_owned()),
        secret => Ok(Secret::new(secret)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn environment() -> Environment {
        [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("VAULT", "v-1")].into_iter().collect()
    }

    fn sh(line: &str) -> Vec<String> {
        ["sh", "-c", line].map(str::to_owned).to_vec()
    }

    #[test]
    fn commands_are_texts_or_lists_of_words() {
        let setting =
            json!({ "a_key": "pass show a", "B_KEY": ["op", "read", "op://x"], "C": 1, "D": "", "E": [1] });
        let commands = commands(Some(&setting));
        assert_eq!(commands["A_KEY"], sh("pass show a"));
        assert_eq!(commands["B_KEY"], ["op", "read", "op://x"]);
        assert_eq!(commands.len(), 2);
        assert!(super::commands(Some(&json!("x"))).is_empty() && super::commands(None).is_empty());
    }

    #[test]
    fn what_is_printed_is_the_secret_without_its_line_end() {
        let run =
            |line: &str| run(&sh(line), &environment(), DEADLINE).map(|secret| secret.expose().to_owned());
        assert_eq!(run("printf 'key-%s\\n' $VAULT"), Ok("key-v-1".to_owned()));
        for (line, why) in [
            ("exit 3", "exit status: 3"),
            ("true", "printed nothing"),
            ("printf '\\377'", "no text"),
            ("yes | head -c 100000", "more than"),
        ] {
            let error = run(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
        let missing = super::run(&["/no/such/program".to_owned()], &environment(), DEADLINE);
        assert!(missing.unwrap_err().contains("cannot be started"));
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_its_children() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = format!("echo $$ > {}; sleep 300 & sleep 300", file.path().display());
        let start = Instant::now();
        let error = run(&sh(&line), &environment(), Duration::from_millis(500)).unwrap_err();
        assert!(error.contains("did not end"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
        let group: i32 = std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
        let group = rustix::process::Pid::from_raw(group).unwrap();
        // Its members may be waiting for whoever inherits them, but none is left to be signalled for long.
        let until = Instant::now() + Duration::from_secs(10);
        while rustix::process::test_kill_process_group(group).is_ok() {
            assert!(Instant::now() < until, "the group is still there");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_command_runs_once_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let line = format!("echo ran >> {}; echo secret-1234", log.display());
        let commands = SecretCommands::default();
        for _ in 0..3 {
            let secret = commands.secret("A_KEY", &sh(&line), &environment()).unwrap();
            assert_eq!(secret.expose(), "secret-1234");
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "ran\n");
        assert_eq!(commands.values().len(), 1);
        // Another command for the same name is another matter.
        assert!(commands.secret("A_KEY", &sh("exit 1"), &environment()).is_none());
        assert!(commands.kept("A_KEY", &sh("exit 1")).is_some_and(|kept| kept.is_none()));
    }
}
