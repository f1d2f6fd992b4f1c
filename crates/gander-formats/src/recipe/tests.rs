//! Tables: what is read, rendered, linked and found.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

const FULL: &str = r#"
version: "1.0.0"
title: Triage
description: Looks at issues
instructions: You triage {{ repo }}.
prompt: |
  Look at {{ repo }} since {{ since }}.
  {% if deep == "true" %}Read everything.{% endif %}
parameters:
  - key: repo
    input_type: string
    requirement: required
    description: Which repository
  - key: since
    input_type: date
    requirement: optional
    default: yesterday
    description: From when
  - key: deep
    input_type: boolean
    requirement: optional
    default: "false"
    description: Whether to read everything
extensions:
  - type: builtin
    name: developer
  - type: stdio
    name: gh
    cmd: gh-mcp
    args: [--repo, "{{ repo }}"]
settings: {goose_provider: openai, goose_model: gpt-5, temperature: 0.25, max_turns: 7}
activities: ["Triage {{ repo }}"]
author: {contact: someone}
response:
  json_schema: {type: object, properties: {n: {type: integer}}, required: [n]}
retry:
  max_retries: 2
  checks: [{type: Shell, command: "test -f {{ repo }}"}]
  on_failure: rm -f out
  timeout_seconds: 5
sub_recipes:
  - {name: labels, path: labels.yaml, values: {repo: "{{ repo }}"}, sequential_when_repeated: true}
x_future: {kept: [1, 2]}
"#;

fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn no_files(path: &str) -> Result<String, String> {
    Err(format!("{path} is not read in this test"))
}

fn rendered(text: &str, given: &[(&str, &str)]) -> Value {
    let template = Template::from_text(text, None).unwrap();
    let recipe = template.recipe().unwrap();
    let resolved = resolve_values(&recipe.parameters, &values(given), no_files).unwrap();
    assert_eq!(resolved.missing_required, [""; 0]);
    template.render(&resolved.values).unwrap()
}

#[test]
fn a_whole_recipe_is_read_and_rendered() {
    let document = rendered(FULL, &[("repo", "a/b")]);
    let recipe = read(&document).unwrap();
    assert_eq!(recipe.instructions.as_deref(), Some("You triage a/b."));
    assert_eq!(recipe.prompt.as_deref(), Some("Look at a/b since yesterday.\n"));
    assert_eq!(recipe.settings.temperature, Some(0.25));
    assert_eq!((recipe.settings.provider.as_deref(), recipe.settings.max_turns), (Some("openai"), Some(7)));
    assert_eq!(recipe.activities, ["Triage a/b"]);
    let retry = recipe.retry.clone().unwrap();
    assert_eq!((retry.max_retries, retry.checks[0].as_str(), retry.reset_context), (2, "test -f a/b", true));
    assert_eq!(recipe.sub_recipes[0].values["repo"], "a/b");
    assert!(recipe.sub_recipes[0].sequential_when_repeated);
    let names: Vec<_> = recipe.extensions.iter().flatten().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["developer", "gh"]);
    assert_eq!(document["x_future"], json!({"kept": [1, 2]}));
    assert_eq!(document["author"]["contact"], "someone");
    // Parameters stay as they were written.
    assert_eq!(document["parameters"][0]["key"], "repo");
    assert!(recipe.response_schema.is_some());
}

#[test]
fn yaml_and_json_are_the_same_document() {
    let template = Template::from_text(FULL, None).unwrap();
    let yaml = to_yaml(template.document()).unwrap();
    assert!(yaml.starts_with("version:"), "{yaml}");
    let again = Template::from_text(&yaml, None).unwrap();
    assert_eq!(again.document(), template.document());
    let json = template.document().to_string();
    assert_eq!(Template::from_text(&json, None).unwrap().document(), template.document());
    let wrapped = json!({"recipe": template.document()});
    assert_eq!(Template::from_document(wrapped).unwrap().document(), template.document());
}

