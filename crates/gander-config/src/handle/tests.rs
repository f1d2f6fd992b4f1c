use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::secrets::{SecretOrigin, SecretStatus};

/// One root in a temporary directory with its own policy and defaults.
struct Root {
    dir: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let root = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(root.dir.path().join("config")).unwrap();
        root.write("policy.yaml", "");
        root.write("defaults.yaml", "");
        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    fn options(&self, env: &[(&str, &str)]) -> ConfigOptions {
        let environment: Environment = env.iter().copied().collect();
        let paths = Paths::resolve(Some(self.dir.path()), &environment).unwrap();
        ConfigOptions {
            defaults_file: Some(self.path("defaults.yaml")),
            policy_file: Some(self.path("policy.yaml")),
            ..ConfigOptions::new(paths, environment)
        }
    }

    fn open(&self, env: &[(&str, &str)]) -> ConfigHandle {
        ConfigHandle::open(self.options(env)).unwrap()
    }
}

const CONFIG: &str = "config/config.yaml";
const SECRETS: &str = "config/secrets.yaml";
const RULES: &str = "config/permission.yaml";

fn value(handle: &ConfigHandle, key: &str) -> Option<Value> {
    handle.current().get(key).map(|entry| entry.value)
}

#[test]
fn set_and_unset_keep_the_rest_of_the_file() {
    let root = Root::new();
    root.write(CONFIG, "# my settings\nGOOSE_MODEL: a # fast\nunknown: [1, 2]\n\nextensions:\n  # dev\n  dev: {enabled: true}\n");
    fs::set_permissions(root.path(CONFIG), Permissions::from_mode(0o640)).unwrap();
    let handle = root.open(&[]);
    let outcome = handle.set("GOOSE_MODEL", &json!("b")).unwrap();
    assert_eq!(
        outcome,
        WriteOutcome { effective: true, shadowed_by: None, changed: true, formatting_kept: true }
    );
    handle.set("GOOSE_MAX_TURNS", &json!(7)).unwrap();
    assert!(!handle.set("GOOSE_MAX_TURNS", &json!(7)).unwrap().changed);
    handle.edit_map_entry("extensions", "web", Some(&json!({"enabled": true, "uri": "https://x"}))).unwrap();
    handle.unset("unknown").unwrap();
    assert!(!handle.unset("unknown").unwrap().changed);
    assert_eq!(
        root.read(CONFIG),
        "# my settings\nGOOSE_MODEL: b # fast\n\nextensions:\n  # dev\n  dev: {enabled: true}\n  web:\n    enabled: true\n    uri: https://x\nGOOSE_MAX_TURNS: 7\n"
    );
    assert_eq!(root.mode(CONFIG), 0o640);
    assert_eq!(handle.current().get_u64("GOOSE_MAX_TURNS").unwrap(), Some(7));
    let keys: Vec<String> = handle.current().extensions().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["dev", "web"]);
}

#[test]
fn a_missing_config_is_made_private() {
    let root = Root::new();
    fs::remove_dir(root.path("config")).unwrap();
    let handle = root.open(&[]);
    handle.set("GOOSE_PROVIDER", &json!("openai")).unwrap();
    assert_eq!((root.mode("config"), root.mode(CONFIG)), (0o700, 0o600));
    assert_eq!(root.read(CONFIG), "GOOSE_PROVIDER: openai\n");
}

#[test]
fn a_write_below_the_environment_or_a_flag_is_stored_and_reported() {
    let root = Root::new();
    let mut options = root.options(&[("GOOSE_MODEL", "from-env")]);
    options.flags.insert("GOOSE_MODE".to_owned(), json!("chat"));
    let handle = ConfigHandle::open(options).unwrap();
    let outcome = handle.set("GOOSE_MODEL", &json!("mine")).unwrap();
    assert!(outcome.changed && !outcome.effective);
    assert_eq!(outcome.shadowed_by, Some(Origin::Environment { variable: "GOOSE_MODEL".to_owned() }));
    assert_eq!(handle.set("GOOSE_MODE", &json!("auto")).unwrap().shadowed_by, Some(Origin::Flag));
    assert_eq!(value(&handle, "GOOSE_MODEL"), Some(json!("from-env")));
    assert_eq!(value(&root.open(&[]), "GOOSE_MODEL"), Some(json!("mine")));
}

