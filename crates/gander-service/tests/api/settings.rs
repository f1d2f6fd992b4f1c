//! Configuration over the API: values, secrets, extensions, models, rules.

use std::collections::HashMap;

use gander_proto::v1::{
    self as pb, config_service_client::ConfigServiceClient, extension_service_client::ExtensionServiceClient,
    provider_service_client::ProviderServiceClient, tool_service_client::ToolServiceClient,
};
use tonic::Code;

use crate::harness::{Harness, next, reason};

#[tokio::test]
async fn values_are_set_read_and_unset() {
    let h = Harness::new([]).await;
    let mut config = ConfigServiceClient::new(h.transport.clone());
    let set = |value: &str| pb::SetConfigValueRequest {
        key: "my.key".into(),
        value_json: value.into(),
        ..Default::default()
    };
    let value = config.set_config_value(set("{\"b\": [1, 2]}")).await.unwrap().into_inner().value.unwrap();
    assert_eq!((value.value_json.as_str(), value.origin()), ("{\"b\":[1,2]}", pb::ConfigOrigin::User));
    for bad in ["", "nothing", "null"] {
        let error = config.set_config_value(set(bad)).await.unwrap_err();
        assert_eq!(reason(&error), (Code::InvalidArgument, "INVALID_FIELD".into()), "{bad:?}");
    }
    let listed = config.list_config_values(pb::ListConfigValuesRequest {}).await.unwrap().into_inner().values;
    assert!(listed.iter().any(|v| v.key == "my.key"));
    assert!(listed.windows(2).all(|w| w[0].key < w[1].key));
    let unset = pb::UnsetConfigValueRequest { key: "my.key".into(), ..Default::default() };
    assert_eq!(config.unset_config_value(unset).await.unwrap().into_inner().value, None);
    let get = pb::GetConfigValueRequest { key: "my.key".into() };
    assert_eq!(config.get_config_value(get).await.unwrap().into_inner().value, None);
}

#[tokio::test]
async fn secrets_never_come_back() {
    let h = Harness::new([]).await;
    let mut config = ConfigServiceClient::new(h.transport.clone());
    let secret = "sk-0123456789-wxyz";
    let set = pb::SetSecretRequest { key: "MY_API_KEY".into(), value: secret.into() };
    let status = config.set_secret(set).await.unwrap().into_inner().secret.unwrap();
    let expected = (true, "wxyz", pb::SecretOrigin::File);
    assert_eq!((status.present, status.last_four.as_str(), status.origin()), expected);
    let all = config.list_secret_statuses(pb::ListSecretStatusesRequest {}).await.unwrap().into_inner();
    assert!(all.secrets.iter().any(|s| s.key == "MY_API_KEY" && s.present));
    let values = config.list_config_values(pb::ListConfigValuesRequest {}).await.unwrap().into_inner();
    assert!(!format!("{all:?}{values:?}").contains("0123456789"));
    let plain = pb::SetConfigValueRequest {
        key: "MY_API_KEY".into(),
        value_json: "\"x\"".into(),
        ..Default::default()
    };
    let error = config.set_config_value(plain).await.unwrap_err();
    assert_eq!(reason(&error), (Code::InvalidArgument, "INVALID_FIELD".into()));
    let delete = pb::DeleteSecretRequest { key: "MY_API_KEY".into(), ..Default::default() };
    assert!(!config.delete_secret(delete).await.unwrap().into_inner().secret.unwrap().present);
}

