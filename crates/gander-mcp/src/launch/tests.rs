use std::path::Path;

use gander_domain::{SessionId, extension::SamplingPolicy};

use super::*;

fn config(transport: ExtensionTransport) -> ExtensionConfig {
    ExtensionConfig {
        name: "x".to_owned(),
        transport,
        description: String::new(),
        display_name: None,
        bundled: false,
        timeout_ms: None,
        tool_allowlist: Vec::new(),
        env: BTreeMap::from([("MODE".to_owned(), "loud-value".to_owned())]),
        env_keys: vec!["TOKEN".to_owned()],
        exec_prefix: Vec::new(),
        protocol: gander_domain::extension::ProtocolEra::Auto,
        sampling: SamplingPolicy::Off,
        sandbox: None,
        pin_definitions: false,
        unknown_json: None,
    }
}

fn context(path: &Path, container: Option<Container>) -> SessionContext {
    SessionContext {
        session_id: SessionId::new("s").unwrap(),
        working_directory: path.to_owned(),
        additional_directories: Vec::new(),
        environment: BTreeMap::from([
            ("PATH".to_owned(), path.display().to_string()),
            ("DOCKER_HOST".to_owned(), "tcp://there".to_owned()),
            ("OTHER".to_owned(), "x".to_owned()),
        ]),
        data_dir: path.to_owned(),
        denied_paths: Vec::new(),
        sandbox: None,
        container,
    }
}

fn python(dependencies: &[&str]) -> ExtensionTransport {
    ExtensionTransport::InlinePython {
        code: "print('hi')".to_owned(),
        dependencies: dependencies.iter().map(ToString::to_string).collect(),
    }
}

fn install(directory: &Path, program: &str) {
    let path = directory.join(program);
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn started(config: &ExtensionConfig, context: &SessionContext) -> Result<(Vec<String>, Launch), ErrorDetail> {
    let secrets = BTreeMap::from([("TOKEN".to_owned(), "hunter22".to_owned())]);
    let environment = environment(config, &secrets, context);
    assert_eq!(environment["TOKEN"], "hunter22");
    assert!(!environment.contains_key("OTHER"));
    assert_eq!(environment.contains_key("DOCKER_HOST"), context.container.is_some());
    let launch = launch(config, "x", "developer", &environment, context)?;
    let words: Vec<String> = launch.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    assert!(!words.iter().any(|word| word.contains("hunter22") || word.contains("loud")), "{words:?}");
    Ok((words, launch))
}

#[test]
fn python_runs_with_its_packages_or_without_the_runner() {
    let directory = tempfile::tempdir().unwrap();
    let here = context(directory.path(), None);
    let error = started(&config(python(&[])), &here).err().unwrap();
    assert!(error.message.contains("install uv"), "{error}");

    install(directory.path(), "python3");
    let (words, launch) = started(&config(python(&[])), &here).unwrap();
    assert_eq!(words[0], "python3");
    assert_eq!(std::fs::read_to_string(&words[1]).unwrap(), "print('hi')");
    let mode = std::fs::metadata(launch.script.as_ref().unwrap().path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others must not read it");
    drop(launch);
    assert!(!Path::new(&words[1]).exists(), "the file goes with the server");
    let error = started(&config(python(&["numpy"])), &here).err().unwrap();
    assert_eq!(error.reason, ErrorReason::ExtensionStartFailed);
    assert!(error.message.contains("numpy") && error.message.contains("install uv"), "{error}");

    install(directory.path(), "uvx");
    let (words, _launch) = started(&config(python(&["numpy", "pandas"])), &here).unwrap();
    assert_eq!(words[..8], ["uvx", "--with", "mcp", "--with", "numpy", "--with", "pandas", "python"]);
    assert!(words[8].ends_with("/inline_x.py") && words.len() == 9, "{words:?}");
}

#[test]
fn a_name_leads_out_of_no_directory() {
    let directory = tempfile::tempdir().unwrap();
    let here = context(directory.path(), None);
    install(directory.path(), "python3");
    for name in ["../../x", "/etc/x", "a\\..\\b", "."] {
        let key = gander_domain::extension::extension_key(name);
        let config = ExtensionConfig { name: name.to_owned(), ..config(python(&[])) };
        let launch = launch(&config, &key, "", &here.environment, &here).unwrap();
        let file = Path::new(launch.argv.last().unwrap());
        assert_eq!(file.parent(), launch.script.as_ref().map(TempDir::path), "{name}");
        assert!(file.exists());
    }
}

#[test]
fn a_container_gets_names_of_variables_and_never_their_values() {
    let directory = tempfile::tempdir().unwrap();
    let there = context(directory.path(), Some(Container::docker("box1")));
    let docker = ["docker", "exec", "-i", "-e", "MODE", "-e", "TOKEN", "box1"];
    let stdio = ExtensionTransport::Stdio { command: "srv".to_owned(), args: vec!["a".to_owned()] };
    for (transport, tail) in [
        (stdio.clone(), &["srv", "a"][..]),
        (ExtensionTransport::Builtin, &["gander", "mcp", "developer"]),
        (python(&["numpy"]), &["uvx", "--with", "mcp", "--with", "numpy", "python", "-c", "print('hi')"]),
    ] {
        let config = config(transport);
        assert!(has_process(&config, &there));
        let (words, launch) = started(&config, &there).unwrap();
        assert_eq!(words, [&docker[..], tail].concat());
        assert!(launch.script.is_none());
    }
    let mut own = config(stdio);
    own.exec_prefix = vec!["nice".to_owned()];
    assert_eq!(started(&own, &there).unwrap().0, ["nice", "srv", "a"]);
    let long = ExtensionTransport::InlinePython { code: "#".repeat(200_000), dependencies: Vec::new() };
    let error = started(&config(long), &there).err().unwrap();
    assert!(error.message.contains("container"), "{error}");
    assert!(!has_process(&config(ExtensionTransport::Builtin), &context(directory.path(), None)));
}
