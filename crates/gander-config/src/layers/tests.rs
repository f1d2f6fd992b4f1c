use super::*;
use serde_json::json;

fn layer(path: &str, text: &str) -> Arc<Layer> {
    Arc::new(Layer::parse(Path::new(path), text.as_bytes()).unwrap())
}

fn config(
    distribution: &str,
    user: &str,
    env: &[(&str, &str)],
    flags: &[(&str, Value)],
    policy: &str,
) -> Config {
    Config {
        distribution: layer("/d.yaml", distribution),
        user: layer("/u.yaml", user),
        environment: env.iter().copied().collect(),
        flags: Arc::new(flags.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()),
        policy: Arc::new(Policy::parse(Path::new("/p.yaml"), policy.as_bytes()).unwrap()),
    }
}

#[test]
fn the_highest_layer_rules() {
    let (d, u) = ("GOOSE_MODE: chat\n", "GOOSE_MODE: approve\n");
    let env = [("GOOSE_MODE", "smart_approve")];
    let flag = [("GOOSE_MODE", json!("auto"))];
    let policy = "values: {GOOSE_MODE: chat}\n";
    let cases = [
        (config("", "", &[], &[], ""), "auto", "default", WriteEffect::Effective),
        (config(d, "", &[], &[], ""), "chat", "distribution", WriteEffect::Effective),
        (config(d, u, &[], &[], ""), "approve", "user", WriteEffect::Effective),
        (config(d, "GOOSE_MODE:\n", &[], &[], ""), "chat", "distribution", WriteEffect::Effective),
        (config(d, u, &env, &[], ""), "smart_approve", "environment", WriteEffect::Shadowed),
        (config(d, u, &[("GOOSE_MODE", "")], &[], ""), "approve", "user", WriteEffect::Effective),
        (config(d, u, &env, &flag, ""), "auto", "flag", WriteEffect::Shadowed),
        (config(d, u, &env, &flag, policy), "chat", "policy", WriteEffect::Locked),
    ];
    for (config, value, origin, effect) in cases {
        let entry = config.get("GOOSE_MODE").unwrap();
        assert_eq!((entry.value, entry.origin.name()), (json!(value), origin));
        assert_eq!(entry.origin.write_effect(), effect);
    }
    assert_eq!(config("", "", &[], &[], "").get("GOOSE_MODEL"), None);
}

#[test]
fn lower_case_and_dotted_keys_follow_upper_case_variables() {
    let config =
        config("", "foo_bar: 1\n", &[("FOO_BAR", "[1, 2]"), ("GANDER_LISTEN", "0.0.0.0:1")], &[], "");
    assert_eq!(config.get("foo_bar").unwrap().value, json!([1, 2]));
    assert_eq!(config.get("gander.listen").unwrap().value, json!("0.0.0.0:1"));
    assert_eq!(
        config.get("gander.listen").unwrap().origin.to_string(),
        "the environment variable GANDER_LISTEN"
    );
}

#[test]
fn typed_getters() {
    let config = config(
        "",
        "text: a\nnumber: 4\nfloat: 0.5\nflag: true\nlist: [a, b]\nminus: -1\nnumber_text: ' 7 '\nbig: 18446744073709551615\n",
        &[("MODEL", "4.10"), ("ON", "1"), ("OFF", "FALSE")],
        &[],
        "",
    );
    assert_eq!(config.get_string("text").unwrap().as_deref(), Some("a"));
    assert_eq!(config.get_string("number").unwrap().as_deref(), Some("4"));
    assert_eq!(config.get_string("flag").unwrap().as_deref(), Some("true"));
    assert_eq!(config.get_string("model").unwrap().as_deref(), Some("4.10"));
    assert_eq!(config.get_string("absent").unwrap(), None);
    assert_eq!(config.get_u64("number").unwrap(), Some(4));
    assert_eq!(config.get_u64("number_text").unwrap(), Some(7));
    assert_eq!(config.get_u64("big").unwrap(), Some(u64::MAX));
    assert_eq!(config.get_u64("GOOSE_MAX_TURNS").unwrap(), Some(1000));
    assert_eq!(config.get_f64("float").unwrap(), Some(0.5));
    assert_eq!(config.get_f64("number").unwrap(), Some(4.0));
    assert_eq!(config.get_bool("flag").unwrap(), Some(true));
    assert_eq!((config.get_bool("on").unwrap(), config.get_bool("off").unwrap()), (Some(true), Some(false)));
    assert_eq!(config.get_as::<Vec<String>>("list").unwrap(), Some(vec!["a".to_owned(), "b".to_owned()]));
    for error in [
        config.get_string("list").unwrap_err(),
        config.get_u64("minus").unwrap_err(),
        config.get_u64("float").unwrap_err(),
        config.get_f64("text").unwrap_err(),
        config.get_bool("number").unwrap_err(),
        config.get_as::<Vec<u64>>("list").unwrap_err(),
    ] {
        assert!(matches!(error, ConfigError::WrongType { .. }));
        assert!(error.to_string().contains("/u.yaml"), "{error}");
    }
}