#[test]
fn mistakes_name_the_field() {
    let base = "title: t\ndescription: d\nprompt: p\n";
    for (text, field) in [
        ("description: d\nprompt: p", "title"),
        ("title: ' '\ndescription: d", "title"),
        ("title: t\nprompt: p", "description"),
        ("- 1", "recipe"),
        ("title: [", "recipe"),
        (&format!("{base}parameters: [{{key: a, input_type: colour}}]"), "parameters[0].input_type"),
        (&format!("{base}parameters: [{{input_type: string}}]"), "parameters[0].key"),
        (&format!("{base}parameters: [{{key: a, requirement: maybe}}]"), "parameters[0].requirement"),
        (&format!("{base}settings: {{max_turns: many}}"), "settings.max_turns"),
        (&format!("{base}settings: {{max_turns: 1.5}}"), "settings.max_turns"),
        (&format!("{base}retry: {{max_retries: 1, checks: [{{type: ask}}]}}"), "retry.checks[0].type"),
        (&format!("{base}sub_recipes: [{{name: n}}]"), "sub_recipes[0].path"),
        (&format!("{base}response: {{json_schema: text}}"), "response.json_schema"),
        (&format!("{base}extensions: [{{type: stdio, name: x}}]"), "extensions[0].cmd"),
        (&format!("{base}activities: [[a]]"), "activities[0]"),
    ] {
        let error = match Template::from_text(text, None) {
            Err(error) => error,
            Ok(template) => template.recipe().unwrap_err(),
        };
        assert_eq!(error.field, field, "{text}: {error}");
        assert!(matches!(error.reason, gander_domain::ErrorReason::RecipeInvalid), "{text}: {error:?}");
    }
}

#[test]
fn values_are_text_and_never_structure() {
    let text = "title: t\ndescription: d\nprompt: |\n  Data:\n  {{ data | indent(2) }}\n  End\n\
                parameters: [{key: data, description: d}]\n";
    let evil = "one\ntwo: \"3\"\nextensions: [x]";
    let recipe = read(&rendered(text, &[("data", evil)])).unwrap();
    assert_eq!(recipe.prompt.unwrap(), format!("Data:\n{evil}\nEnd\n"));
    assert_eq!(recipe.extensions, None);
}

#[test]
fn a_text_that_is_no_yaml_yet_is_rendered_as_text() {
    let text = "title: {{ name }}\ndescription: d\nprompt: |\n  Data:\n  {{ data | indent(2) }}\nextensions:\n\
                {% if dev == 'true' %}\n  - {type: builtin, name: developer}\n{% endif %}\n\
                parameters:\n  - {key: name, description: d}\n  - {key: data, description: d}\n  \
                - {key: dev, description: d, requirement: optional, default: 'false'}\n";
    let template = Template::from_text(text, None).unwrap();
    assert!(!template.renders_by_document());
    assert_eq!(template.document()["title"], "<name>");
    let with = |dev: &str| {
        let given = values(&[("name", "N"), ("data", "a\nb"), ("dev", dev), ("recipe_dir", "")]);
        read(&template.render(&given).unwrap()).unwrap()
    };
    let recipe = with("true");
    assert_eq!((recipe.title.as_str(), recipe.prompt.as_deref()), ("N", Some("Data:\na\nb\n")));
    assert_eq!(recipe.extensions.map(|e| e.len()), Some(1));
    assert_eq!(with("false").extensions, None);
}

#[test]
fn templates_build_on_others_through_the_loader() {
    let loader: Loader = Arc::new(|name| match name {
        "base.yaml" => Ok(Some(
            "title: {% block title %}base{% endblock %}\ndescription: d\nprompt: hi {{ who }}\n\
             parameters: [{key: who, description: d}]\n"
                .to_owned(),
        )),
        "outside" => Err("must stay below the recipe's directory".to_owned()),
        _ => Ok(None),
    });
    let text = "{% extends \"base.yaml\" %}\n{% block title %}mine{% endblock %}\n";
    let template = Template::from_text(text, Some(loader.clone())).unwrap();
    assert!(template.variables().contains("who"), "{:?}", template.variables());
    let recipe = read(&template.render(&values(&[("who", "you")])).unwrap()).unwrap();
    assert_eq!((recipe.title.as_str(), recipe.prompt.as_deref()), ("mine", Some("hi you")));
    let outside = Template::from_text("{% include \"outside\" %}", Some(loader.clone())).unwrap_err();
    assert!(outside.message.contains("must stay below"), "{outside}");
    assert!(Template::from_text("{% extends \"none\" %}", Some(loader)).is_err());
    assert!(Template::from_text(text, None).is_err());
}

#[test]
fn braces_that_are_no_expression_stay() {
    let text = "title: t\ndescription: d\nprompt: 'Use {{hf model org}} and {{ x }} or {{ ''lit'' }}'\n\
                parameters: [{key: x, description: d}]\n";
    let recipe = read(&rendered(text, &[("x", "1")])).unwrap();
    assert_eq!(recipe.prompt.as_deref(), Some("Use {{hf model org}} and 1 or lit"));
}

#[test]
fn raw_text_is_left_alone() {
    let document = json!({
        "title": "t", "description": "d",
        "prompt": "{% raw %}{{ not a var }} {{ x }}{% endraw %} {{hf name}} {{ x }}{%- raw -%} {{ b c }}{% endraw %}",
        "parameters": [{"key": "x"}],
    });
    let template = Template::from_document(document).unwrap();
    let rendered = template.render(&values(&[("x", "1")])).unwrap();
    assert_eq!(rendered["prompt"], "{{ not a var }} {{ x }} {{hf name}} 1{{ b c }}");
}

