//! Questions at the terminal: what is asked, how a typed line is understood, what is answered without a person.
//!
//! Pure. An unclear line is never taken for "yes".

use gander_proto::v1::{
    FormAction, FormAnswer, Interaction, InteractionAnswer, PermissionAnswer, PermissionDecision,
    PermissionOption, PermissionOptionKind, UrlAction, UrlAnswer, interaction::Question,
    interaction_answer::Answer,
};
use serde_json::{Map, Value};

use super::output::{clean, one_line};

/// Told to the model with a refusal that no person made.
const NOBODY: &str = "there was nobody to ask";

/// A question that waits for a line.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) interaction_id: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Choice(Vec<Choice>),
    /// A page to open; `true`: the address that the browser was sent to may be pasted.
    Page(Vec<Choice>, bool),
    Form(Form),
}

#[derive(Debug)]
struct Choice {
    /// Letter, empty if it is taken.
    key: &'static str,
    label: String,
    answer: Answer,
}

#[derive(Debug)]
struct Form {
    fields: Vec<Field>,
    /// `None`: not yet known whether it is to be filled in.
    next: Option<usize>,
    content: Map<String, Value>,
}

#[derive(Debug)]
struct Field {
    name: String,
    title: String,
    kind: FieldKind,
    required: bool,
    default: Option<Value>,
}

#[derive(Debug)]
enum FieldKind {
    Text,
    Integer,
    Number,
    Boolean,
    OneOf(Vec<Value>),
    SomeOf(Vec<Value>),
}

/// What a line led to.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Ask (again) with [`Asking::prompt`], after saying this if it is not empty.
    Ask(String),
    Answer(InteractionAnswer),
}

impl Asking {
    /// `None` for a kind of question that this version does not know: others may answer it.
    pub(super) fn new(interaction: &Interaction) -> Option<Self> {
        let kind = match interaction.question.as_ref()? {
            Question::Permission(question) => Kind::Choice(permission_choices(&question.options)),
            Question::Sampling(_) => Kind::Choice(vec![
                Choice {
                    key: "y",
                    label: "Allow".to_owned(),
                    answer: decision(PermissionDecision::Allow, ""),
                },
                Choice { key: "n", label: "Deny".to_owned(), answer: decision(PermissionDecision::Deny, "") },
            ]),
            Question::OpenUrl(question) => Kind::Page(
                vec![
                    Choice { key: "d", label: "Done".to_owned(), answer: url(UrlAction::Done, "") },
                    Choice { key: "n", label: "No".to_owned(), answer: url(UrlAction::Decline, "") },
                ],
                question.accepts_callback_url,
            ),
            Question::ElicitForm(form) => {
                Kind::Form(Form { fields: fields(&form.schema_json), next: None, content: Map::new() })
            }
        };
        Some(Self { interaction_id: interaction.interaction_id.clone(), kind })
    }

    /// What to print before waiting for a line; no newline at the end.
    pub(super) fn prompt(&self) -> String {
        match &self.kind {
            Kind::Choice(choices) => format!("  {}? ", offered(choices)),
            Kind::Page(choices, false) => format!("  {}? ", offered(choices)),
            Kind::Page(choices, true) => {
                let choices = offered(choices);
                format!("  {choices}, or paste the address where the browser ended? ")
            }
            Kind::Form(form) => match form.next.and_then(|index| form.fields.get(index)) {
                Some(field) => format!("  {}: ", field.describe()),
                None => "  [y] Fill in  [n] No  [c] Cancel? ".to_owned(),
            },
        }
    }

    /// Understands a line.
    pub(super) fn line(&mut self, line: &str) -> Step {
        let line = line.trim();
        match &mut self.kind {
            Kind::Page(_, true) if is_address(line) => {
                Step::Answer(InteractionAnswer { answer: Some(url(UrlAction::Done, line)) })
            }
            Kind::Choice(choices) | Kind::Page(choices, _) => choose(choices, line),
            Kind::Form(form) => form.line(line),
        }
    }
}

