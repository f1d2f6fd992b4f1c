use serde_json::json;

use super::*;

fn options() -> Options {
    let mut options = Options::default();
    options.take_response(&json!({
        "sessionId": "s",
        "configOptions": [
            {"id": "model", "name": "Model", "category": "model", "type": "select", "currentValue": "a",
             "options": [{"value": "a", "name": "A"}, {"value": "b", "name": "B", "description": "big"}]},
            {"id": "effort", "name": "Effort", "category": "thought_level", "type": "select", "currentValue": "low",
             "options": [{"group": "g", "name": "G", "options": [{"value": "low", "name": "Low"}]}]},
            {"id": "fast", "name": "Fast", "type": "boolean", "currentValue": false},
            {"name": "without an id"},
        ],
        "modes": {"currentModeId": "ask", "availableModes": [{"id": "ask", "name": "Ask"}, {"id": "plan", "name": "Plan"}]},
        "models": {"currentModelId": "old", "availableModels": [{"modelId": "old", "name": "Old"}]},
    }));
    options
}

#[test]
fn older_kinds_fill_the_gaps_only() {
    let list = options().list();
    let shown: Vec<_> =
        list.iter().map(|o| (o.option_id.as_str(), o.kind.as_str(), o.value.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("model", "select", "a"),
            ("effort", "select", "low"),
            ("fast", "boolean", "false"),
            ("mode", "select", "ask")
        ]
    );
    assert_eq!(list[1].choices[0].value, "low", "groups are flattened");
    assert_eq!(list[0].choices[1].description, "big");
    let mut old = Options::default();
    old.take_response(&json!({"models": {"currentModelId": "m", "availableModels": []}}));
    assert_eq!(old.list()[0].option_id, "model");
    let mut none = Options::default();
    none.take_response(&json!(null));
    assert_eq!(none.list(), []);
}

#[test]
fn how_options_are_set() {
    let options = options();
    for (id, value, method, params) in [
        ("model", "b", "session/set_config_option", json!({"configId": "model", "value": "b"})),
        (
            "fast",
            "true",
            "session/set_config_option",
            json!({"configId": "fast", "type": "boolean", "value": true}),
        ),
        ("mode", "plan", "session/set_mode", json!({"modeId": "plan"})),
    ] {
        assert_eq!(options.set(id, value).unwrap(), SetRequest { method, params });
    }
    for (id, value, part) in [
        ("nope", "x", "must be one of model, effort, fast, mode"),
        ("model", "z", "must be one of a, b"),
        ("fast", "maybe", "must be true or false"),
    ] {
        let error = options.set(id, value).unwrap_err();
        assert!(error.message.contains(part), "{error:?}");
    }
    let mut old = Options::default();
    old.take_response(
        &json!({"models": {"currentModelId": "m", "availableModels": [{"modelId": "n", "name": "N"}]}}),
    );
    assert_eq!(old.set("model", "n").unwrap().method, "session/set_model");
}

#[test]
fn what_setting_did() {
    let mut options = options();
    options.take_set("mode", "plan", &json!({}));
    assert_eq!(options.list()[3].value, "plan");
    assert!(!options.take_mode("plan"), "it is known already");
    assert!(options.take_mode("ask"));
    let complete = json!({"configOptions": [{"id": "model", "name": "M", "type": "select", "currentValue": "b", "options": []}]});
    options.take_set("model", "b", &complete);
    assert_eq!(options.list().iter().map(|o| o.option_id.as_str()).collect::<Vec<_>>(), ["model", "mode"]);
    options.take_config(&json!("nonsense"));
    assert_eq!(options.list()[0].value, "b");
}