#[test]
fn list_shows_origins_and_hides_secrets_and_extensions() {
    let config = config(
        "branding: corp\n",
        "zz: 1\nOPENAI_API_KEY: sk-plain\nMY_TOKEN: t\nextensions: {a: {envs: {K: v}}}\nslash_commands: []\n",
        &[("GOOSE_MODEL", "m"), ("HOME", "/h"), ("ANTHROPIC_API_KEY", "k")],
        &[("flagged", json!(1))],
        "values: {locked: 2}\n",
    );
    let debug = format!("{config:?}");
    assert!(debug.contains("slash_commands") && !debug.contains("sk-plain"), "{debug}");
    let listed = config.list();
    let shown: Vec<_> = listed
        .iter()
        .map(|line| (line.key.as_str(), line.entry.as_ref().map(|entry| entry.origin.name())))
        .collect();
    // The catalogue in its own order, then the others by name.
    let documented: Vec<_> =
        crate::KNOWN_KEYS.iter().filter(|known| !known.secret).map(|known| known.key).collect();
    assert_eq!(shown.iter().take(documented.len()).map(|(key, _)| *key).collect::<Vec<_>>(), documented);
    assert_eq!(
        shown[documented.len()..],
        [
            ("branding", Some("distribution")),
            ("flagged", Some("flag")),
            ("locked", Some("policy")),
            ("zz", Some("user")),
        ]
    );
    for (key, origin) in [
        ("GOOSE_PROVIDER", None),
        ("GOOSE_MODEL", Some("environment")),
        ("GOOSE_MODE", Some("default")),
        ("slash_commands", Some("user")),
        ("OPENAI_HOST", None),
    ] {
        assert!(shown.contains(&(key, origin)), "{key}");
    }
    for key in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "MY_TOKEN", "extensions"] {
        assert_eq!(config.get(key), None, "{key}");
    }
}

#[test]
fn extensions_merge_by_entry_and_keep_their_order() {
    let config = config(
        "extensions: {zeta: {enabled: true}, alpha: {enabled: true}}\n",
        "extensions:\n  mine: {enabled: true}\n  zeta: {enabled: false}\n",
        &[("EXTENSIONS", "{}")],
        &[],
        "",
    );
    let shown: Vec<_> = config
        .extensions()
        .into_iter()
        .map(|(key, entry)| (key, entry.origin.name(), entry.value["enabled"].clone()))
        .collect();
    assert_eq!(
        shown,
        [
            ("zeta".to_owned(), "user", json!(false)),
            ("alpha".to_owned(), "distribution", json!(true)),
            ("mine".to_owned(), "user", json!(true)),
        ]
    );
    let error = Layer::parse(Path::new("/u.yaml"), b"extensions: [a]\n").unwrap_err();
    assert!(error.to_string().contains("extensions must be"), "{error}");
}

#[test]
fn odd_yaml_becomes_json() {
    let config = config("", "1: one\ntrue: yes\nmap: {2: two}\nnan: .nan\ntag: !x 5\n~: z\n", &[], &[], "");
    for (key, value) in [
        ("1", json!("one")),
        ("true", json!("yes")),
        ("map", json!({"2": "two"})),
        ("nan", json!(".nan")),
        ("tag", json!(5)),
        ("null", json!("z")),
    ] {
        assert_eq!(config.get(key).map(|entry| entry.value), Some(value), "{key}");
    }
}

#[test]
fn malformed_files_name_line_and_column() {
    for (text, line) in [("a: 1\nb: [1\nc: 2\n", 3), ("a: 1\na: 2\n", 1), ("a: 1\n b: 2\n", 2)] {
        match Layer::parse(Path::new("/u.yaml"), text.as_bytes()) {
            Err(ConfigError::Malformed { path, line: found, column, .. }) => {
                assert_eq!((path, found), (PathBuf::from("/u.yaml"), line), "{text}");
                assert!(column >= 1);
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    match Layer::parse(Path::new("/u.yaml"), b"a: 1\nbc: \xff\n") {
        Err(ConfigError::Malformed { line: 2, column: 5, .. }) => {}
        other => panic!("{other:?}"),
    }
}