/// "[y] Allow  [n] Deny".
fn offered(choices: &[Choice]) -> String {
    let choices: Vec<String> = choices
        .iter()
        .enumerate()
        .map(|(index, choice)| match choice.key {
            "" => format!("[{}] {}", index + 1, choice.label),
            key => format!("[{key}] {}", choice.label),
        })
        .collect();
    choices.join("  ")
}

fn choose(choices: &[Choice], line: &str) -> Step {
    let lower = line.to_lowercase();
    let number = line.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let by_number = number.and_then(|index| choices.get(index));
    let by_letter = choices.iter().find(|choice| !line.is_empty() && choice.key == line);
    let found = by_number.or(by_letter).or_else(|| {
        choices
            .iter()
            .find(|choice| !lower.is_empty() && (choice.key == lower || choice.label.to_lowercase() == lower))
    });
    let yes_or_no = || {
        let key = match lower.as_str() {
            "yes" => "y",
            "no" => "n",
            _ => return None,
        };
        choices.iter().find(|choice| choice.key == key)
    };
    match found.or_else(yes_or_no) {
        Some(choice) => Step::Answer(InteractionAnswer { answer: Some(choice.answer.clone()) }),
        None => Step::Ask("  please type one of the letters in brackets, or its number".to_owned()),
    }
}

fn is_address(line: &str) -> bool {
    let (scheme, rest) = line.split_once("://").unwrap_or_default();
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"))
        && !rest.is_empty()
        && !rest.contains(char::is_whitespace)
}

impl Form {
    fn line(&mut self, line: &str) -> Step {
        let Some(index) = self.next else {
            return match line.to_lowercase().as_str() {
                "y" | "yes" => self.advance(0),
                "n" | "no" => Step::Answer(form_answer(FormAction::Decline, String::new())),
                "c" | "cancel" => Step::Answer(form_answer(FormAction::Cancel, String::new())),
                _ => Step::Ask("  please type y, n or c".to_owned()),
            };
        };
        let Some(field) = self.fields.get(index) else { return self.advance(index) };
        match field.read(line) {
            Ok(Some(value)) => {
                self.content.insert(field.name.clone(), value);
                self.advance(index + 1)
            }
            Ok(None) => self.advance(index + 1),
            Err(problem) => Step::Ask(format!("  {problem}")),
        }
    }

    fn advance(&mut self, index: usize) -> Step {
        self.next = Some(index);
        if index < self.fields.len() {
            return Step::Ask(String::new());
        }
        let content = Value::Object(std::mem::take(&mut self.content)).to_string();
        Step::Answer(form_answer(FormAction::Accept, content))
    }
}

impl Field {
    fn describe(&self) -> String {
        let list = |values: &[Value]| values.iter().map(plain).collect::<Vec<_>>().join(" | ");
        let mut hints = match &self.kind {
            FieldKind::Text => Vec::new(),
            FieldKind::Integer => vec!["a whole number".to_owned()],
            FieldKind::Number => vec!["a number".to_owned()],
            FieldKind::Boolean => vec!["y or n".to_owned()],
            FieldKind::OneOf(values) => vec![list(values)],
            FieldKind::SomeOf(values) => vec![format!("several of {}, with commas", list(values))],
        };
        match &self.default {
            Some(default) => hints.push(format!("empty: {}", plain(default))),
            None if !self.required => hints.push("may be empty".to_owned()),
            None => {}
        }
        match hints.is_empty() {
            true => self.title.clone(),
            false => format!("{} ({})", self.title, hints.join("; ")),
        }
    }