#[test]
fn the_policy_locks_keys_providers_models_and_extensions() {
    let root = Root::new();
    root.write(
        "policy.yaml",
        "values: {GOOSE_MODE: approve}\nproviders: [corp]\nmodels: [m1]\nextensions: {names: [dev], commands: [npx]}\n",
    );
    root.write(CONFIG, "GOOSE_MODE: auto\n");
    let handle = root.open(&[("GOOSE_MODE", "auto")]);
    assert_eq!(value(&handle, "GOOSE_MODE"), Some(json!("approve")));
    for result in [handle.set("GOOSE_MODE", &json!("auto")), handle.unset("GOOSE_MODE")] {
        match result.unwrap_err() {
            ConfigError::ReadOnly { key, origin, remedy } => {
                assert_eq!((key.as_str(), origin.name()), ("GOOSE_MODE", "policy"));
                assert!(!remedy.is_empty());
            }
            other => panic!("{other}"),
        }
    }
    let put = |name: &str, config: Value| handle.edit_map_entry("extensions", name, Some(&config));
    let refused = [
        handle.set("GOOSE_PROVIDER", &json!("openai")),
        handle.set("GOOSE_MODEL", &json!("m2")),
        put("other", json!({"type": "builtin"})),
        put("dev", json!({"type": "stdio", "cmd": "sh"})),
        put("dev", json!({"type": "inline_python", "code": "x"})),
    ];
    for result in refused {
        assert!(matches!(result, Err(ConfigError::NotAllowed { .. })), "{result:?}");
    }
    assert!(matches!(put("dev", json!("x")), Err(ConfigError::WrongType { .. })));
    assert_eq!(root.read(CONFIG), "GOOSE_MODE: auto\n");
    handle.set("GOOSE_PROVIDER", &json!("corp")).unwrap();
    handle.set("GOOSE_MODEL", &json!("m1")).unwrap();
    put("dev", json!({"type": "stdio", "cmd": "npx"})).unwrap();
    handle.edit_map_entry("extensions", "gone", None).unwrap();
}

#[test]
fn named_layers_must_exist_and_be_understood() {
    let root = Root::new();
    for (file, text) in [
        ("policy.yaml", "provider: [x]\n"),
        ("defaults.yaml", "- x\n"),
        (CONFIG, "a: [\n"),
        (SECRETS, "a: [\n"),
        (RULES, "user: 1\n"),
    ] {
        let before = fs::read_to_string(root.path(file)).ok();
        root.write(file, text);
        let error = ConfigHandle::open(root.options(&[])).unwrap_err().to_string();
        assert!(error.contains(root.path(file).to_str().unwrap()), "{error}");
        match before {
            Some(text) => root.write(file, &text),
            None => fs::remove_file(root.path(file)).unwrap(),
        }
    }
    root.open(&[]);
    fs::remove_file(root.path("policy.yaml")).unwrap();
    assert!(ConfigHandle::open(root.options(&[])).is_err(), "a named policy that is missing stops the start");
}

