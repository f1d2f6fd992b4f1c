//! The shapes of bodies, by name. They say what the adapter sends and accepts, which is a little wider on the way in
//! than on the way out; further fields are allowed in both.

use serde_json::{Map, Value, json};

use super::schema::{
    any, boolean, count, integer, list, map, nullable, number, object, one_of, reference, string, word, words,
};

/// All named schemas.
pub(super) fn all() -> Map<String, Value> {
    let mut all = Map::new();
    let groups = [basics(), extensions(), messages(), sessions(), providers(), recipes()];
    for (name, schema) in groups.into_iter().flatten() {
        all.insert(name.to_owned(), schema);
    }
    all
}

fn basics() -> Vec<(&'static str, Value)> {
    vec![
        ("ErrorResponse", object([("message", string())])),
        ("ConfigResponse", object([("config", map(any()))])),
        ("ConfigKeyQuery", object([("key", string()), ("is_secret", boolean())])),
        ("UpsertConfigQuery", object([("key", string()), ("value", any()), ("is_secret", boolean())])),
        ("PermissionLevel", words(&["always_allow", "ask_before", "never_allow"])),
        (
            "UpsertPermissionsQuery",
            object([(
                "tool_permissions",
                list(object([("tool_name", string()), ("permission", reference("PermissionLevel"))])),
            )]),
        ),
        (
            "SlashCommandsResponse",
            object([(
                "commands",
                list(object([
                    ("command", string()),
                    ("help", string()),
                    ("command_type", words(&["Builtin", "Recipe"])),
                ])),
            )]),
        ),
        (
            "Template",
            object([
                ("name", string()),
                ("description", string()),
                ("default_content", string()),
                ("user_content", nullable(string())),
                ("is_customized", boolean()),
            ]),
        ),
        ("PromptsListResponse", object([("prompts", list(reference("Template")))])),
        (
            "PromptContentResponse",
            object([
                ("name", string()),
                ("content", string()),
                ("default_content", string()),
                ("is_customized", boolean()),
            ]),
        ),
        (
            "SystemInfo",
            object([
                ("app_version", string()),
                ("os", string()),
                ("os_version", string()),
                ("architecture", string()),
                ("provider", nullable(string())),
                ("model", nullable(string())),
                ("enabled_extensions", list(string())),
            ]),
        ),
        (
            "TunnelInfo",
            object([
                ("state", words(&["idle", "starting", "running", "error", "disabled"])),
                ("url", string()),
                ("hostname", string()),
                ("secret", string()),
            ]),
        ),
        ("SetupResponse", object([("success", boolean()), ("message", string())])),
        ("TelemetryEventRequest", object([("event_name", string()), ("properties?", map(any()))])),
        (
            "ListAppsResponse",
            object([("apps", list(object([("uri", string()), ("name", string()), ("mimeType", string())])))]),
        ),
    ]
}

/// One variant of an extension's configuration: its type, its own fields and those that all have.
fn extension<const N: usize>(kind: &str, fields: [(&str, Value); N]) -> Value {
    let mut schema = object(fields);
    let common = object([("type", word(kind)), ("name", string()), ("description?", nullable(string()))]);
    if let (Some(into), Value::Object(from)) = (schema["properties"].as_object_mut(), &common["properties"]) {
        into.extend(from.clone());
    }
    let mut required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
    required.extend(["type", "name"].map(Value::from));
    schema["required"] = required.into();
    schema
}