    fn read(&self, line: &str) -> Result<Option<Value>, String> {
        if line.is_empty() {
            return match (&self.default, self.required) {
                (Some(default), _) => Ok(Some(default.clone())),
                (None, false) => Ok(None),
                (None, true) => Err("a value is needed here".to_owned()),
            };
        }
        let one_of = |values: &[Value], text: &str| {
            let found = values.iter().find(|value| plain(value).eq_ignore_ascii_case(text)).cloned();
            found.ok_or_else(|| format!("{text:?} is not one of the values"))
        };
        Ok(Some(match &self.kind {
            FieldKind::Text => Value::String(line.to_owned()),
            FieldKind::Integer => line.parse::<i64>().map_err(|_| "please type a whole number")?.into(),
            FieldKind::Number => {
                let number = line.parse::<f64>().map_err(|_| "please type a number")?;
                serde_json::Number::from_f64(number).ok_or("please type a number")?.into()
            }
            FieldKind::Boolean => match line.to_lowercase().as_str() {
                "y" | "yes" | "true" => Value::Bool(true),
                "n" | "no" | "false" => Value::Bool(false),
                _ => return Err("please type y or n".to_owned()),
            },
            FieldKind::OneOf(values) => one_of(values, line)?,
            FieldKind::SomeOf(values) => {
                let words = line.split(',').map(str::trim).filter(|word| !word.is_empty());
                Value::Array(words.map(|word| one_of(values, word)).collect::<Result<_, _>>()?)
            }
        }))
    }
}

/// The answer when there is nobody to ask: no.
pub(super) fn refusal(interaction: &Interaction) -> Option<InteractionAnswer> {
    Some(match interaction.question.as_ref()? {
        Question::Permission(_) | Question::Sampling(_) => {
            InteractionAnswer { answer: Some(decision(PermissionDecision::Deny, NOBODY)) }
        }
        Question::ElicitForm(_) => form_answer(FormAction::Decline, String::new()),
        Question::OpenUrl(_) => InteractionAnswer { answer: Some(url(UrlAction::Decline, "")) },
    })
}

fn permission_choices(options: &[PermissionOption]) -> Vec<Choice> {
    let mut choices: Vec<Choice> = Vec::new();
    for option in options {
        let key = match option.kind() {
            PermissionOptionKind::AllowOnce => "y",
            PermissionOptionKind::AllowAlways => "a",
            PermissionOptionKind::RejectOnce => "n",
            PermissionOptionKind::RejectAlways => "d",
            PermissionOptionKind::Unspecified => "",
        };
        let taken = |key: &str| choices.iter().any(|choice| choice.key == key);
        let key = match key {
            // For longer than this session: the same letter, only larger.
            "a" if taken("a") && !taken("A") => "A",
            key if taken(key) => "",
            key => key,
        };
        let label = one_line(&option.label, 60);
        choices.push(Choice { key, label, answer: Answer::OptionId(option.option_id.clone()) });
    }
    if choices.is_empty() {
        choices = vec![
            Choice { key: "y", label: "Allow".to_owned(), answer: decision(PermissionDecision::Allow, "") },
            Choice { key: "n", label: "Deny".to_owned(), answer: decision(PermissionDecision::Deny, "") },
        ];
    }
    choices
}

fn decision(kind: PermissionDecision, comment: &str) -> Answer {
    Answer::Decision(PermissionAnswer {
        kind: kind as i32,
        comment: comment.to_owned(),
        ..PermissionAnswer::default()
    })
}

fn url(action: UrlAction, callback_url: &str) -> Answer {
    Answer::Url(UrlAnswer { action: action as i32, callback_url: callback_url.to_owned() })
}

fn form_answer(action: FormAction, content_json: String) -> InteractionAnswer {
    InteractionAnswer { answer: Some(Answer::Form(FormAnswer { action: action as i32, content_json })) }
}

/// The fields of a flat object schema. What is not understood is asked for as text: the daemon checks the answer.
fn fields(schema_json: &str) -> Vec<Field> {
    let schema: Value = serde_json::from_str(schema_json).unwrap_or(Value::Null);
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
    properties
        .iter()
        .map(|(name, property)| {
            let text = |key: &str| property.get(key).and_then(Value::as_str);
            let title = match (text("title"), text("description")) {
                (Some(title), Some(description)) => format!("{title}, {description}"),
                (Some(title), None) => title.to_owned(),
                (None, Some(description)) => format!("{name}, {description}"),
                (None, None) => name.clone(),
            };
            Field {
                name: name.clone(),
                title: clean(&title).replace('\n', " "),
                kind: field_kind(property),
                required: required.contains(&name.as_str()),
                default: property.get("default").cloned(),
            }
        })
        .collect()
}