#[tokio::test]
async fn configured_extensions_are_put_switched_and_deleted() {
    let h = Harness::new([]).await;
    let mut extensions = ExtensionServiceClient::new(h.transport.clone());
    let names = |list: pb::ListExtensionsResponse| {
        list.extensions.into_iter().map(|e| (e.config_key, e.enabled)).collect::<Vec<_>>()
    };
    let list = || pb::ListExtensionsRequest::default();
    let implied = names(extensions.list_extensions(list()).await.unwrap().into_inner());
    assert_eq!(implied, [("developer".to_owned(), true)]);

    let stdio = pb::StdioExtension { command: "uvx".into(), args: vec!["mcp-thing".into()] };
    let config = pb::ExtensionConfig {
        name: "My Thing".into(),
        kind: Some(pb::extension_config::Kind::Stdio(stdio)),
        env: HashMap::from([("LEVEL".into(), "7".into())]),
        ..Default::default()
    };
    let put = pb::PutExtensionRequest { config: Some(config.clone()), enabled: true, ..Default::default() };
    let done = extensions.put_extension(put.clone()).await.unwrap().into_inner();
    assert!(done.created);
    assert_eq!(done.extension.unwrap().config_key, "mything");
    // What was shown with withheld values may be sent back.
    let withheld = pb::ExtensionConfig { env: HashMap::from([("LEVEL".into(), String::new())]), ..config };
    let again = pb::PutExtensionRequest { config: Some(withheld), ..put };
    let again = extensions.put_extension(again).await.unwrap().into_inner();
    assert!(!again.created);
    assert_eq!(again.extension.unwrap().config.unwrap().env["LEVEL"], "7");

    let name = || "my thing".to_owned();
    let off = pb::SetExtensionEnabledRequest { extension_name: name(), ..Default::default() };
    assert!(!extensions.set_extension_enabled(off).await.unwrap().into_inner().extension.unwrap().enabled);
    let listed = names(extensions.list_extensions(list()).await.unwrap().into_inner());
    assert_eq!(
        listed,
        [("developer".to_owned(), true), ("mything".to_owned(), false)],
        "the implied one stays"
    );
    let delete = pb::DeleteExtensionRequest { extension_name: name(), ..Default::default() };
    assert!(extensions.delete_extension(delete.clone()).await.unwrap().into_inner().deleted);
    let error = extensions.delete_extension(delete.clone()).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "EXTENSION_NOT_FOUND".into()));
    let missing = pb::DeleteExtensionRequest { allow_missing: true, ..delete };
    assert!(!extensions.delete_extension(missing).await.unwrap().into_inner().deleted);
}

#[tokio::test]
async fn the_default_model_is_written_and_hinted() {
    let h = Harness::new([]).await;
    let mut providers = ProviderServiceClient::new(h.transport.clone());
    let listed = providers.list_providers(pb::ListProvidersRequest {}).await.unwrap().into_inner().providers;
    let provider_id = listed[0].provider_id.clone();
    let mut hints = h.system().watch_server(pb::WatchServerRequest::default()).await.unwrap().into_inner();
    next(&mut hints).await;
    let set = pb::SetDefaultModelRequest {
        provider_id: provider_id.clone(),
        model_id: "m1".into(),
        ..Default::default()
    };
    providers.set_default_model(set.clone()).await.unwrap();
    let Some(pb::watch_server_response::Payload::Change(change)) = next(&mut hints).await.payload else {
        panic!()
    };
    assert_eq!(change.kind(), pb::ServerChangeKind::Config);
    let mut config = ConfigServiceClient::new(h.transport.clone());
    for (key, value) in [("GOOSE_PROVIDER", provider_id.as_str()), ("GOOSE_MODEL", "m1")] {
        let get = pb::GetConfigValueRequest { key: key.into() };
        let got = config.get_config_value(get).await.unwrap().into_inner().value.unwrap();
        assert_eq!(got.value_json, format!("{value:?}"));
    }
    let unknown = pb::SetDefaultModelRequest { provider_id: "nobody".into(), ..set };
    let error = providers.set_default_model(unknown).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "PROVIDER_NOT_FOUND".into()));
}

