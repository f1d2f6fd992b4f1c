//! What the client said it can do, read leniently: whatever is absent or malformed is not supported.

use serde_json::Value;

/// The client's capabilities, as far as they decide what is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCaps {
    /// `fs.readTextFile`.
    pub fs_read: bool,
    /// `fs.writeTextFile`.
    pub fs_write: bool,
    /// `terminal`: all five methods.
    pub terminal: bool,
    /// `auth.terminal`: runs set-up programs in a terminal.
    pub auth_terminal: bool,
    /// The older form of the same, `_meta["terminal-auth"]`.
    pub meta_terminal_auth: bool,
    /// `elicitation.form`.
    pub elicit_form: bool,
    /// `elicitation.url`.
    pub elicit_url: bool,
    /// `session.configOptions.boolean`.
    pub boolean_options: bool,
    /// `session.notices`.
    pub notices: bool,
    /// `session.compaction`.
    pub compaction: bool,
    /// `_meta.terminal_output`: shows output that the agent streams as a terminal.
    pub meta_terminal_output: bool,
    /// `_meta.goose`: a client made for Goose, which reads what Goose tells in `_meta`.
    pub goose: bool,
    /// `_meta.goose.customNotifications`: Goose's own session updates.
    pub goose_notifications: bool,
    /// Unstable parts that the client asks for: `session.fork` and so on each, or all of them at once by speaking an
    /// unstable part itself (`plan`, `subagents`), Goose's dialect (`_meta.goose`) or `_meta.unstable`.
    pub unstable: Unstable,
    /// Name and version of the client, for the log. May be empty.
    pub client: String,
}

impl ClientCaps {
    /// Reads the parameters of `initialize`.
    #[must_use]
    pub fn read(params: &Value) -> Self {
        let caps = params.get("clientCapabilities").unwrap_or(&Value::Null);
        let at = |path: &str| caps.pointer(path).is_some_and(given);
        // Version 2, from which clients come down to 1, has another name for it.
        let info = params.get("clientInfo").or_else(|| params.get("info")).unwrap_or(&Value::Null);
        let word = |key: &str| info.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, version) = (word("name"), word("version"));
        let client: String = format!("{name} {version}").trim().chars().take(100).collect();
        Self {
            fs_read: at("/fs/readTextFile"),
            fs_write: at("/fs/writeTextFile"),
            terminal: at("/terminal"),
            auth_terminal: at("/auth/terminal"),
            meta_terminal_auth: at("/_meta/terminal-auth"),
            elicit_form: at("/elicitation/form"),
            elicit_url: at("/elicitation/url"),
            boolean_options: at("/session/configOptions/boolean"),
            notices: at("/session/notices"),
            compaction: at("/session/compaction"),
            meta_terminal_output: at("/_meta/terminal_output"),
            goose: at("/_meta/goose"),
            goose_notifications: at("/_meta/goose/customNotifications"),
            unstable: Unstable::read(caps),
            client,
        }
    }

    /// Whether the client can do work for the daemon.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.fs_read || self.fs_write || self.terminal
    }
}

/// Parts of the protocol that are not stable yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unstable {
    /// `session/fork`.
    pub fork: bool,
    /// `session/archive` and `session/unarchive`.
    pub archive: bool,
    /// `session/status`.
    pub status: bool,
    /// `session/set_title`.
    pub title: bool,
    /// `_session/steering`.
    pub steering: bool,
}

impl Unstable {
    fn read(caps: &Value) -> Self {
        let at = |path: &str| caps.pointer(path).is_some_and(given);
        let all = ["/_meta/unstable", "/_meta/goose", "/plan", "/subagents"].into_iter().any(at);
        Self {
            fork: all || at("/session/fork"),
            archive: all || at("/session/archive"),
            status: all || at("/session/status"),
            title: all || at("/session/title"),
            steering: all || at("/_meta/steering"),
        }
    }
}

/// A marker object or `true` says yes; null, `false` and nonsense say no.
fn given(value: &Value) -> bool {
    matches!(value, Value::Object(_) | Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_explicit_counts() {
        let caps = ClientCaps::read(&json!({
            "clientInfo": {"name": "zed", "version": "1"},
            "clientCapabilities": {
                "fs": {"readTextFile": true, "writeTextFile": "yes"},
                "terminal": true,
                "auth": {"terminal": false},
                "elicitation": {"form": {}, "url": null},
                "session": {"notices": {}, "configOptions": {"boolean": {}}},
                "_meta": {"terminal_output": true},
            },
        }));
        assert!(caps.fs_read && caps.terminal && caps.elicit_form && caps.notices && caps.boolean_options);
        assert!(caps.meta_terminal_output && caps.is_host());
        assert!(!caps.fs_write && !caps.auth_terminal && !caps.elicit_url && !caps.compaction);
        assert_eq!(caps.client, "zed 1");
        assert_eq!(caps.unstable, Unstable::default());
        let some =
            ClientCaps::read(&json!({"clientCapabilities": {"session": {"fork": {}, "archive": null}}}));
        assert_eq!(some.unstable, Unstable { fork: true, ..Unstable::default() });
        let all = ClientCaps::read(&json!({"clientCapabilities": {"_meta": {"goose": {}}}})).unstable;
        assert!(all.fork && all.archive && all.status && all.title && all.steering);
        assert_eq!(
            ClientCaps::read(&json!({"clientCapabilities": {"elicitation": {}}})),
            ClientCaps::default()
        );
        assert_eq!(ClientCaps::read(&json!([1])), ClientCaps::default());
    }
}
