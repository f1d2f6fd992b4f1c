//! Against a real keyring on a bus of its own, and against what may stand in its place: nothing, a bus without a keyring,
//! one that is locked, one that never answers, one that answers oddly.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
};

use std::result::Result;

use futures::StreamExt as _;
use serde_json::json;
use zbus::Message;

use super::*;
use crate::{ConfigError, ConfigHandle, ConfigOptions, Paths, SecretOrigin};

/// How long programs of the test may take to be there.
const START: Duration = Duration::from_secs(20);
const FIRST: &str = "sk-first-0123456789";
const SECOND: &str = "sk-second-0123456789";

/// A program that is ended with all it started.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// A session bus with nothing on it, in a directory of its own.
struct Bus {
    directory: tempfile::TempDir,
    _program: Program,
}

fn missing(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !found {
        assert!(
            std::env::var_os("GANDER_TEST_REQUIRE").is_none(),
            "must not be skipped: {program} is not installed"
        );
        eprintln!("SKIPPED: {program} is not installed");
    }
    !found
}

/// Whether the programs of these tests are there.
fn usable() -> bool {
    !["dbus-daemon", "gnome-keyring-daemon", "secret-tool"].into_iter().any(missing)
}

impl Bus {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path().join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            directory.path().join("bus").display()
        );
        fs::write(&conf, text).unwrap();
        for name in ["home", "run"] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::set_permissions(directory.path().join(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        let mut command = Command::new("dbus-daemon");
        command.arg("--config-file").arg(&conf).args(["--nofork", "--print-address=1"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut program = Program(command.spawn().unwrap());
        let mut address = String::new();
        BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.starts_with("unix:path="), "{address}");
        Self { directory, _program: program }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let below = |name: &str| self.directory.path().join(name).display().to_string();
        vec![
            ("DBUS_SESSION_BUS_ADDRESS".to_owned(), format!("unix:path={}", below("bus"))),
            ("HOME".to_owned(), below("home")),
            ("XDG_DATA_HOME".to_owned(), below("home/data")),
            ("XDG_CONFIG_HOME".to_owned(), below("home/config")),
            ("XDG_RUNTIME_DIR".to_owned(), below("run")),
            ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ]
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.environment()).process_group(0);
        command
    }

    /// Starts a keyring, unlocked by a password or locked, and waits until it answers.
    fn keyring(&self, password: Option<&str>) -> Program {
        let mut command = self.command("gnome-keyring-daemon");
        command.args(["--foreground", "--components=secrets"]);
        command.args(password.map(|_| "--unlock"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut program = Program(command.spawn().unwrap());
        let mut stdin = program.0.stdin.take().unwrap();
        stdin.write_all(password.unwrap_or_default().as_bytes()).unwrap();
        drop(stdin);
        let until = Instant::now() + START;
        let environment = self.environment().into_iter().collect();
        loop {
            let answer =
                system::Vault::open(&environment, Instant::now() + ANSWER).and_then(|mut v| v.read(OWN));
            // Nobody yet, or not ready yet.
            let starts = matches!(answer, Err(KeyringError::NoService | KeyringError::Failed { .. }));
            let opens = password.is_some() && matches!(answer, Err(KeyringError::Locked));
            if !starts && !opens {
                return program;
            }
            assert!(Instant::now() < until, "the keyring does not start: {:?}", answer.err());
            std::thread::yield_now();
        }
    }

    /// What another program, of other authors, stores.
    fn store(&self, service: &str, text: &str) {
        let mut command = self.command("secret-tool");
        command.args(["store", "--label=x", "service", service, "username", "secrets", "target", "default"]);
        let mut program = Program(command.stdin(Stdio::piped()).spawn().unwrap());
        program.0.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(program.0.wait().unwrap().success());
    }

    /// What another program finds.
    fn lookup(&self, service: &str) -> Value {
        let mut command = self.command("secret-tool");
        let output = command.args(["lookup", "service", service, "username", "secrets"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }
}

/// A configuration whose bus is the one of `environment`.
struct Place {
    directory: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Place {
    fn new(environment: Vec<(String, String)>, yaml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("config")).unwrap();
        let place = Self { directory, environment };
        fs::write(place.file("config.yaml"), yaml).unwrap();
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("config").join(name)
    }

    fn open(&self) -> ConfigHandle {
        self.open_with(&[])
    }

    fn open_with(&self, more: &[(&str, &str)]) -> ConfigHandle {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment: Environment = self.environment.iter().cloned().chain(more).collect();
        let paths = Paths::resolve(Some(self.directory.path()), &environment).unwrap();
        let nothing = self.directory.path().join("empty.yaml");
        fs::write(&nothing, "").unwrap();
        ConfigHandle::open(ConfigOptions {
            defaults_file: Some(nothing.clone()),
            policy_file: Some(nothing),
            ..ConfigOptions::new(paths, environment)
        })
        .unwrap()
    }
}

fn bus_at(path: &Path) -> Vec<(String, String)> {
    vec![("DBUS_SESSION_BUS_ADDRESS".to_owned(), format!("unix:path={}", path.display()))]
}

fn value(handle: &ConfigHandle, key: &str) -> Option<String> {
    handle.secret(key).map(|secret| secret.expose().to_owned())
}

fn entry_of(handle: &ConfigHandle, key: &str) -> Option<String> {
    match handle.secret_status(key).origin? {
        SecretOrigin::Keyring { entry } => Some(entry),
        other => Some(format!("{other:?}")),
    }
}

const CHOSEN: &str = "gander.secret_store: keyring\n";

#[test]
fn secrets_are_kept_in_an_entry_of_our_own_and_those_of_goose_are_read() {
    if !usable() {
        return;
    }
    let bus = Bus::start();
    let _keyring = bus.keyring(Some("pw"));
    let goose =
        json!({"OPENAI_API_KEY": FIRST, "GROQ_API_KEY": "gsk-of-goose-1234", "n": 12, "unknown": {"a": [1]}});
    bus.store("goose", &goose.to_string());
    let place = Place::new(bus.environment(), CHOSEN);
    let handle = place.open_with(&[("GROQ_API_KEY", "from-the-environment")]);
    assert_eq!(value(&handle, "OPENAI_API_KEY").as_deref(), Some(FIRST));
    assert_eq!(value(&handle, "n").as_deref(), Some("12"));
    assert_eq!(value(&handle, "GROQ_API_KEY").as_deref(), Some("from-the-environment"));
    let status = handle.secret_status("OPENAI_API_KEY");
    assert_eq!((status.set, status.last_four.as_deref()), (true, Some("6789")));
    assert_eq!(entry_of(&handle, "OPENAI_API_KEY").as_deref(), Some("goose"));

    // Written to our entry, which wins; Goose's stays as it is, unknown names included.
    assert!(handle.set_secret("OPENAI_API_KEY", SECOND).unwrap().changed);
    assert!(!handle.set_secret("OPENAI_API_KEY", SECOND).unwrap().changed);
    assert!(!handle.set_secret("GROQ_API_KEY", "shadowed-0123").unwrap().effective);
    assert_eq!(value(&handle, "OPENAI_API_KEY").as_deref(), Some(SECOND));
    assert_eq!(entry_of(&handle, "OPENAI_API_KEY").as_deref(), Some("gander"));
    let own = json!({"OPENAI_API_KEY": SECOND, "GROQ_API_KEY": "shadowed-0123"});
    assert_eq!((bus.lookup("gander"), bus.lookup("goose")), (own, goose.clone()));
    assert!(!place.file("secrets.yaml").exists(), "nothing in a file");

    // Removed here, not there.
    assert!(handle.delete_secret("OPENAI_API_KEY").unwrap().changed);
    assert!(!handle.delete_secret("OPENAI_API_KEY").unwrap().changed);
    assert_eq!(value(&handle, "OPENAI_API_KEY"), None);
    assert_eq!(value(&place.open(), "OPENAI_API_KEY"), None, "by another program of ours, too");
    assert_eq!(bus.lookup("goose"), goose);
    let hidden: Vec<String> = handle.secret_values().iter().map(|s| s.expose().to_owned()).collect();
    assert!(hidden.contains(&"gsk-of-goose-1234".to_owned()) && hidden.contains(&"shadowed-0123".to_owned()));
    assert!(handle.secret_statuses(&[]).iter().any(|status| status.key == "unknown" && status.set));
    assert!(handle.health().is_ok(), "{:?}", handle.health());

    // What another program of ours stores is there for whoever looks anew.
    place.open().set_secret("LATER_API_KEY", FIRST).unwrap();
    assert_eq!(value(&place.open(), "LATER_API_KEY").as_deref(), Some(FIRST));
    // Goose's way to keep away from it.
    let away = place.open_with(&[("GOOSE_DISABLE_KEYRING", "1")]);
    assert_eq!(value(&away, "LATER_API_KEY"), None);
    assert!(away.health().warnings[0].message.contains("GOOSE_DISABLE_KEYRING"), "{:?}", away.health());
}

#[test]
fn a_change_of_the_store_moves_the_secrets() {
    if !usable() {
        return;
    }
    let bus = Bus::start();
    let _keyring = bus.keyring(Some("pw"));
    bus.store("goose", &json!({"OF_GOOSE": "goose-0123456789"}).to_string());
    bus.store("gander", &json!({"OLD": "old-0123456789", "A_API_KEY": "an-older-one-0123"}).to_string());
    let place = Place::new(bus.environment(), "# mine\nother: 1\n");
    fs::write(
        place.file("secrets.yaml"),
        format!("# keys\nA_API_KEY: {FIRST}\nN: 12\nnested: {{a: [1, x]}}\n"),
    )
    .unwrap();
    let handle = place.open();
    assert!(handle.set("gander.secret_store", &json!("vault")).is_err());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&seen);
    handle.on_secrets(move |secrets| {
        listener.lock().unwrap().extend(secrets.iter().map(|secret| secret.expose().to_owned()));
    });
    assert!(handle.set("gander.secret_store", &json!("keyring")).unwrap().effective);
    let own = json!({"OLD": "old-0123456789", "A_API_KEY": FIRST, "N": 12, "nested": {"a": [1, "x"]}});
    assert_eq!(bus.lookup("gander"), own);
    let left = fs::read_to_string(place.file("secrets.yaml")).unwrap();
    assert!(!left.contains("A_API_KEY") && !left.contains("nested"), "{left}");
    assert_eq!(value(&handle, "A_API_KEY").as_deref(), Some(FIRST));
    assert!(
        seen.lock().unwrap().iter().any(|secret| secret == "goose-0123456789"),
        "the log knows what to hide"
    );
    handle.set_secret("B_API_KEY", SECOND).unwrap();

    // And back; what is Goose's stays with Goose.
    assert!(handle.unset("gander.secret_store").unwrap().changed);
    assert_eq!(bus.lookup("gander"), Value::Null, "the entry is gone");
    assert_eq!(value(&handle, "A_API_KEY").as_deref(), Some(FIRST));
    assert_eq!(value(&handle, "B_API_KEY").as_deref(), Some(SECOND));
    assert_eq!(value(&handle, "OF_GOOSE"), None);
    let text = fs::read_to_string(place.file("secrets.yaml")).unwrap();
    assert!(text.contains("N: 12") && !text.contains("OF_GOOSE"), "{text}");
    assert_eq!(fs::metadata(place.file("secrets.yaml")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(place.file("config.yaml")).unwrap(), "# mine\nother: 1\n");

    // A setting that another layer overrules moves nothing.
    let fixed = place.open_with(&[("GANDER_SECRET_STORE", "file")]);
    assert!(!fixed.set("gander.secret_store", &json!("keyring")).unwrap().effective);
    assert_eq!(bus.lookup("gander"), Value::Null);
    // Chosen by hand: the file's are still found until they are moved.
    assert_eq!(value(&place.open(), "A_API_KEY").as_deref(), Some(FIRST));
}

#[test]
fn a_locked_keyring_and_a_broken_entry_are_errors_and_nothing_is_written() {
    if !usable() {
        return;
    }
    let bus = Bus::start();
    let first = bus.keyring(Some("pw"));
    bus.store("gander", "no json");
    let place = Place::new(bus.environment(), CHOSEN);
    let broken = KeyringError::Malformed { entry: "gander" };
    let is = |result: Result<(), ConfigError>, wanted: &KeyringError| match result {
        Err(ConfigError::Keyring(error)) => assert_eq!(error, *wanted),
        other => panic!("{other:?}"),
    };
    let handle = place.open();
    is(handle.set_secret("A_API_KEY", FIRST).map(drop), &broken);
    is(handle.secret_trouble().map_or(Ok(()), Err), &broken);
    assert!(handle.health().problems[0].message.contains("correct or delete it"), "{:?}", handle.health());
    bus.store("gander", "{\"A_API_KEY\":\"sk-first-0123456789\"}");
    bus.store("goose", "[]");
    let handle = place.open();
    assert_eq!(value(&handle, "A_API_KEY").as_deref(), Some(FIRST));
    let health = handle.health();
    assert!(health.is_ok() && health.warnings[0].message.contains("\"goose\""), "{health:?}");

    drop(first);
    let _locked = bus.keyring(None);
    // Who had read it goes on.
    assert_eq!(value(&handle, "A_API_KEY").as_deref(), Some(FIRST));
    let late = place.open();
    let start = Instant::now();
    assert_eq!(value(&late, "A_API_KEY"), None);
    is(late.secret_trouble().map_or(Ok(()), Err), &KeyringError::Locked);
    is(late.set_secret("B_API_KEY", SECOND).map(drop), &KeyringError::Locked);
    is(late.delete_secret("A_API_KEY").map(drop), &KeyringError::Locked);
    is(late.unset("gander.secret_store").map(drop), &KeyringError::Locked);
    assert!(start.elapsed() < START);
    assert_eq!(fs::read_to_string(place.file("config.yaml")).unwrap(), CHOSEN, "it is still the keyring");
    // Towards it as well: what is in the file stays there.
    let other = Place::new(bus.environment(), "");
    other.open().set_secret("A_API_KEY", FIRST).unwrap();
    is(other.open().set("gander.secret_store", &json!("keyring")).map(drop), &KeyringError::Locked);
    assert_eq!(value(&other.open(), "A_API_KEY").as_deref(), Some(FIRST));
}

#[test]
fn without_a_keyring_the_error_tells_what_to_do() {
    let nowhere = tempfile::tempdir().unwrap();
    let place = Place::new(bus_at(&nowhere.path().join("none")), CHOSEN);
    let handle = place.open();
    assert_eq!(value(&handle, "A_API_KEY"), None);
    let error = handle.set_secret("A_API_KEY", FIRST).unwrap_err().to_string();
    assert!(error.contains("no session bus") && error.contains("secret_store file"), "{error}");
    assert!(!place.file("secrets.yaml").exists(), "not stored elsewhere than said");
    // The way out that it names works without it.
    handle.set("gander.secret_store", &json!("file")).unwrap();
    handle.set_secret("A_API_KEY", FIRST).unwrap();
    assert_eq!(value(&handle, "A_API_KEY").as_deref(), Some(FIRST));
    fs::remove_file(place.file("secrets.yaml")).unwrap();
    fs::write(place.file("config.yaml"), "gander.secret_store: somewhere\n").unwrap();
    let odd = place.open();
    assert!(odd.health().problems[0].message.contains("\"file\" or \"keyring\""), "{:?}", odd.health());
    assert!(odd.set_secret("A_API_KEY", FIRST).is_err());
    odd.set("gander.secret_store", &json!("file")).unwrap();
    odd.set_secret("A_API_KEY", FIRST).unwrap();

    if missing("dbus-daemon") {
        return;
    }
    let bus = Bus::start();
    let place = Place::new(bus.environment(), CHOSEN);
    assert!(matches!(place.open().secret_trouble(), Some(ConfigError::Keyring(KeyringError::NoService))));
}

#[test]
fn a_bus_that_never_answers_holds_nobody_up_for_long() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let silent = UnixListener::bind(&path).unwrap();
    let place = Place::new(bus_at(&path), CHOSEN);
    let handle = place.open();
    let start = Instant::now();
    assert_eq!(value(&handle, "A_API_KEY"), None);
    let first = start.elapsed();
    assert!(first >= Duration::from_secs(2) && first < Duration::from_secs(10), "{first:?}");
    assert!(matches!(handle.secret_trouble(), Some(ConfigError::Keyring(KeyringError::Timeout))));
    for _ in 0..1000 {
        assert_eq!(value(&handle, "A_API_KEY"), None);
    }
    assert!(start.elapsed() < first + Duration::from_secs(2), "it is left alone for a while");
    let error = handle.set_secret("A_API_KEY", FIRST).unwrap_err().to_string();
    assert!(error.contains("did not answer within 3 s"), "{error}");
    // Neither access left anything behind: both hung up.
    for _ in 0..2 {
        let (mut caller, _) = silent.accept().unwrap();
        caller.set_read_timeout(Some(START)).unwrap();
        let mut said = Vec::new();
        caller.read_to_end(&mut said).unwrap();
        assert!(said.starts_with(b"\0AUTH EXTERNAL "), "{said:?}");
    }
}

/// What a service of the test answers to a call; nothing when it does not.
type Answer = Option<zbus::Result<Message>>;

/// A service that answers as `script` says, until its bus ends. The thread returns what was called.
fn service(
    bus: &Bus,
    script: impl Fn(&Message, &str, &str) -> Answer + Send + 'static,
) -> JoinHandle<Vec<String>> {
    let address = format!("unix:path={}", bus.directory.path().join("bus").display());
    let (ready, is_ready) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut called = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let serve = async {
            let name = "org.freedesktop.secrets";
            let connection =
                zbus::connection::Builder::address(address.as_str()).name(name).build().await.unwrap();
            let mut calls = zbus::MessageStream::from(&connection);
            ready.send(()).unwrap();
            while let Some(Ok(call)) = calls.next().await {
                let header = call.header();
                let (Some(path), Some(member)) = (header.path(), header.member()) else { continue };
                if call.message_type() == zbus::message::Type::MethodCall {
                    called.push(member.to_string());
                    if let Some(answer) = script(&call, path.as_str(), member.as_str()) {
                        connection.send(&answer.unwrap()).await.unwrap();
                    }
                }
            }
        };
        runtime.block_on(async { tokio::time::timeout(START * 3, serve).await }).unwrap();
        called
    });
    is_ready.recv_timeout(START).unwrap();
    thread
}

/// Answers by the name of the entry that is asked for: each does something else.
fn answer(has_collection: bool, call: &Message, path: &str, member: &str) -> Answer {
    let at = |path: &'static str| zbus::ObjectPath::from_static_str_unchecked(path);
    let (nothing, question, item) = (at("/"), at("/question"), at("/item"));
    let header = call.header();
    let says = || Message::method_return(&header);
    Some(match (member, path) {
        ("OpenSession", _) => says().build(&(zbus::Variant::from(""), at("/session"))),
        ("SearchItems", _) => {
            let body = call.body();
            let (sought,): (BTreeMap<String, String>,) = body.deserialize().unwrap();
            let paths = |path: &str| vec![zbus::OwnedObjectPath::try_from(path).unwrap()];
            let (unlocked, locked) = match sought["service"].as_str() {
                "new" => (vec![], vec![]),
                "locked" => (vec![], paths("/locked")),
                name => (paths(&format!("/{name}")), vec![]),
            };
            says().build(&(unlocked, locked))
        }
        ("Unlock", _) => says().build(&(Vec::<zbus::ObjectPath<'_>>::new(), question)),
        ("ReadAlias", _) => says().build(&if has_collection { at("/collection") } else { nothing }),
        ("Get", _) => says().build(&zbus::Variant::from(false)),
        ("CreateItem", _) => says().build(&(nothing, question)),
        ("Delete", "/asks") => says().build(&question),
        ("SetSecret", "/asks") => {
            Message::error(&header, "org.freedesktop.Secret.Error.IsLocked").build(&"it is locked")
        }
        ("SetSecret", _) => Message::error(&header, "org.example.Odd").build(&"a sentence"),
        ("GetSecrets", _) => {
            let body = call.body();
            let (sought, session): (Vec<zbus::ObjectPath<'_>>, zbus::ObjectPath<'_>) =
                body.deserialize().unwrap();
            assert_eq!(session.as_str(), "/session");
            let secrets = |values: &[&[u8]]| -> BTreeMap<_, _> {
                let sent = |value: &&[u8]| (session.clone(), Vec::<u8>::new(), value.to_vec(), "text/plain");
                values.iter().map(|value| (item.clone(), sent(value))).collect()
            };
            match sought[0].as_str() {
                "/asks" => says().build(&secrets(&[])),
                "/wrong" => says().build(&FIRST),
                "/binary" => says().build(&secrets(&[&[0xff]])),
                "/silent" => return None,
                _ => says().build(&secrets(&[FIRST.as_bytes()])),
            }
        }
        _ => Message::error(&header, "org.freedesktop.DBus.Error.UnknownMethod").build(&""),
    })
}

#[test]
fn what_shows_only_after_unlocking_is_not_taken_for_nothing() {
    if missing("dbus-daemon") {
        return;
    }
    let bus = Bus::start();
    let unlocked = std::sync::atomic::AtomicBool::new(false);
    let running = service(&bus, move |call, path, member| {
        let at = |path: &'static str| zbus::ObjectPath::from_static_str_unchecked(path);
        let header = call.header();
        let says = || Message::method_return(&header);
        match member {
            "SearchItems" => {
                let shown = if unlocked.load(Ordering::SeqCst) { vec![at("/item")] } else { vec![] };
                Some(says().build(&(shown, Vec::<zbus::ObjectPath<'_>>::new())))
            }
            "Get" => Some(says().build(&zbus::Variant::from(!unlocked.load(Ordering::SeqCst)))),
            "Unlock" => {
                unlocked.store(true, Ordering::SeqCst);
                Some(says().build(&(vec![at("/collection")], at("/"))))
            }
            _ => answer(true, call, path, member),
        }
    });
    let environment = bus.environment().into_iter().collect();
    let mut vault = system::Vault::open(&environment, Instant::now() + START).unwrap();
    let found = vault.read(OWN).unwrap().map(|secret| secret.expose().to_owned());
    assert_eq!(found.as_deref(), Some(FIRST));
    drop(bus);
    running.join().unwrap();
}

#[test]
fn a_look_that_began_before_a_change_does_not_undo_it() {
    let holding = |name: &str| {
        let own = json!({ name: FIRST }).as_object().cloned().unwrap();
        Values::merge(&own, &Ok(Object::new()))
    };
    let keyring = Keyring::new(Environment::default(), PathBuf::from("/nowhere/lock"), Box::new(|_| ()));
    let names = || keyring.known().unwrap().names().map(str::to_owned).collect::<Vec<_>>();
    let began = keyring.state().changes;
    keyring.0.changed_to(holding("NEW"));
    keyring.0.found(began, Ok(holding("OLD")));
    assert_eq!(names(), ["NEW"]);
    assert!(keyring.is_fresh());
    // After a change that failed half way it is looked again.
    let began = keyring.state().changes;
    keyring.0.forget();
    keyring.0.found(began, Ok(holding("PERHAPS")));
    assert_eq!(names(), ["PERHAPS"]);
    assert!(!keyring.is_fresh());
    let began = keyring.state().changes;
    keyring.0.found(began, Ok(holding("NOW")));
    assert!(keyring.is_fresh());
}

#[test]
fn changes_that_come_together_all_arrive() {
    if !usable() {
        return;
    }
    let bus = Bus::start();
    let _keyring = bus.keyring(Some("pw"));
    let handle = Place::new(bus.environment(), CHOSEN).open();
    std::thread::scope(|scope| {
        let stored: Vec<_> = (0..6)
            .map(|number| {
                let handle = &handle;
                scope.spawn(move || handle.set_secret(&format!("K{number}_API_KEY"), FIRST).map(drop))
            })
            .collect();
        for stored in stored {
            stored.join().unwrap().unwrap();
        }
    });
    assert_eq!(bus.lookup("gander").as_object().unwrap().len(), 6);
}

#[test]
fn a_question_for_a_person_is_never_asked_and_odd_answers_are_errors() {
    if missing("dbus-daemon") {
        return;
    }
    let entry = |service| Entry { service, user: "secrets" };
    let text = Secret::new(SECOND);
    let bus = Bus::start();
    let running = service(&bus, |call, path, member| answer(true, call, path, member));
    let environment = bus.environment().into_iter().collect();
    let mut vault = system::Vault::open(&environment, Instant::now() + START).unwrap();
    let plain = vault.read(entry("plain")).unwrap().map(|secret| secret.expose().to_owned());
    assert_eq!(plain.as_deref(), Some(FIRST));
    assert!(matches!(vault.read(entry("new")), Ok(None)));
    let failed = |message: &str| Err(KeyringError::Failed { message: message.to_owned() });
    assert_eq!(
        vault.write(entry("new"), &text),
        Err(KeyringError::Locked),
        "would be created after a question"
    );
    assert_eq!(vault.write(entry("asks"), &text), Err(KeyringError::Locked));
    assert_eq!(vault.write(entry("plain"), &text), failed("org.example.Odd: a sentence"));
    assert_eq!(vault.delete(entry("asks")), Err(KeyringError::Locked));
    let read = |vault: &mut system::Vault, name| vault.read(entry(name)).map(drop);
    for (name, wanted) in [
        ("locked", Err(KeyringError::Locked)),
        ("asks", Err(KeyringError::Locked)),
        ("binary", Err(KeyringError::Malformed { entry: "binary" })),
        // It does not quote what could be a secret.
        ("wrong", failed("the answer to GetSecrets is not what it should be")),
        ("plain", Ok(())),
    ] {
        assert_eq!(read(&mut vault, name), wanted, "{name}");
    }
    // Whoever answers the first call does not hold up by the second, and a late answer is nobody's.
    let start = Instant::now();
    let mut short = system::Vault::open(&environment, start + Duration::from_millis(500)).unwrap();
    assert_eq!(read(&mut short, "silent"), Err(KeyringError::Timeout));
    assert_eq!(read(&mut short, "plain"), Err(KeyringError::Timeout), "the deadline is one for all");
    assert!(start.elapsed() >= Duration::from_millis(500) && start.elapsed() < START);
    drop(bus);
    assert!(matches!(read(&mut vault, "plain"), Err(KeyringError::Failed { .. })), "the bus is gone");
    let called = running.join().unwrap();
    assert!(called.iter().any(|member| member == "CreateItem"), "{called:?}");
    assert!(!called.iter().any(|member| member == "Prompt"), "{called:?}");

    let bus = Bus::start();
    let running = service(&bus, |call, path, member| answer(false, call, path, member));
    let environment = bus.environment().into_iter().collect();
    let mut vault = system::Vault::open(&environment, Instant::now() + START).unwrap();
    assert_eq!(vault.write(entry("new"), &text), Err(KeyringError::NoCollection));
    drop(bus);
    running.join().unwrap();
}
