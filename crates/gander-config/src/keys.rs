//! The documented settings, and which names are secrets.
//!
//! The catalogue is what `config show` lists even when nothing is set. Keys that are not in it are stored and
//! served all the same: the config file belongs to more programs than this one.

use serde_json::Value;

pub use crate::forms::Form;

/// Keys with a structure of their own. They are read from files only, never from the environment, and edited
/// entry by entry.
pub const EXTENSIONS_KEY: &str = "extensions";
/// The provider id used for new sessions.
pub const PROVIDER_KEY: &str = "GOOSE_PROVIDER";
/// The model id used for new sessions.
pub const MODEL_KEY: &str = "GOOSE_MODEL";

/// One documented setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownKey {
    /// Name in the config file.
    pub key: &'static str,
    /// One or two sentences for people.
    pub description: &'static str,
    /// The default as JSON text, if there is one.
    pub default: Option<&'static str>,
    /// Stored in the secrets file and never shown.
    pub secret: bool,
    /// What it may hold.
    pub form: Form,
}

impl KnownKey {
    /// The built-in default.
    pub fn default_value(&self) -> Option<Value> {
        self.default.and_then(|text| serde_json::from_str(text).ok())
    }
}

/// The documented settings, in the order in which they are shown.
pub const KNOWN_KEYS: &[KnownKey] = &[
    plain(PROVIDER_KEY, "Provider for new sessions, for example \"openai\" or \"demo\".", None).holding(Form::Text),
    plain(MODEL_KEY, "Model for new sessions, as the provider names it.", None).holding(Form::Text),
    plain(
        "GOOSE_MODE",
        "When tools may run: auto, approve, smart_approve or chat. Sessions without a mode of their own follow it at once.",
        Some("\"auto\""),
    ).holding(Form::Word(&["auto", "approve", "smart_approve", "chat"])),
    plain("GOOSE_MAX_TURNS", "Most model calls within one turn, then the turn ends.", Some("1000")).holding(Form::Count(1)),
    plain(
        "GOOSE_FAST_MODEL",
        "Model of the same provider for small tasks such as titles. Unset: the model itself.",
        None,
    ).holding(Form::Text),
    plain(
        "GOOSE_CONTEXT_LIMIT",
        "Context window in tokens, where it differs from what is known of the model.",
        None,
    ).holding(Form::Count(1)),
    plain("GOOSE_MAX_TOKENS", "Most tokens of one answer of the model.", None).holding(Form::Count(1)),
    plain("GOOSE_TEMPERATURE", "Temperature of the model, 0 to 2. Unset: the provider's own.", None).holding(Form::Number(0.0, 2.0)),
    plain(
        "GOOSE_THINKING_EFFORT",
        "How much models think before they speak, for those that can choose: off, low, medium, high or max. Unset: the provider's own.",
        None,
    ).holding(Form::Word(&["off", "low", "medium", "high", "max"])),
    plain(
        "GOOSE_AUTO_COMPACT_THRESHOLD",
        "Share of the context window that may be used before the conversation is summarized; 0 or 1 switches it off.",
        Some("0.8"),
    ).holding(Form::Number(0.0, 1.0)),
    plain(
        "GOOSE_MAX_TOOL_RESPONSE_SIZE",
        "Longest text of a tool result that the model gets whole, in bytes. Longer ones go to a file that it can read.",
        Some("200000"),
    ).holding(Form::Count(1)),
    plain("GOOSE_DISABLE_SESSION_NAMING", "Keeps the model from naming sessions.", Some("false")).holding(Form::Flag),
    plain(
        "CONTEXT_FILE_NAMES",
        "Names of files with hints for the model, in the project and in the config directory.",
        Some("[\".goosehints\", \"AGENTS.md\"]"),
    ).holding(Form::Texts),
    plain(
        "gander.permission_judge",
        "Mode smart_approve asks the model whether a call only reads, where the tool does not say so.",
        Some("false"),
    ).holding(Form::Flag),
    plain(
        "gander.max_tool_repetitions",
        "The same call with the same result, one after the other: before the one with this number a person is asked. 0: nobody is.",
        Some("3"),
    ).holding(Form::Count(0)),
    plain("slash_commands", "Recipes with a command: a list of {command, recipe_path}.", None),
    plain(
        "gander.listen",
        "Address of `gander serve`, as host:port. A background daemon listens on its socket only.",
        Some("\"127.0.0.1:7717\""),
    ).holding(Form::Address),
    plain(
        "gander.linger",
        "How long a background daemon stays after its last client has gone: seconds such as \"90s\", \"schedules\" (while any is active) or \"always\".",
        Some("\"60s\""),
    ).holding(Form::SecondsOr(&["schedules", "always"])),
    plain(
        "gander.editor_terminals",
        "Whether commands of the tool shell run in terminals of an attached editor: auto (where it offers them and shows no output of ours as a terminal), always (where it offers them) or never.",
        Some("\"auto\""),
    ).holding(Form::Word(&["auto", "always", "never"])),
    plain(
        "gander.auto_model",
        "Whether to look for a model when none is configured: a single provider key, a model server on this machine, an installed agent.",
        Some("true"),
    ).holding(Form::Flag),
    plain(
        "gander.secret_store",
        "Where secrets are stored: \"file\" (secrets.yaml, mode 0600) or \"keyring\" (the operating system's). A change moves them.",
        Some("\"file\""),
    ).holding(Form::Word(&["file", "keyring"])),
    plain(
        "GOOSE_DISABLE_KEYRING",
        "Any value but false keeps away from the keyring, whatever gander.secret_store says.",
        None,
    ),
    plain(
        "gander.secret_commands",
        "Commands that print secrets, by the secret's name: a text for sh or a list of words. Run when the secret is needed.",
        None,
    ),
    plain(
        "gander.container_exec",
        "What runs a command in a container, for example podman exec -i. Unset: docker exec -i.",
        None,
    ).holding(Form::Text),
    plain("GOOSE_RECIPE_PATH", "More folders with recipes, separated by colons.", None).holding(Form::Text),
    plain("GOOSE_SUBAGENT_MAX_TURNS", "Most model calls within one turn of a sub-agent.", None)
        .holding(Form::Count(1)),
    plain("GOOSE_MAX_BACKGROUND_TASKS", "Sub-agents of one turn that work at once, 1 to 64.", None)
        .holding(Form::Count(1)),
    plain(
        "OPENAI_HOST",
        "Base address of the OpenAI-compatible service, without the path. The key is sent to this host.",
        None,
    ).holding(Form::Text),
    plain(
        "OPENAI_BASE_URL",
        "Full base address of the OpenAI-compatible service, path included. The key is sent to this host.",
        None,
    ).holding(Form::Text),
    KnownKey {
        key: "OPENAI_API_KEY",
        description: "Key of the OpenAI-compatible service.",
        default: None,
        secret: true,
        form: Form::Any,
    },
];