#[test]
fn a_malformed_file_is_never_written_and_the_last_good_one_rules() {
    let root = Root::new();
    root.write(CONFIG, "GOOSE_MODEL: good\n");
    let handle = root.open(&[]);
    let broken = "GOOSE_MODEL: bad\nb: [1\nc: 2\n";
    root.write(CONFIG, broken);
    assert!(!handle.refresh());
    assert_eq!(value(&handle, "GOOSE_MODEL"), Some(json!("good")));
    let health = handle.health();
    assert!(!health.is_ok() && health.problems[0].message.contains("config.yaml:3:"), "{health:?}");
    for result in [
        handle.set("GOOSE_MODEL", &json!("new")),
        handle.unset("b"),
        handle.edit_map_entry("extensions", "x", Some(&json!({}))),
    ] {
        match result {
            Err(ConfigError::Malformed { path, line, column, .. }) => {
                assert_eq!((path, line), (root.path(CONFIG), 3));
                assert!(column >= 1);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(root.read(CONFIG), broken);
    root.write(CONFIG, "GOOSE_MODEL: fixed\n");
    assert!(handle.refresh());
    assert!(handle.health().is_ok());
    assert_eq!(value(&handle, "GOOSE_MODEL"), Some(json!("fixed")));
    fs::remove_file(root.path(CONFIG)).unwrap();
    assert!(handle.refresh());
    assert_eq!(value(&handle, "GOOSE_MODEL"), None);
}

#[test]
fn a_policy_that_disappears_or_breaks_still_rules() {
    let root = Root::new();
    root.write("policy.yaml", "values: {GOOSE_MODE: approve}\n");
    let handle = root.open(&[]);
    root.write("policy.yaml", "nonsense: 1\n");
    handle.refresh();
    assert_eq!(value(&handle, "GOOSE_MODE"), Some(json!("approve")));
    fs::remove_file(root.path("policy.yaml")).unwrap();
    handle.refresh();
    assert_eq!(value(&handle, "GOOSE_MODE"), Some(json!("approve")));
    assert!(!handle.health().is_ok());
}

#[test]
fn subscribers_see_changes_by_us_and_by_others() {
    let root = Root::new();
    let handle = root.open(&[]);
    let mut watch = handle.subscribe();
    let mut changed = || {
        let changed = watch.has_changed().unwrap();
        watch.mark_unchanged();
        changed
    };
    assert!(!handle.refresh());
    assert!(!changed());
    handle.clone().set("a", &json!(1)).unwrap();
    assert!(changed());
    handle.set("a", &json!(1)).unwrap();
    assert!(!changed(), "nothing was written");

    // Same size, same moment, as often as one likes: the newest content is found.
    for round in 0..50 {
        root.write(CONFIG, &format!("a: {}\n", 10 + round));
        assert!(handle.refresh());
        assert!(changed());
        assert_eq!(value(&handle, "a"), Some(json!(10 + round)));
    }
    let other = root.open(&[]);
    other.set_secret("X_API_KEY", "123").unwrap();
    other.set_rule("dev__shell", Some(RuleDecision::NeverAllow)).unwrap();
    assert!(handle.refresh());
    assert!(changed());
    assert_eq!(handle.rules(), [("dev__shell".to_owned(), RuleDecision::NeverAllow)]);
    assert_eq!(handle.secret("X_API_KEY").unwrap().expose(), "123");
    root.write(CONFIG, &root.read(CONFIG));
    assert!(!handle.refresh(), "written again with the same content");
}

#[test]
fn concurrent_writers_lose_nothing() {
    const WRITERS: usize = 6;
    const WRITES: usize = 8;
    let root = Root::new();
    root.write(CONFIG, "# head\nkeep: 1\n");
    let shared = root.open(&[]);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            // Half of them share one handle; the others have their own, as other programs do.
            let handle = if writer % 2 == 0 { shared.clone() } else { root.open(&[]) };
            scope.spawn(move || {
                for write in 0..WRITES {
                    let name = format!("k{writer}_{write}");
                    handle.set(&name, &json!(write)).unwrap();
                    handle.edit_map_entry("extensions", &name, Some(&json!({"enabled": true}))).unwrap();
                    handle.set_rule(&name, Some(RuleDecision::AskBefore)).unwrap();
                    handle.set_secret(&name, "v").unwrap();
                }
            });
        }
    });
    let handle = root.open(&[]);
    assert!(root.read(CONFIG).starts_with("# head\nkeep: 1\n"));
    assert_eq!(handle.current().extensions().len(), WRITERS * WRITES);
    assert_eq!(handle.rules().len(), WRITERS * WRITES);
    for writer in 0..WRITERS {
        for write in 0..WRITES {
            let name = format!("k{writer}_{write}");
            assert_eq!(value(&handle, &name), Some(json!(write)));
            assert!(handle.secret_status(&name).set);
        }
    }
}