#[test]
fn endless_templates_are_stopped() {
    let text = "title: t\ndescription: d\nprompt: \"{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}\"\n";
    let template = Template::from_text(text, None).unwrap();
    let error = template.render(&values(&[])).unwrap_err();
    assert_eq!(error.field, "prompt");
}

#[test]
fn parameters_get_their_values() {
    let parameter = |input_type, requirement, default: Option<&str>, options: &[&str]| Parameter {
        key: "p".into(),
        input_type,
        requirement,
        description: String::new(),
        default: default.map(str::to_owned),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
    };
    use InputType as T;
    use Requirement as R;
    let file =
        |path: &str| if path == "f" { Ok("content".to_owned()) } else { Err("no such file".to_owned()) };
    for (parameter, given, expected) in [
        (parameter(T::String, R::Required, None, &[]), Some("v"), Ok(Some("v"))),
        (parameter(T::String, R::Required, Some("d"), &[]), None, Ok(Some("d"))),
        (parameter(T::String, R::Required, None, &[]), None, Ok(None)),
        (parameter(T::String, R::UserPrompt, None, &[]), None, Ok(None)),
        (parameter(T::String, R::Optional, None, &[]), None, Ok(Some(""))),
        (parameter(T::Number, R::Required, None, &[]), Some("-2.5"), Ok(Some("-2.5"))),
        (parameter(T::Number, R::Required, None, &[]), Some("two"), Err(())),
        (parameter(T::Boolean, R::Required, None, &[]), Some("true"), Ok(Some("true"))),
        (parameter(T::Boolean, R::Required, None, &[]), Some("yes"), Err(())),
        (parameter(T::Select, R::Required, None, &["a", "b"]), Some("b"), Ok(Some("b"))),
        (parameter(T::Select, R::Required, None, &["a", "b"]), Some("c"), Err(())),
        (parameter(T::File, R::Required, None, &[]), Some("f"), Ok(Some("content"))),
        (parameter(T::File, R::Required, None, &[]), Some("g"), Err(())),
    ] {
        let given = given.map(|v| values(&[("p", v), ("other", "x")])).unwrap_or_default();
        let got = resolve_values(std::slice::from_ref(&parameter), &given, file);
        match (got, expected) {
            (Ok(resolved), Ok(expected)) => {
                assert_eq!(resolved.values.get("p").map(String::as_str), expected, "{parameter:?}");
                assert_eq!(resolved.missing_required.is_empty(), expected.is_some(), "{parameter:?}");
                assert!(!resolved.values.contains_key("other"));
            }
            (Err(errors), Err(())) => assert_eq!(errors[0].field, "values.p"),
            (got, expected) => panic!("{parameter:?}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = "title: t\nprompt: x\nsettings: {temperature: hot, max_turns: 1.5}\nactivities: no\n\
                parameters: [{input_type: string}, {key: a, input_type: x}, 3]\n\
                retry: {max_retries: -1, checks: [{type: other, command: c}, {command: ''}]}\n\
                sub_recipes: [{name: a}]\nextensions: [{name: e}]\nresponse: {json_schema: no}\n";
    let template = Template::from_text(text, None).unwrap();
    let fields: Vec<String> = validate(&template).into_iter().map(|f| f.field).collect();
    let expected = [
        "description",
        "extensions[0].type",
        "settings.temperature",
        "settings.max_turns",
        "activities",
        "parameters[0].key",
        "parameters[1].input_type",
        "parameters[2]",
        "response.json_schema",
        "sub_recipes[0].path",
        "retry.max_retries",
        "retry.checks[0].type",
        "retry.checks[1].command",
    ];
    assert_eq!(fields, expected);
    assert_eq!(template.recipe().unwrap_err().field, "description", "the first of them");
    use InputType as T;
    let asked = [("p", T::Number), ("q", T::Boolean)].map(|(key, input_type)| Parameter {
        key: key.into(),
        input_type,
        requirement: Requirement::Required,
        description: String::new(),
        default: None,
        options: Vec::new(),
    });
    let errors = resolve_values(&asked, &values(&[("p", "x"), ("q", "maybe")]), no_files).unwrap_err();
    let told = crate::FormatError::together(errors);
    assert_eq!(told.message, "values.p: must be a number; values.q: must be true or false");
    assert_eq!(told.violations.len(), 2);
}

#[test]
fn findings_name_what_is_wrong() {
    let base = "title: t\ndescription: d\n";
    for (text, code, severity) in [
        ("instructions: ' '", "nothing_to_do", Severity::Error),
        ("prompt: '{{ a }}'", "undeclared_variable", Severity::Error),
        ("prompt: p\nparameters: [{key: a}]", "unused_parameter", Severity::Warning),
        ("prompt: '{{ a }}'\nparameters: [{key: a}, {key: a}]", "duplicate_parameter", Severity::Error),
        (
            "prompt: '{{ a }}'\nparameters: [{key: a, requirement: optional}]",
            "optional_without_default",
            Severity::Warning,
        ),
        (
            "prompt: '{{ a }}'\nparameters: [{key: a, input_type: file, default: /x}]",
            "file_default",
            Severity::Error,
        ),
        (
            "prompt: '{{ a }}'\nparameters: [{key: a, input_type: select}]",
            "select_without_options",
            Severity::Error,
        ),
        (
            "prompt: '{{ a }}'\nparameters: [{key: a, input_type: select, options: [b], default: c}]",
            "default_not_an_option",
            Severity::Error,
        ),
        ("prompt: p\nparameters: [{key: recipe_dir}]", "reserved_parameter", Severity::Error),
        ("prompt: p\nresponse: {json_schema: {type: nonsense}}", "invalid_schema", Severity::Error),
        (
            "prompt: p\nretry: {max_retries: 0, checks: [{type: shell, command: x}]}",
            "invalid_retry",
            Severity::Error,
        ),
        ("prompt: p\nretry: {max_retries: 1, checks: []}", "invalid_retry", Severity::Error),
        (
            "prompt: p\nsub_recipes: [{name: a, path: x}, {name: a, path: y}]",
            "duplicate_sub_recipe",
            Severity::Error,
        ),
        ("prompt: \"hi\\U000E0041\"", "hidden_characters", Severity::Security),
        ("prompt: p\nactivities: [\"\\u202Ex\"]", "direction_controls", Severity::Security),
        ("prompt: \"a\\u200Bb\"", "invisible_characters", Severity::Warning),
    ] {
        let template = Template::from_text(&format!("{base}{text}\n"), None).unwrap();
        let findings = validate(&template);
        let codes: Vec<_> = findings.iter().map(|f| (f.code, f.severity)).collect();
        assert_eq!(codes, [(code, severity)], "{text}");
    }
    let template = Template::from_text(FULL, None).unwrap();
    assert_eq!(validate(&template), []);
    let joined =
        Template::from_text(&format!("{base}prompt: \"👨\\u200D👩 {{{{ recipe_dir }}}}\""), None).unwrap();
    assert_eq!(validate(&joined), []);
}

#[test]
fn links_carry_the_recipe() {
    let document =
        json!({"title": "tä", "description": "d?>", "prompt": "{{ a }}", "parameters": [{"key": "a"}]});
    let payload = encode_payload(&document).unwrap();
    assert!(!payload.contains(['=', '+', '/']), "{payload}");
    let given = values(&[("a", "x y&z")]);
    let link = encode_link(&payload, &given);
    let read = decode_link(&link).unwrap();
    assert_eq!((&read.document, &read.values), (&document, &given));
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let standard = STANDARD.encode(document.to_string());
    let percent: String = standard.bytes().map(|b| format!("%{b:02X}")).collect();
    for payload in [payload, standard.clone(), percent] {
        assert_eq!(decode_link(&payload).unwrap().document, document);
        assert_eq!(decode_link(&format!("goose://recipe?config={payload}")).unwrap().document, document);
    }
    for wrong in
        ["", "goose://extension?cmd=x", "goose://recipe?x=1", "goose://recipe?config=!!!", "bm8", "%zz"]
    {
        let error = decode_link(wrong).unwrap_err();
        assert_eq!(error.reason, gander_domain::ErrorReason::LinkInvalid, "{wrong}");
    }
    assert!(encode_payload(&json!({"title": "t"})).is_err());
}

#[test]
fn answers_are_checked_against_the_schema() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    assert_eq!(schema_problems(&schema, &json!({"n": 1})), [""; 0]);
    let problems = schema_problems(&schema, &json!({"n": "x"}));
    assert!(problems[0].starts_with("/n: "), "{problems:?}");
    assert_eq!(schema_problems(&schema, &json!({})).len(), 1);
    assert!(check_schema(&schema).is_ok());
    assert!(check_schema(&json!({"type": 3})).is_err());
    assert!(check_schema(&json!({"$ref": "https://example.com/x.json"})).is_err());
}

#[test]
fn titles_become_file_names() {
    for (title, stem) in [
        ("Triage the Issues!", "triage-the-issues"),
        ("../../etc", "etc"),
        ("日本 語", "日本-語"),
        ("!!!", "untitled-recipe"),
        ("a\tb", "a-b"),
    ] {
        assert_eq!(file_stem(title), stem);
    }
}