const fn plain(key: &'static str, description: &'static str, default: Option<&'static str>) -> KnownKey {
    KnownKey { key, description, default, secret: false, form: Form::Any }
}

impl KnownKey {
    const fn holding(self, form: Form) -> Self {
        Self { form, ..self }
    }
}

/// The catalogue's entry for `key`.
pub fn known_key(key: &str) -> Option<&'static KnownKey> {
    KNOWN_KEYS.iter().find(|known| known.key == key)
}

/// Whether a setting or variable of this name holds a secret: what the catalogue says, else by the words in the
/// name (`…_API_KEY`, `…_TOKEN`, `…PASSWORD…`, `…SECRET…`). Used to keep secrets out of plain values and out of
/// the environment of child processes, so it errs on the side of "yes".
pub fn is_secret_name(name: &str) -> bool {
    if let Some(known) = known_key(name) {
        return known.secret;
    }
    let upper = name.to_ascii_uppercase();
    let words: Vec<&str> =
        upper.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let any = words.iter().any(|word| {
        matches!(
            *word,
            "SECRET"
                | "SECRETS"
                | "PASSWORD"
                | "PASSWD"
                | "PASSPHRASE"
                | "CREDENTIAL"
                | "CREDENTIALS"
                | "APIKEY"
        )
    });
    let pair = words.windows(2).any(|pair| {
        matches!(pair, ["API" | "ACCESS" | "PRIVATE" | "SECRET" | "ENCRYPTION" | "AUTH" | "MASTER", "KEY"])
    });
    any || pair || matches!(words.last(), Some(&("TOKEN" | "PAT")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_json_and_keys_unique() {
        for (index, known) in KNOWN_KEYS.iter().enumerate() {
            assert_eq!(known.default.is_some(), known.default_value().is_some(), "{}", known.key);
            assert!(!known.description.is_empty());
            assert!(KNOWN_KEYS[index + 1..].iter().all(|other| other.key != known.key));
            assert_eq!(is_secret_name(known.key), known.secret);
        }
    }

    #[test]
    fn secret_names() {
        for name in [
            "ANTHROPIC_API_KEY",
            "GOOSE_SERVER__SECRET_KEY",
            "GITHUB_TOKEN",
            "aws_secret_access_key",
            "DB_PASSWORD",
            "my-api-key",
            "GITHUB_PAT",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "GOOSE_MAX_TOKENS",
            "GOOSE_MODEL",
            "KEYBOARD",
            "PATH",
            "GOOSE_TOKEN_BUDGET",
            "keyring",
            "SSH_AUTH_SOCK",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