#[test]
fn a_linked_config_stays_a_link() {
    let root = Root::new();
    root.write("dotfile.yaml", "a: 1 # one\n");
    std::os::unix::fs::symlink("../dotfile.yaml", root.path(CONFIG)).unwrap();
    let handle = root.open(&[]);
    handle.set("a", &json!(2)).unwrap();
    assert!(fs::symlink_metadata(root.path(CONFIG)).unwrap().is_symlink());
    assert_eq!(root.read("dotfile.yaml"), "a: 2 # one\n");
    assert_eq!(value(&handle, "a"), Some(json!(2)));
}

#[test]
fn secrets_are_private_and_never_plain_values() {
    let root = Root::new();
    let handle = root.open(&[("FROM_ENV_TOKEN", "environment-value")]);
    assert!(handle.set_secret("OPENAI_API_KEY", "sk-0123456789abcd").unwrap().effective);
    assert_eq!(root.mode(SECRETS), 0o600);
    assert_eq!(
        handle.secret_status("OPENAI_API_KEY"),
        SecretStatus {
            key: "OPENAI_API_KEY".to_owned(),
            set: true,
            origin: Some(SecretOrigin::File { path: root.path(SECRETS) }),
            last_four: Some("abcd".to_owned()),
        }
    );
    let shadowed = handle.set_secret("FROM_ENV_TOKEN", "file-value").unwrap();
    assert!(!shadowed.effective && shadowed.changed);
    assert_eq!(handle.secret("FROM_ENV_TOKEN").unwrap().expose(), "environment-value");
    let names: Vec<_> = handle
        .secret_statuses(&["OTHER_API_KEY"])
        .into_iter()
        .map(|status| (status.key, status.set))
        .collect();
    let expected = [("FROM_ENV_TOKEN", true), ("OPENAI_API_KEY", true), ("OTHER_API_KEY", false)];
    assert_eq!(names, expected.map(|(name, set)| (name.to_owned(), set)));
    assert_eq!(handle.secret_values().len(), 3, "both values of the shadowed one are worth hiding");

    assert!(matches!(handle.set("OPENAI_API_KEY", &json!("x")), Err(ConfigError::SecretKey { .. })));
    assert!(!root.path(CONFIG).exists());
    assert_eq!(value(&handle, "FROM_ENV_TOKEN"), None);
    assert!(handle.set_secret("OPENAI_API_KEY", "").is_err());
    assert!(handle.delete_secret("OPENAI_API_KEY").unwrap().changed);
    assert!(!handle.delete_secret("OPENAI_API_KEY").unwrap().changed);
    assert!(handle.secret("OPENAI_API_KEY").is_none());
    assert!(!format!("{handle:?}").contains("value"));
}

#[test]
fn an_open_secrets_file_is_closed_with_a_warning() {
    let root = Root::new();
    root.write(SECRETS, "# mine\nOPENAI_API_KEY: sk-0123456789abcd\n");
    fs::set_permissions(root.path(SECRETS), Permissions::from_mode(0o644)).unwrap();
    let handle = root.open(&[]);
    assert_eq!(root.mode(SECRETS), 0o600);
    let health = handle.health();
    assert!(health.is_ok() && health.warnings[0].message.contains("0644"), "{health:?}");
    // And by a write, without a read in between.
    fs::set_permissions(root.path(SECRETS), Permissions::from_mode(0o666)).unwrap();
    handle.set_secret("B_API_KEY", "two\nlines: #1").unwrap();
    assert_eq!(root.mode(SECRETS), 0o600);
    assert!(root.read(SECRETS).starts_with("# mine\nOPENAI_API_KEY: sk-0123456789abcd\n"));
    assert_eq!(handle.secret("B_API_KEY").unwrap().expose(), "two\nlines: #1");
}

