//! Extensions that could be configured, and links that offer some.

use gander_proto::v1::{
    self as pb, config_service_client::ConfigServiceClient, extension_service_client::ExtensionServiceClient,
};
use tonic::Code;

use crate::harness::{Harness, reason};

#[tokio::test]
async fn a_link_is_stored_disabled_and_says_what_is_missing() {
    let h = Harness::new([]).await;
    let mut extensions = ExtensionServiceClient::new(h.transport.clone());
    let install = |link: &str| pb::InstallExtensionLinkRequest { link: link.into(), ..Default::default() };
    let link = "goose://extension?cmd=npx&arg=-y&arg=server&name=My%20Hub&env=HUB_TOKEN%3Dx&env=HUB_KEY\
                &env=LD_PRELOAD%3D%2Fx.so&installation_notes=Hello";
    let secret = pb::SetSecretRequest { key: "HUB_KEY".into(), value: "0123456789".into() };
    ConfigServiceClient::new(h.transport.clone()).set_secret(secret).await.unwrap();
    let done = extensions.install_extension_link(install(link)).await.unwrap().into_inner();
    let stored = done.extension.unwrap();
    let config = stored.config.unwrap();
    assert!(done.created && !stored.enabled);
    assert_eq!((stored.config_key.as_str(), config.name.as_str()), ("myhub", "My Hub"));
    assert_eq!(done.unresolved_keys, ["HUB_TOKEN"], "the other one has a value");
    assert_eq!(config.env_keys, ["HUB_TOKEN", "HUB_KEY"]);
    assert!(config.env.is_empty());
    assert_eq!(done.installation_notes, "Hello");
    assert!(done.warnings.iter().any(|text| text.contains("LD_PRELOAD")), "{:?}", done.warnings);

    // What is there already stays as it is.
    let other = "goose://extension?cmd=uvx&arg=other&name=my%20hub";
    let again = extensions.install_extension_link(install(other)).await.unwrap().into_inner();
    assert!(!again.created);
    let Some(pb::extension_config::Kind::Stdio(kept)) = again.extension.unwrap().config.unwrap().kind else {
        panic!("stdio")
    };
    assert_eq!(kept.command, "npx");

    for (link, wanted) in [
        ("goose://extension?name=x", "LINK_INVALID"),
        ("https://example.com", "LINK_INVALID"),
        ("goose://extension?cmd=bash&arg=x&name=x", "COMMAND_NOT_ALLOWED"),
        ("goose://extension?cmd=npx&arg=-c&arg=x&name=x", "COMMAND_NOT_ALLOWED"),
    ] {
        let error = extensions.install_extension_link(install(link)).await.unwrap_err();
        assert_eq!(reason(&error).1, wanted, "{link}");
    }
    let list = extensions.list_extensions(pb::ListExtensionsRequest {}).await.unwrap().into_inner();
    assert_eq!(list.extensions.len(), 2, "the implied developer, and one link");
}

#[tokio::test]
async fn what_could_be_configured_shows_no_values() {
    let h = Harness::new([]).await;
    let mut extensions = ExtensionServiceClient::new(h.transport.clone());
    let stdio = pb::StdioExtension { command: "srv".into(), args: Vec::new() };
    let config = pb::ExtensionConfig {
        name: "mine".into(),
        kind: Some(pb::extension_config::Kind::Stdio(stdio)),
        env: [("LEVEL".to_owned(), "not-shown".to_owned())].into(),
        ..Default::default()
    };
    let put = pb::PutExtensionRequest { config: Some(config), enabled: true, ..Default::default() };
    extensions.put_extension(put).await.unwrap();
    let list = pb::ListAvailableExtensionsRequest {};
    let list = extensions.list_available_extensions(list).await.unwrap().into_inner().extensions;
    let mine = list.iter().find(|e| e.config.as_ref().is_some_and(|c| c.name == "mine")).unwrap();
    assert!(mine.configured && !format!("{list:?}").contains("not-shown"), "{list:?}");
}

#[tokio::test]
async fn disallowed_variables_are_refused_over_the_api_and_told_of_in_the_file() {
    let h = Harness::new([]).await;
    let mut extensions = ExtensionServiceClient::new(h.transport.clone());
    for key in ["LD_PRELOAD", "ld_preload", "PATH", "Node_Options", "PYTHONPATH"] {
        let stdio = pb::StdioExtension { command: "srv".into(), args: Vec::new() };
        let config = pb::ExtensionConfig {
            name: "mine".into(),
            kind: Some(pb::extension_config::Kind::Stdio(stdio)),
            env: [(key.to_owned(), "/x".to_owned())].into(),
            ..Default::default()
        };
        let put = pb::PutExtensionRequest { config: Some(config), enabled: true, ..Default::default() };
        let error = extensions.put_extension(put).await.unwrap_err();
        assert_eq!(reason(&error), (Code::FailedPrecondition, "ENV_KEY_DISALLOWED".into()), "{key}");
    }
    // As somebody may have written it into the file.
    let entry = serde_json::json!({
        "enabled": true, "type": "stdio", "name": "mine", "description": "", "cmd": "srv", "args": [],
        "envs": {"Ld_Preload": "/x"}, "env_keys": [], "timeout": 300,
    });
    h.engine.config().edit_map_entry("extensions", "mine", Some(&entry)).unwrap();
    let list = extensions.list_extensions(pb::ListExtensionsRequest {}).await.unwrap().into_inner();
    let warnings = list.extensions.iter().flat_map(|e| e.warnings.clone()).collect::<Vec<_>>().join("\n");
    assert!(warnings.contains("Ld_Preload") && warnings.contains("may not be set"), "{list:?}");
}

/// Goose's clients configure builtins that only Goose has.
#[tokio::test]
async fn an_enabled_builtin_that_is_not_there_is_warned_of() {
    let h = Harness::new([]).await;
    let mut extensions = ExtensionServiceClient::new(h.transport.clone());
    for (name, enabled) in [("computercontroller", true), ("tutorial", false)] {
        let kind = Some(pb::extension_config::Kind::Builtin(pb::BuiltinExtension {}));
        let config = pb::ExtensionConfig { name: name.into(), kind, ..Default::default() };
        let put = pb::PutExtensionRequest { config: Some(config), enabled, ..Default::default() };
        extensions.put_extension(put).await.unwrap();
    }
    let list = extensions.list_extensions(pb::ListExtensionsRequest {}).await.unwrap().into_inner();
    let ours = list
        .extensions
        .iter()
        .filter(|e| ["computercontroller", "tutorial"].contains(&e.config_key.as_str()));
    let warned: Vec<_> = ours.filter(|e| !e.warnings.is_empty()).collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert_eq!(warned[0].config_key, "computercontroller");
    assert!(warned[0].warnings[0].contains("part of this daemon"), "{warned:?}");
}