fn field_kind(property: &Value) -> FieldKind {
    if let Some(values) = choices_of(property) {
        return FieldKind::OneOf(values);
    }
    match property.get("type").and_then(Value::as_str) {
        Some("integer") => FieldKind::Integer,
        Some("number") => FieldKind::Number,
        Some("boolean") => FieldKind::Boolean,
        Some("array") => match property.get("items").and_then(choices_of) {
            Some(values) => FieldKind::SomeOf(values),
            None => FieldKind::Text,
        },
        _ => FieldKind::Text,
    }
}

fn choices_of(schema: &Value) -> Option<Vec<Value>> {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return Some(values.clone());
    }
    let titled = schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array()?;
    titled.iter().map(|choice| choice.get("const").cloned()).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use gander_proto::v1::{FormQuestion, PermissionQuestion, UrlQuestion};
    use serde_json::json;

    use super::*;

    fn permission(kinds: &[(&str, PermissionOptionKind)]) -> Interaction {
        let option = |(label, kind): &(&str, PermissionOptionKind)| PermissionOption {
            option_id: format!("id-{label}"),
            label: (*label).to_owned(),
            kind: *kind as i32,
            remember_scopes: Vec::new(),
        };
        let question = PermissionQuestion {
            options: kinds.iter().map(option).collect(),
            ..PermissionQuestion::default()
        };
        Interaction {
            interaction_id: "i".to_owned(),
            question: Some(Question::Permission(Box::new(question))),
            ..Interaction::default()
        }
    }

    fn option_id(step: Step) -> Option<String> {
        match step {
            Step::Answer(InteractionAnswer { answer: Some(Answer::OptionId(id)) }) => Some(id),
            Step::Ask(text) => {
                assert!(!text.is_empty());
                None
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn permission_is_answered_by_letter_number_or_word() {
        use PermissionOptionKind as Kind;
        let interaction = permission(&[
            ("Allow", Kind::AllowOnce),
            ("Always allow", Kind::AllowAlways),
            ("Deny", Kind::RejectOnce),
            ("Odd", Kind::Unspecified),
        ]);
        let mut asking = Asking::new(&interaction).unwrap();
        assert_eq!(asking.prompt(), "  [y] Allow  [a] Always allow  [n] Deny  [4] Odd? ");
        for (line, wanted) in [
            ("y", Some("id-Allow")),
            (" YES ", Some("id-Allow")),
            ("a", Some("id-Always allow")),
            ("2", Some("id-Always allow")),
            ("n", Some("id-Deny")),
            ("no", Some("id-Deny")),
            ("deny", Some("id-Deny")),
            ("4", Some("id-Odd")),
            ("", None),
            ("0", None),
            ("5", None),
            ("yy", None),
            ("sure", None),
        ] {
            assert_eq!(option_id(asking.line(line)).as_deref(), wanted, "{line:?}");
        }
    }

    #[test]
    fn for_good_is_the_capital_letter() {
        use PermissionOptionKind as Kind;
        let interaction = permission(&[
            ("Allow once", Kind::AllowOnce),
            ("Allow for this session", Kind::AllowAlways),
            ("Always allow", Kind::AllowAlways),
            ("Deny", Kind::RejectOnce),
        ]);
        let mut asking = Asking::new(&interaction).unwrap();
        assert!(asking.prompt().contains("[a] Allow for this session  [A] Always allow  [n] Deny"));
        for (line, wanted) in [("a", "id-Allow for this session"), ("A", "id-Always allow"), ("N", "id-Deny")]
        {
            assert_eq!(option_id(asking.line(line)).as_deref(), Some(wanted), "{line}");
        }
    }

    #[test]
    fn nobody_to_ask_means_no() {
        let answer = refusal(&permission(&[("Allow", PermissionOptionKind::AllowOnce)])).unwrap();
        let Some(Answer::Decision(decision)) = answer.answer else { panic!("decision") };
        assert_eq!(decision.kind(), PermissionDecision::Deny);
        let url = Interaction {
            question: Some(Question::OpenUrl(UrlQuestion::default())),
            ..Interaction::default()
        };
        let Some(Answer::Url(url)) = refusal(&url).unwrap().answer else { panic!("url") };
        assert_eq!(url.action(), UrlAction::Decline);
        assert_eq!(refusal(&Interaction::default()), None);
    }

    #[test]
    fn a_page_is_answered_with_done_no_or_its_address() {
        for (accepts, line, wanted) in [
            (true, "d", Some((UrlAction::Done, ""))),
            (true, "done", Some((UrlAction::Done, ""))),
            (true, "no", Some((UrlAction::Decline, ""))),
            (true, " http://127.0.0.1/cb?code=1 ", Some((UrlAction::Done, "http://127.0.0.1/cb?code=1"))),
            (true, "http://", None),
            (true, "http://x y", None),
            (true, "file:///x", None),
            (true, "", None),
            (false, "http://127.0.0.1/cb?code=1", None),
        ] {
            let question = UrlQuestion { accepts_callback_url: accepts, ..UrlQuestion::default() };
            let interaction =
                Interaction { question: Some(Question::OpenUrl(question)), ..Interaction::default() };
            let mut asking = Asking::new(&interaction).unwrap();
            assert_eq!(asking.prompt().contains("paste"), accepts);
            let found = match asking.line(line) {
                Step::Answer(InteractionAnswer { answer: Some(Answer::Url(answer)) }) => {
                    Some((answer.action(), answer.callback_url.clone()))
                }
                Step::Ask(_) => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(found, wanted.map(|(action, url)| (action, url.to_owned())), "{line}");
        }
    }

    #[test]
    fn forms_are_filled_in_field_by_field() {
        let schema = json!({
            "type": "object",
            "required": ["name", "size"],
            "properties": {
                "name": {"type": "string", "title": "Name"},
                "size": {"type": "string", "enum": ["S", "M"]},
                "count": {"type": "integer", "default": 3},
                "gift": {"type": "boolean"},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
            },
        });
        let form = FormQuestion { schema_json: schema.to_string(), ..FormQuestion::default() };
        let interaction =
            Interaction { question: Some(Question::ElicitForm(form)), ..Interaction::default() };
        let mut asking = Asking::new(&interaction).unwrap();
        assert!(matches!(asking.line("perhaps"), Step::Ask(text) if text.contains("y, n or c")));
        assert_eq!(asking.line("y"), Step::Ask(String::new()));
        // Whatever the order of the fields, each is asked for until the answer fits.
        let mut steps = 0;
        let answer = loop {
            steps += 1;
            assert!(steps < 20);
            let prompt = asking.prompt();
            let (wrong, right) = match prompt.trim().split([' ', ':']).next().unwrap() {
                "Name" => ("", "Ann"),
                "size" => ("XL", "m"),
                "count" => ("many", ""),
                "gift" => ("maybe", "n"),
                "tags" => ("a, c", "a,b"),
                other => panic!("{other}"),
            };
            assert!(matches!(asking.line(wrong), Step::Ask(text) if !text.is_empty()), "{prompt}");
            if let Step::Answer(answer) = asking.line(right) {
                break answer;
            }
        };
        let Some(Answer::Form(form)) = answer.answer else { panic!("form") };
        assert_eq!(form.action(), FormAction::Accept);
        let content: Value = serde_json::from_str(&form.content_json).unwrap();
        assert_eq!(
            content,
            json!({"name": "Ann", "size": "M", "count": 3, "gift": false, "tags": ["a", "b"]})
        );
    }
}