/// Fields of several kinds of extension. Null means "not set", as in Goose's files.
fn extension_fields() -> [(&'static str, Value); 4] {
    [
        ("timeout?", nullable(count())),
        ("bundled?", nullable(boolean())),
        ("available_tools?", nullable(list(string()))),
        ("display_name?", nullable(string())),
    ]
}

fn extensions() -> Vec<(&'static str, Value)> {
    let [timeout, bundled, tools, display_name] = extension_fields();
    let strings = || nullable(list(string()));
    let (envs, env_keys) = (("envs?", nullable(map(string()))), ("env_keys?", strings()));
    let stdio = extension(
        "stdio",
        [
            ("cmd", string()),
            ("args?", strings()),
            envs.clone(),
            env_keys.clone(),
            timeout.clone(),
            bundled.clone(),
            tools.clone(),
        ],
    );
    let http = extension(
        "streamable_http",
        [
            ("uri", string()),
            ("headers?", nullable(map(string()))),
            envs,
            env_keys,
            timeout.clone(),
            bundled.clone(),
            tools.clone(),
        ],
    );
    let builtin =
        extension("builtin", [display_name.clone(), timeout.clone(), bundled.clone(), tools.clone()]);
    let platform = extension("platform", [display_name, bundled.clone(), tools.clone()]);
    let python = extension(
        "inline_python",
        [("code", string()), ("dependencies?", strings()), timeout, tools.clone()],
    );
    let tool = object([("name", string()), ("inputSchema", map(any()))]);
    let frontend =
        extension("frontend", [("tools", list(tool)), ("instructions?", nullable(string())), bundled, tools]);
    let sse = extension("sse", [("uri?", nullable(string()))]);
    let entry = object([("enabled", boolean())]);
    vec![
        ("ExtensionConfig", one_of([sse, stdio, builtin, platform, http, frontend, python])),
        ("ExtensionEntry", json!({ "allOf": [reference("ExtensionConfig"), entry] })),
        (
            "ExtensionResponse",
            object([("extensions", list(reference("ExtensionEntry"))), ("warnings", list(string()))]),
        ),
        (
            "ExtensionQuery",
            object([("name", string()), ("config", reference("ExtensionConfig")), ("enabled", boolean())]),
        ),
        (
            "ExtensionLoadResult",
            object([("name", string()), ("success", boolean()), ("error?", nullable(string()))]),
        ),
        ("SessionExtensionsResponse", object([("extensions", list(reference("ExtensionConfig")))])),
        (
            "ToolInfo",
            object([
                ("name", string()),
                ("description", string()),
                ("parameters", list(string())),
                ("permission", nullable(reference("PermissionLevel"))),
                ("input_schema", map(any())),
            ]),
        ),
        (
            "CallToolResponse",
            object([
                ("content", list(reference("Content"))),
                ("is_error", boolean()),
                ("isError", boolean()),
                ("structured_content?", any()),
                ("structuredContent?", any()),
                ("_meta?", any()),
            ]),
        ),
        (
            "ReadResourceResponse",
            object([
                ("uri", string()),
                ("mimeType?", nullable(string())),
                ("text", string()),
                ("_meta?", nullable(map(any()))),
            ]),
        ),
    ]
}

/// One kind of content, told by `type`.
fn content<const N: usize>(kind: &str, fields: [(&str, Value); N]) -> Value {
    let mut schema = object(fields);
    schema["properties"]["type"] = word(kind);
    let mut required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
    required.push("type".into());
    schema["required"] = required.into();
    schema
}

/// Goose's `Result`: a value or a text.
fn outcome(value: Value) -> Value {
    json!({ "oneOf": [
        object([("status", word("success")), ("value", value)]),
        object([("status", word("error")), ("error", string())]),
    ]})
}

fn message_content() -> Value {
    let call = object([("name", string()), ("arguments?", any())]);
    let result = object([("content", list(reference("Content"))), ("isError?", nullable(boolean()))]);
    let asked = json!({ "oneOf": [
        object([
            ("actionType", word("toolConfirmation")),
            ("id", string()),
            ("toolName", string()),
            ("arguments", any()),
            ("prompt?", nullable(string())),
        ]),
        object([
            ("actionType", word("elicitation")),
            ("id", string()),
            ("message", string()),
            ("requested_schema", any()),
        ]),
        object([("actionType", word("elicitationResponse")), ("id", string()), ("user_data", any())]),
    ]});
    let request = [("id", string()), ("toolCall", outcome(call))];
    one_of([
        content("text", [("text", string())]),
        content("image", [("data", string()), ("mimeType", string())]),
        content("toolRequest", request.clone()),
        content("toolResponse", [("id", string()), ("toolResult", outcome(result))]),
        content(
            "toolConfirmationRequest",
            [("id", string()), ("toolName", string()), ("arguments", any()), ("prompt?", nullable(string()))],
        ),
        content("actionRequired", [("data", asked)]),
        content("frontendToolRequest", request),
        content("thinking", [("thinking", string()), ("signature", string())]),
        content("redactedThinking", [("data", string())]),
        content(
            "systemNotification",
            [
                ("notificationType", words(&["thinkingMessage", "inlineMessage", "creditsExhausted"])),
                ("msg", string()),
                ("data?", any()),
            ],
        ),
        content("reasoning", [("text", string())]),
    ])
}

fn messages() -> Vec<(&'static str, Value)> {
    let tokens = || integer();
    vec![
        (
            "Content",
            one_of([
                content("text", [("text", string())]),
                content("image", [("data", string()), ("mimeType", string())]),
                content("audio", [("data", string()), ("mimeType", string())]),
                content("resource", [("resource", object([("uri", string())]))]),
                content("resource_link", [("uri", string()), ("name", string())]),
            ]),
        ),
        ("MessageContent", message_content()),
        ("MessageMetadata", object([("userVisible", boolean()), ("agentVisible", boolean())])),
        (
            "Message",
            object([
                ("id?", nullable(string())),
                ("role", words(&["user", "assistant"])),
                ("created", integer()),
                ("content", list(reference("MessageContent"))),
                ("metadata", reference("MessageMetadata")),
            ]),
        ),
        ("Conversation", list(reference("Message"))),
        (
            "TokenState",
            object([
                ("inputTokens", tokens()),
                ("outputTokens", tokens()),
                ("totalTokens", tokens()),
                ("accumulatedInputTokens", tokens()),
                ("accumulatedOutputTokens", tokens()),
                ("accumulatedTotalTokens", tokens()),
                ("accumulatedCost?", nullable(number())),
            ]),
        ),
        ("MessageEvent", message_event()),
        (
            "ConfirmToolActionRequest",
            object([
                ("id", string()),
                ("action", words(&["always_allow", "allow_once", "cancel", "deny_once", "always_deny"])),
                ("sessionId", string()),
                ("principalType?", nullable(words(&["Tool", "Extension"]))),
            ]),
        ),
    ]
}

fn message_event() -> Value {
    let state = || ("token_state", reference("TokenState"));
    one_of([
        content("Message", [("message", reference("Message")), state()]),
        content("Error", [("error", string())]),
        content("Finish", [("reason", string()), state()]),
        content("ModelChange", [("model", string()), ("mode", string())]),
        content("Notification", [("request_id", string()), ("message", map(any()))]),
        content("UpdateConversation", [("conversation", reference("Conversation"))]),
        content("ActiveRequests", [("request_ids", list(string()))]),
        content("Ping", []),
    ])
}

fn sessions() -> Vec<(&'static str, Value)> {
    let tokens = || nullable(integer());
    let text = || nullable(string());
    vec![
        (
            "ModelConfig",
            object([
                ("model_name", string()),
                ("context_limit", nullable(count())),
                ("temperature", nullable(number())),
                ("max_tokens", nullable(integer())),
                ("toolshim", boolean()),
                ("toolshim_model", text()),
                ("request_params?", nullable(map(any()))),
            ]),
        ),
        (
            "Session",
            object([
                ("id", string()),
                ("working_dir", string()),
                ("name", string()),
                ("user_set_name", boolean()),
                ("session_type", string()),
                ("created_at", string()),
                ("updated_at", string()),
                ("extension_data", map(any())),
                ("total_tokens", tokens()),
                ("input_tokens", tokens()),
                ("output_tokens", tokens()),
                ("accumulated_total_tokens", tokens()),
                ("accumulated_input_tokens", tokens()),
                ("accumulated_output_tokens", tokens()),
                ("schedule_id", text()),
                ("recipe", nullable(reference("Recipe"))),
                ("user_recipe_values", nullable(map(string()))),
                ("conversation", nullable(reference("Conversation"))),
                ("message_count", count()),
                ("provider_name", text()),
                ("model_config", nullable(reference("ModelConfig"))),
                ("accumulated_cost", nullable(number())),
                ("project_id", text()),
            ]),
        ),
        ("SessionListResponse", object([("sessions", list(reference("Session")))])),
        ("SessionInsights", object([("totalSessions", count()), ("totalTokens", integer())])),
        (
            "ResumeAgentResponse",
            object([
                ("session", reference("Session")),
                ("extension_results?", nullable(list(reference("ExtensionLoadResult")))),
            ]),
        ),
        (
            "SessionDisplayInfo",
            object([
                ("id", string()),
                ("name", string()),
                ("createdAt", string()),
                ("workingDir", string()),
                ("scheduleId", text()),
                ("messageCount", count()),
                ("totalTokens", tokens()),
                ("inputTokens", tokens()),
                ("outputTokens", tokens()),
                ("accumulatedTotalTokens", tokens()),
                ("accumulatedInputTokens", tokens()),
                ("accumulatedOutputTokens", tokens()),
            ]),
        ),
    ]
}

fn providers() -> Vec<(&'static str, Value)> {
    let cost = || nullable(number());
    let text = || nullable(string());
    let key = object([
        ("name", string()),
        ("required", boolean()),
        ("secret", boolean()),
        ("default", text()),
        ("oauth_flow", boolean()),
        ("primary", boolean()),
    ]);
    let metadata = object([
        ("name", string()),
        ("display_name", string()),
        ("description", string()),
        ("default_model", string()),
        ("known_models", list(reference("ModelInfo"))),
        ("model_doc_link", string()),
        ("config_keys", list(key)),
        ("allows_unlisted_models", boolean()),
    ]);
    let template = [
        ("id", string()),
        ("name", string()),
        ("format", string()),
        ("api_url", string()),
        ("doc_url", string()),
        ("env_var", string()),
    ];
    let [id, name, format, api_url, doc_url, env_var] = template;
    vec![
        (
            "ModelInfo",
            object([
                ("name", string()),
                ("context_limit", count()),
                ("input_token_cost?", cost()),
                ("output_token_cost?", cost()),
                ("currency?", text()),
                ("supports_cache_control?", nullable(boolean())),
            ]),
        ),
        (
            "ProviderDetails",
            object([
                ("name", string()),
                ("is_configured", boolean()),
                ("provider_type", words(&["Preferred", "Builtin", "Declarative", "Custom"])),
                ("metadata", metadata),
            ]),
        ),
        ("LoadedProvider", loaded_provider()),
        (
            "UpdateCustomProviderRequest",
            object([
                ("engine", string()),
                ("display_name", string()),
                ("api_url", string()),
                ("base_path?", text()),
                ("catalog_provider_id?", text()),
                ("api_key", string()),
                ("models", list(string())),
                ("supports_streaming?", nullable(boolean())),
                ("headers?", nullable(map(string()))),
                ("requires_auth?", boolean()),
            ]),
        ),
        ("DetectProviderResponse", object([("provider_name", string()), ("models", list(string()))])),
        ("ModelInfoQuery", object([("provider", string()), ("model", string())])),
        ("ModelInfoResponse", model_info()),
        (
            "ProviderCatalogEntry",
            object([
                id.clone(),
                name.clone(),
                format.clone(),
                api_url.clone(),
                doc_url.clone(),
                env_var.clone(),
                ("model_count", count()),
            ]),
        ),
        (
            "ProviderTemplate",
            object([
                id,
                name,
                format,
                api_url,
                doc_url,
                env_var,
                ("supports_streaming", boolean()),
                ("models", list(object([("id", string()), ("name", string()), ("context_limit", count())]))),
            ]),
        ),
    ]
}

fn loaded_provider() -> Value {
    let config = object([
        ("name", string()),
        ("engine", words(&["openai", "ollama", "anthropic"])),
        ("display_name", string()),
        ("description?", nullable(string())),
        ("api_key_env", string()),
        ("base_url", string()),
        ("models", list(reference("ModelInfo"))),
        ("headers?", nullable(map(string()))),
        ("timeout_seconds?", nullable(count())),
        ("supports_streaming?", nullable(boolean())),
        ("requires_auth", boolean()),
    ]);
    object([("config", config), ("is_editable", boolean())])
}

fn model_info() -> Value {
    let cost = || nullable(number());
    let facts = object([
        ("provider", string()),
        ("model", string()),
        ("context_limit", count()),
        ("max_output_tokens", nullable(count())),
        ("input_token_cost", cost()),
        ("output_token_cost", cost()),
        ("cache_read_token_cost", cost()),
        ("cache_write_token_cost", cost()),
        ("currency", string()),
    ]);
    object([("model_info", nullable(facts)), ("source", string())])
}

fn recipes() -> Vec<(&'static str, Value)> {
    let text = || nullable(string());
    vec![
        (
            "Recipe",
            object([
                ("version?", string()),
                ("title", string()),
                ("description", string()),
                ("instructions?", text()),
                ("prompt?", text()),
                ("extensions?", nullable(list(reference("ExtensionConfig")))),
                ("settings?", nullable(map(any()))),
                ("activities?", nullable(list(string()))),
                ("author?", nullable(map(any()))),
                ("parameters?", nullable(list(map(any())))),
                ("response?", nullable(map(any()))),
                ("sub_recipes?", nullable(list(map(any())))),
                ("retry?", nullable(map(any()))),
            ]),
        ),
        ("RecipeBody", object([("recipe", reference("Recipe"))])),
        ("RecipeManifest", recipe_manifest()),
        (
            "ScheduledJob",
            object([
                ("id", string()),
                ("source", string()),
                ("cron", string()),
                ("last_run", text()),
                ("currently_running", boolean()),
                ("paused", boolean()),
                ("current_session_id", text()),
                ("process_start_time", text()),
            ]),
        ),
        (
            "InspectJobResponse",
            object([
                ("sessionId", text()),
                ("processStartTime", text()),
                ("runningDurationSeconds", nullable(count())),
            ]),
        ),
    ]
}

fn recipe_manifest() -> Value {
    object([
        ("id", string()),
        ("recipe", reference("Recipe")),
        ("file_path", string()),
        ("last_modified", string()),
        ("schedule_cron", nullable(string())),
        ("slash_command", nullable(string())),
    ])
}