#[test]
fn rules_move_between_lists_and_other_sections_stay() {
    let root = Root::new();
    let cache =
        "smart_approve:\n  always_allow:\n  - cached # by goose\n  ask_before: []\n  never_allow: []\n";
    root.write(RULES, cache);
    let handle = root.open(&[]);
    handle.set_rule("dev__shell", Some(RuleDecision::AlwaysAllow)).unwrap();
    handle.set_rule("web__*", Some(RuleDecision::AskBefore)).unwrap();
    handle.set_rule("dev__shell", Some(RuleDecision::NeverAllow)).unwrap();
    handle.set_rule("dev__shell", Some(RuleDecision::NeverAllow)).unwrap();
    assert_eq!(
        handle.rules(),
        [("dev__shell".to_owned(), RuleDecision::NeverAllow), ("web__*".to_owned(), RuleDecision::AskBefore)]
    );
    handle.set_rule("web__*", None).unwrap();
    assert_eq!(
        root.read(RULES),
        format!("{cache}user:\n  always_allow: []\n  ask_before: []\n  never_allow:\n  - dev__shell\n")
    );
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let root = Root::new();
    let handle = root.open(&[]);
    for (key, value, told) in [
        (
            "GOOSE_MODE",
            json!("wrong"),
            "GOOSE_MODE cannot be \"wrong\": it must be auto, approve, smart_approve or chat",
        ),
        ("gander.linger", json!("abc"), "it must be a number of seconds such as 90s, or schedules or always"),
        ("GOOSE_MAX_TURNS", json!(0), "it must be a whole number from 1"),
        ("GOOSE_AUTO_COMPACT_THRESHOLD", json!(7), "it must be a number from 0 to 1"),
        ("gander.lingr", json!(5), "did you mean gander.linger?"),
        ("gander.unheard_of", json!(5), "`gander config show` lists them"),
    ] {
        let error = handle.set(key, &value).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(told), "{error}");
        assert!(handle.current().get(key).is_none_or(|entry| entry.value != value));
    }
    for (key, value) in
        [("GOOSE_MODE", json!("chat")), ("GOOSE_MAX_TURNS", json!("7")), ("SOMEONES_KEY", json!({"a": 1}))]
    {
        handle.set(key, &value).unwrap();
    }
    assert!(handle.health().warnings.is_empty());
    // In the file it may stand all the same: it is told, and can be put right.
    root.write(CONFIG, "GOOSE_MODE: wrong\ngander.newer: 1\n");
    handle.refresh();
    let warnings: Vec<_> = handle.health().warnings.into_iter().map(|w| w.message).collect();
    assert_eq!(
        warnings,
        ["GOOSE_MODE is \"wrong\", which is ignored: it must be auto, approve, smart_approve or chat"]
    );
    handle.set("GOOSE_MODE", &json!("auto")).unwrap();
    assert!(handle.health().warnings.is_empty());
}

