use gander_process::ToolProcesses;

use super::*;

struct Given(&'static [(&'static str, &'static str)]);

impl Settings for Given {
    fn value(&self, key: &str) -> Option<String> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
    }
    fn secret(&self, key: &str) -> Option<String> {
        self.value(&format!("secret {key}"))
    }
}

fn agents(directory: &Path, path: &Path) -> Agents {
    let environment = [("PATH".to_owned(), path.display().to_string())].into();
    Agents::with_directory(directory, environment, Spawner::new(None, ToolProcesses::new()))
}

#[test]
fn bundled_files_are_valid() {
    let nowhere = Path::new("/nonexistent");
    let agents = agents(nowhere, nowhere);
    assert_eq!(agents.problems(), []);
    assert_eq!(agents.files.len(), BUNDLED.len(), "no two have the same name");
    for (info, configured) in agents.list(&Given(&[])) {
        assert_eq!((info.kind.as_str(), configured), ("agent", false), "{info:?}");
        assert!(info.provider_id.ends_with("-acp") && !info.description.is_empty(), "{info:?}");
        assert_eq!(info.default_model_id.as_deref(), Some(AGENT_MODEL_CURRENT));
    }
    for Entry { file, custom } in &agents.files {
        assert!(!custom);
        assert_eq!(file.unknown, Map::new(), "{}: fields that nobody reads", file.name);
        let launch = file.launch(&Given(&[])).unwrap();
        assert!(launch.read_only_modes.iter().all(|mode| !launch.unattended_modes.contains(mode)));
        for key in file.authenticate.keys() {
            assert!(file.env_keys.contains(key), "{}: {key} is never passed on", file.name);
        }
    }
}

#[test]
fn what_is_on_the_path_is_configured() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("codex-acp");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let agents = agents(Path::new("/nonexistent"), dir.path());
    let configured = |settings: &dyn Settings| -> Vec<String> {
        let list = agents.list(settings).into_iter();
        list.filter(|(_, configured)| *configured).map(|(info, _)| info.provider_id).collect()
    };
    assert_eq!(configured(&Given(&[])), ["codex-acp"]);
    let moved =
        Given(&[("CODEX_ACP_COMMAND", "/nonexistent/codex -x"), ("GOOSE_ACP_COMMAND", "codex-acp acp")]);
    assert_eq!(configured(&moved), ["goose-acp"]);
}

#[test]
fn files_of_the_user() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "mine.json",
        r#"{"name": "mine", "engine": "acp", "command": "my-agent", "args": ["--x"], "later": 1}"#,
    );
    write("claude.json", r#"{"name": "claude-acp", "engine": "acp", "command": "my-claude"}"#);
    write("bad.json", r#"{"name": "Bad", "engine": "acp", "command": "x"}"#);
    write("empty.json", r#"{"name": "empty", "engine": "acp", "command": " "}"#);
    write("model.json", r#"{"name": "m", "engine": "openai", "base_url": "http://x"}"#);
    write("noise.json", "not json");
    let agents = agents(dir.path(), Path::new("/nonexistent"));
    let problems: Vec<_> = agents.problems().iter().map(|p| p.path.file_name().unwrap().to_owned()).collect();
    assert_eq!(problems, ["bad.json", "empty.json"]);
    let file = |name: &str| &agents.entry(name).unwrap().file;
    assert_eq!(file("claude-acp").command, "my-claude");
    assert_eq!(file("mine").unknown["later"], 1, "unknown fields are kept");
    assert!(agents.takes_engine("acp") && !agents.takes_engine("openai"));
    assert!(agents.create("m", &Given(&[])).is_none());
    assert!(agents.create("mine", &Given(&[])).unwrap().is_ok());
    let (text, custom) = agents.definition("mine").unwrap();
    assert!(custom && text.contains("\"later\": 1"), "{text}");
    assert!(!agents.definition("codex-acp").unwrap().1 && agents.definition("m").is_none());
    assert_eq!(agents.check_file(&text).unwrap(), "MINE_API_KEY");
    write("new.json", r#"{"name": "new", "engine": "acp", "command": "n", "env_keys": ["N_TOKEN"]}"#);
    let later = agents.reloaded(dir.path()).unwrap();
    assert_eq!(later.check_file(&later.definition("new").unwrap().0).unwrap(), "N_TOKEN");
    assert!(agents.definition("new").is_none(), "it was not there then");
}

#[test]
fn how_an_agent_is_started() {
    let file = AgentFile::parse(
        r#"{"name": "x", "engine": "acp", "command": "a", "args": ["b"], "alternatives": [["c", "d"]],
            "command_env": "X_COMMAND", "env": {"PLAIN": "1"}, "env_keys": ["KEY", "OTHER"], "env_values": ["URL"],
            "authenticate": {"KEY": "by-key"}, "start_seconds": 5, "settle_milliseconds": 9000}"#,
    )
    .unwrap();
    let given = Given(&[("secret KEY", "hunter2hunter2"), ("URL", "http://u")]);
    let launch = file.launch(&given).unwrap();
    assert_eq!(launch.command_lines, [vec!["a", "b"], vec!["c", "d"]]);
    let environment: Vec<_> = launch.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(environment, [("KEY", "hunter2hunter2"), ("PLAIN", "1"), ("URL", "http://u")]);
    assert_eq!((launch.authentication, launch.secrets.len()), (vec!["by-key".to_owned()], 1));
    assert_eq!((launch.start_budget.as_secs(), launch.settle.as_millis()), (5, 1000));
    assert_eq!(launch.read_only_modes[..2], ["plan", "read-only"], "as most agents call theirs");
    let moved = file.launch(&Given(&[("X_COMMAND", "'/opt/my agent' --acp")])).unwrap();
    assert_eq!(moved.command_lines, [vec!["/opt/my agent", "--acp"]]);
    assert!(file.launch(&Given(&[("X_COMMAND", "'open")])).is_err());
}