#[tokio::test]
async fn rules_are_set_and_removed() {
    let h = Harness::new([]).await;
    let mut tools = ToolServiceClient::new(h.transport.clone());
    let rule = |pattern: &str, decision: pb::RuleDecision| pb::PermissionRule {
        tool_pattern: pattern.into(),
        decision: decision as i32,
        scope: pb::RememberScope::User as i32,
        ..Default::default()
    };
    let set = |rules| pb::SetPermissionRulesRequest { rules, ..Default::default() };
    let both = vec![rule("b__*", pb::RuleDecision::Deny), rule("a__x", pb::RuleDecision::Allow)];
    let now = tools.set_permission_rules(set(both)).await.unwrap().into_inner().rules;
    let told: Vec<_> = now.iter().map(|r| (r.tool_pattern.as_str(), r.decision())).collect();
    assert_eq!(told, [("a__x", pb::RuleDecision::Allow), ("b__*", pb::RuleDecision::Deny)]);
    let removed = vec![rule("b__*", pb::RuleDecision::Unspecified)];
    tools.set_permission_rules(set(removed)).await.unwrap();
    let left =
        tools.list_permission_rules(pb::ListPermissionRulesRequest::default()).await.unwrap().into_inner();
    assert_eq!(left.rules.iter().map(|r| r.tool_pattern.as_str()).collect::<Vec<_>>(), ["a__x"]);
    let of_session = |session_id: &str| {
        vec![pb::PermissionRule {
            scope: pb::RememberScope::Session as i32,
            session_id: session_id.to_owned(),
            ..rule("a__y", pb::RuleDecision::Ask)
        }]
    };
    let error = tools.set_permission_rules(set(of_session(""))).await.unwrap_err();
    assert_eq!(reason(&error), (Code::InvalidArgument, "INVALID_FIELD".into()));
    let session = h.session().await;
    let of_project = vec![pb::PermissionRule {
        scope: pb::RememberScope::Project as i32,
        directory: "/far/away".into(),
        ..rule("c__*", pb::RuleDecision::Deny)
    }];
    tools.set_permission_rules(set(of_project)).await.unwrap();
    let now = tools.set_permission_rules(set(of_session(&session))).await.unwrap().into_inner().rules;
    let told: Vec<_> =
        now.iter().map(|r| (r.tool_pattern.as_str(), r.session_id.as_str(), r.directory.as_str())).collect();
    assert_eq!(told, [("a__y", session.as_str(), ""), ("c__*", "", "/far/away"), ("a__x", "", "")]);
    let for_session = pb::ListPermissionRulesRequest { session_id: session.clone() };
    let applying = tools.list_permission_rules(for_session).await.unwrap().into_inner().rules;
    let told: Vec<_> = applying.iter().map(|r| r.tool_pattern.as_str()).collect();
    assert_eq!(told, ["a__y", "a__x"], "the project is another one");
}

#[tokio::test]
async fn prompt_templates_are_set_and_reset() {
    let h = Harness::new([]).await;
    let mut config = ConfigServiceClient::new(h.transport.clone());
    let list = config.list_prompt_templates(pb::ListPromptTemplatesRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = list.templates.iter().map(|t| t.name.as_str()).collect();
    assert!(names.is_sorted() && names.contains(&"system.md"), "{names:?}");
    let set = |content: &str| pb::SetPromptTemplateRequest {
        name: "plan.md".into(),
        content: content.into(),
        ..Default::default()
    };
    let stored = config.set_prompt_template(set("{{ tools }}")).await.unwrap().into_inner().template.unwrap();
    assert_eq!(stored.user_content.as_deref(), Some("{{ tools }}"));
    let error = config.set_prompt_template(set("{{ tools")).await.unwrap_err();
    assert_eq!(reason(&error), (Code::InvalidArgument, "INVALID_FIELD".into()));
    let name = || "plan.md".to_owned();
    let reset = pb::ResetPromptTemplateRequest { name: name(), ..Default::default() };
    let plain = config.reset_prompt_template(reset).await.unwrap().into_inner().template.unwrap();
    assert_eq!(plain.user_content, None);
    let read = config.get_prompt_template(pb::GetPromptTemplateRequest { name: name() }).await.unwrap();
    assert_eq!(read.into_inner().template.unwrap(), plain);
    let missing = pb::GetPromptTemplateRequest { name: "none.md".into() };
    let error = config.get_prompt_template(missing).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "PROMPT_NOT_FOUND".into()));
}