#[test]
fn unusable_keys_are_refused() {
    let root = Root::new();
    let handle = root.open(&[]);
    let long = "k".repeat(257);
    for key in ["", " a", "a\nb: 1", "a\0", long.as_str()] {
        assert!(matches!(handle.set(key, &json!(1)), Err(ConfigError::InvalidKey { .. })), "{key:?}");
        assert!(handle.set_secret(key, "x").is_err() && handle.set_rule(key, None).is_err());
        assert!(handle.edit_map_entry("extensions", key, None).is_err());
    }
    assert!(handle.set("extensions", &json!({})).is_err() && handle.unset("extensions").is_err());
    root.write(CONFIG, "slash_commands: []\n");
    assert!(matches!(
        handle.edit_map_entry("slash_commands", "a", Some(&json!(1))),
        Err(ConfigError::Shape { found: "a list", .. })
    ));
    for key in ["a: b", "- a", "#a", "'a'", "true", "12", "{a}", "a.listen"] {
        handle.set(key, &json!("v")).unwrap();
        assert_eq!(value(&handle, key), Some(json!("v")), "{key}");
        assert_eq!(value(&root.open(&[]), key), Some(json!("v")), "{key}");
        handle.unset(key).unwrap();
    }
    assert_eq!(root.read(CONFIG), "slash_commands: []\n");
}

#[test]
fn removing_a_distribution_extension_is_reported_as_ineffective() {
    let root = Root::new();
    root.write("defaults.yaml", "extensions: {dev: {enabled: true}}\n");
    let handle = root.open(&[]);
    handle.edit_map_entry("extensions", "dev", Some(&json!({"enabled": false}))).unwrap();
    let outcome = handle.edit_map_entry("extensions", "dev", None).unwrap();
    assert!(outcome.changed && !outcome.effective);
    assert!(Path::new(&root.path("defaults.yaml")).exists());
    assert_eq!(outcome.shadowed_by.unwrap().name(), "distribution");
}

#[test]
fn two_roots_do_not_see_each_other() {
    let (one, two) = (Root::new(), Root::new());
    let (first, second) = (one.open(&[("GOOSE_MODEL", "m")]), two.open(&[]));
    first.set("a", &json!(1)).unwrap();
    second.refresh();
    assert_eq!((value(&second, "a"), value(&second, "GOOSE_MODEL")), (None, None));
}

#[test]
fn a_command_stands_between_environment_and_file() {
    let directory = tempfile::tempdir().unwrap();
    let environment: Environment =
        [("PATH", "/usr/bin:/bin"), ("B_KEY", "from-the-environment")].into_iter().collect();
    let paths = Paths::resolve(Some(directory.path()), &environment).unwrap();
    paths.create_dirs().unwrap();
    let yaml =
        "gander.secret_commands:\n  A_KEY: echo from-the-command\n  B_KEY: echo never\n  BAD_KEY: exit 1\n";
    std::fs::write(paths.config_file(), yaml).unwrap();
    let handle = ConfigHandle::open(ConfigOptions::new(paths, environment)).unwrap();
    handle.set_secret("A_KEY", "from-the-file").unwrap();
    handle.set_secret("C_KEY", "from-the-file").unwrap();
    let secret = |key: &str| handle.secret(key).map(|secret| secret.expose().to_owned());
    // Before it ran, its status says only that it is there.
    let status = handle.secret_status("A_KEY");
    assert_eq!((status.set, status.last_four), (true, None));
    assert_eq!(secret("A_KEY").as_deref(), Some("from-the-command"));
    assert_eq!(secret("a_key").as_deref(), Some("from-the-command"));
    assert_eq!(secret("B_KEY").as_deref(), Some("from-the-environment"));
    assert_eq!(secret("C_KEY").as_deref(), Some("from-the-file"));
    assert_eq!(secret("BAD_KEY"), None);
    let status = handle.secret_status("A_KEY");
    assert_eq!(status.origin, Some(SecretOrigin::Command { program: "sh".to_owned() }));
    assert_eq!(status.last_four.as_deref(), Some("mand"));
    assert!(!handle.secret_status("BAD_KEY").set);
    assert!(handle.secret_statuses(&[]).iter().any(|status| status.key == "A_KEY" && status.set));
    assert!(handle.secret_values().iter().any(|secret| secret.expose() == "from-the-command"));
}
