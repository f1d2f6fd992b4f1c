//! The table of operations. A test holds it against the routes, another one against Goose 1.24's document.

use super::{
    operation::{Operation, delete, get, post, put},
    schema::{any, boolean, count, integer, list, map, nullable, object, reference, string, words},
};

/// All operations.
pub(crate) fn all() -> Vec<Operation> {
    [
        system(),
        agent(),
        chat(),
        config(),
        prompts(),
        extensions(),
        providers(),
        custom_providers(),
        sessions(),
        recipes(),
        schedules(),
    ]
    .concat()
}

fn text() -> serde_json::Value {
    nullable(string())
}

fn system() -> Vec<Operation> {
    let domains = |operation: Operation| {
        ["connect_domains", "resource_domains", "frame_domains", "base_uri_domains", "script_domains"]
            .into_iter()
            .fold(operation, |operation, name| operation.with(name, false, string()))
    };
    let wrong = "The secret in the query is missing or wrong";
    vec![
        get("/status", "Whether the server can serve").gives_other("text/plain").open(),
        get("/features", "What this build can do").gives(object([("features", map(boolean()))])).open(),
        get("/openapi.json", "This document").gives(map(any())),
        get("/mcp-ui-proxy", "The page that shows what MCP-UI draws")
            .with("secret", true, string())
            .with("url", false, string())
            .with("contentType", false, string())
            .gives_other("text/html")
            .fails(401, wrong)
            .open(),
        domains(get("/mcp-app-proxy", "The page that shows MCP Apps").with("secret", true, string()))
            .gives_other("text/html")
            .fails(401, wrong)
            .open(),
        post("/mcp-app-guest", "Keeps an app's page to be shown once")
            .takes(object([("secret?", text()), ("html", string()), ("csp?", text())]))
            .gives(object([("nonce", string())]))
            .fails(401, "The secret in the body is missing or wrong")
            .open(),
        get("/mcp-app-guest", "Shows a page that was kept")
            .with("nonce", true, string())
            .gives_other("text/html")
            .fails(404, "There is none, or it was shown already")
            .open(),
        get("/system_info", "What to tell in a report").gives(reference("SystemInfo")),
        get("/diagnostics/{session_id}", "An archive of what helps to find a fault")
            .gives_other("application/zip")
            .fails(404, "No such session"),
        post("/telemetry/event", "Reads an event and drops it")
            .takes(reference("TelemetryEventRequest"))
            .with_status(202),
        get("/tunnel/status", "Always disabled").gives(reference("TunnelInfo")),
        post("/tunnel/start", "Always refused")
            .gives(reference("TunnelInfo"))
            .fails(400, "There are no tunnels"),
        post("/tunnel/stop", "Done, as there is none"),
    ]
}

fn agent() -> Vec<Operation> {
    let session = || ("session_id", string());
    let config = || reference("ExtensionConfig");
    let results = || list(reference("ExtensionLoadResult"));
    vec![
        post("/agent/start", "Begins a session")
            .takes(object([
                ("working_dir", string()),
                ("recipe?", nullable(reference("Recipe"))),
                ("recipe_id?", text()),
                ("recipe_deeplink?", text()),
                ("extension_overrides?", nullable(list(config()))),
            ]))
            .gives(reference("Session"))
            .fails(404, "No such recipe"),
        post("/agent/resume", "Opens a session and waits for its extensions")
            .takes(object([session(), ("load_model_and_extensions", boolean())]))
            .gives(reference("ResumeAgentResponse"))
            .fails(404, "No such session"),
        post("/agent/restart", "Starts a session's extensions again")
            .takes(object([session()]))
            .gives(object([("extension_results", results())]))
            .fails(404, "No such session"),
        post("/agent/stop", "Unloads a session").takes(object([session()])).fails(404, "Not loaded"),
        post("/agent/update_working_dir", "Moves a session to another directory")
            .takes(object([session(), ("working_dir", string())]))
            .fails(404, "No such session"),
        post("/agent/update_provider", "Chooses a session's model").takes(object([
            session(),
            ("provider", string()),
            ("model?", text()),
            ("context_limit?", nullable(count())),
            ("request_params?", nullable(map(any()))),
        ])),
        post("/agent/update_from_session", "Done, as the daemon applies recipes itself")
            .takes(object([session()])),
        post("/agent/update_session", "Chooses how a session's tool calls are approved")
            .takes(object([session(), ("goose_mode?", text())]))
            .fails(404, "No such session"),
        post("/agent/set_container", "Chooses the container of a session's extensions")
            .takes(object([session(), ("container_id?", text())]))
            .fails(404, "No such session"),
        post("/agent/add_extension", "Adds an extension to a session")
            .takes(object([session(), ("config", config())]))
            .fails(500, "The extension does not start; the message says why"),
        post("/agent/remove_extension", "Removes an extension from a session")
            .takes(object([session(), ("name", string())])),
        get("/agent/tools", "The tools of a session")
            .with("session_id", true, string())
            .with("extension_name", false, string())
            .gives(list(reference("ToolInfo"))),
        post("/agent/call_tool", "Calls a tool without the model")
            .takes(object([session(), ("name", string()), ("arguments?", any())]))
            .gives(reference("CallToolResponse"))
            .fails(500, "There is no result; the message says why"),
        post("/agent/read_resource", "Reads a resource of an extension")
            .takes(object([session(), ("extension_name", string()), ("uri", string())]))
            .gives(reference("ReadResourceResponse"))
            .fails(404, "The extension gives no contents")
            .fails(500, "The resource cannot be read; the message says why"),
        get("/agent/list_apps", "Always empty")
            .with("session_id", false, string())
            .gives(reference("ListAppsResponse")),
    ]
}

fn chat() -> Vec<Operation> {
    let message = || ("user_message", reference("Message"));
    let history = || ("override_conversation?", nullable(reference("Conversation")));
    vec![
        post("/reply", "Runs a turn and streams what happens")
            .takes(object([
                message(),
                ("session_id", string()),
                ("conversation_so_far?", nullable(reference("Conversation"))),
                history(),
                ("recipe_name?", text()),
                ("recipe_version?", text()),
            ]))
            .streams(reference("MessageEvent")),
        post("/action-required/tool-confirmation", "Answers whether a tool may run")
            .takes(reference("ConfirmToolActionRequest"))
            .gives(map(any())),
        get("/sessions/{session_id}/events", "Streams what happens in a session")
            .streams(reference("MessageEvent"))
            .fails(404, "No such session"),
        post("/sessions/{session_id}/reply", "Starts a turn")
            .takes(object([("request_id", string()), message(), history()]))
            .gives(object([("request_id", string())]))
            .fails(404, "No such session"),
        post("/sessions/{session_id}/cancel", "Cancels a turn")
            .takes(object([("request_id", string())]))
            .fails(404, "No such session"),
    ]
}

fn config() -> Vec<Operation> {
    vec![
        get("/config", "All values and the extensions")
            .gives(reference("ConfigResponse"))
            .fails(422, "The file cannot be read"),
        post("/config/read", "One value; null when it is not set, masked when it is a secret")
            .takes(reference("ConfigKeyQuery"))
            .gives(any()),
        post("/config/upsert", "Sets a value or a secret")
            .takes(reference("UpsertConfigQuery"))
            .gives(string()),
        post("/config/remove", "Removes a value or a secret")
            .takes(reference("ConfigKeyQuery"))
            .gives(string()),
        get("/config/slash_commands", "What a message may start with")
            .gives(reference("SlashCommandsResponse")),
        post("/config/permissions", "Decides about tools for all sessions")
            .takes(reference("UpsertPermissionsQuery"))
            .gives(string()),
        post("/config/init", "Done, as the daemon makes its files itself").gives(string()),
        post("/config/backup", "Copies the file").gives(string()).fails(404, "There is no file"),
        post("/config/recover", "Repairs a malformed file").gives(string()),
        get("/config/validate", "Whether the file is right").gives(string()).fails(422, "What is wrong"),
    ]
}

fn prompts() -> Vec<Operation> {
    let missing = "No such template";
    vec![
        get("/config/prompts", "The templates of prompts").gives(reference("PromptsListResponse")),
        get("/config/prompts/{name}", "One template")
            .gives(reference("PromptContentResponse"))
            .fails(404, missing),
        put("/config/prompts/{name}", "Replaces a template")
            .takes(object([("content", string())]))
            .gives(string())
            .fails(404, missing),
        delete("/config/prompts/{name}", "Goes back to the built-in text")
            .gives(string())
            .fails(404, missing),
    ]
}

fn extensions() -> Vec<Operation> {
    vec![
        get("/config/extensions", "The configured extensions, and what is wrong with them")
            .gives(reference("ExtensionResponse"))
            .fails(422, "The file cannot be read"),
        post("/config/extensions", "Adds or replaces an extension; its own name gives the key")
            .takes(reference("ExtensionQuery"))
            .gives(string()),
        delete("/config/extensions/{name}", "Removes an extension, if there is one").gives(string()),
    ]
}

fn providers() -> Vec<Operation> {
    let unusable = "Unknown, not set up, or its key is refused";
    let sign_in = || reference("SetupResponse");
    vec![
        get("/config/providers", "All providers").gives(list(reference("ProviderDetails"))),
        get("/config/providers/{name}/models", "The models that a provider offers now")
            .gives(list(string()))
            .fails(400, unusable)
            .fails(429, "Asked too often")
            .fails(500, "The provider cannot be reached"),
        post("/config/providers/{name}/oauth", "Signs in with a provider")
            .gives(string())
            .fails(400, unusable),
        post("/config/check_provider", "Whether a provider works").takes(object([("provider", string())])),
        post("/config/set_provider", "Chooses the default model")
            .takes(object([("provider", string()), ("model", string())])),
        post("/config/detect-provider", "Finds out which provider a key belongs to")
            .takes(object([("api_key", string())]))
            .gives(reference("DetectProviderResponse"))
            .fails(404, "None took it"),
        post("/config/canonical-model-info", "What is known about a model; costs per million tokens")
            .takes(reference("ModelInfoQuery"))
            .gives(reference("ModelInfoResponse")),
        post("/config/model-info", "The same under its later name")
            .takes(reference("ModelInfoQuery"))
            .gives(reference("ModelInfoResponse")),
        post("/handle_openrouter", "Signs in with OpenRouter").gives(sign_in()),
        post("/handle_tetrate", "Signs in with Tetrate").gives(sign_in()),
        post("/handle_nanogpt", "Signs in with NanoGPT").gives(sign_in()),
    ]
}

fn custom_providers() -> Vec<Operation> {
    let missing = "No such provider";
    let form = || reference("UpdateCustomProviderRequest");
    vec![
        post("/config/custom-providers", "Defines a provider")
            .takes(form())
            .gives(object([("provider_name", string())])),
        get("/config/custom-providers/{id}", "A definition")
            .gives(reference("LoadedProvider"))
            .fails(404, missing),
        put("/config/custom-providers/{id}", "Replaces a definition; an empty key keeps the stored one")
            .takes(form())
            .gives(string())
            .fails(404, missing),
        delete("/config/custom-providers/{id}", "Removes a definition").gives(string()).fails(404, missing),
        get("/config/provider-catalog", "Templates for definitions")
            .with("format", false, words(&["openai", "anthropic", "ollama"]))
            .gives(list(reference("ProviderCatalogEntry"))),
        get("/config/provider-catalog/{id}", "One template")
            .gives(reference("ProviderTemplate"))
            .fails(404, "No such template"),
    ]
}

fn sessions() -> Vec<Operation> {
    let missing = "No such session";
    vec![
        get("/sessions", "Sessions with messages, latest change first")
            .gives(reference("SessionListResponse")),
        get("/sessions/insights", "Sums over all sessions").gives(reference("SessionInsights")),
        get("/sessions/search", "Sessions whose messages hold a word")
            .with("query", true, string())
            .with("limit", false, integer())
            .with("afterDate", false, string())
            .with("beforeDate", false, string())
            .gives(list(reference("Session"))),
        post("/sessions/import", "Makes a session from an exported one")
            .takes(object([("json", string())]))
            .gives(reference("Session")),
        get("/sessions/{session_id}", "A session and its conversation")
            .gives(reference("Session"))
            .fails(404, missing),
        delete("/sessions/{session_id}", "Erases a session").fails(404, missing),
        put("/sessions/{session_id}/name", "Names a session; also done when there is none")
            .takes(object([("name", string())])),
        post("/sessions/{session_id}/fork", "Copies a session or cuts it short")
            .takes(object([
                ("timestamp?", nullable(integer())),
                ("truncate", boolean()),
                ("copy", boolean()),
            ]))
            .gives(object([("sessionId", string())]))
            .fails(404, missing),
        get("/sessions/{session_id}/export", "A session as JSON text").gives(string()).fails(404, missing),
        get("/sessions/{session_id}/extensions", "The extensions of a session")
            .gives(reference("SessionExtensionsResponse"))
            .fails(404, missing),
        put(
            "/sessions/{session_id}/user_recipe_values",
            "Gives values to the parameters of a session's recipe",
        )
        .takes(object([("userRecipeValues", map(string()))]))
        .gives(reference("RecipeBody"))
        .fails(404, "No such session, or it has no recipe"),
    ]
}

fn recipes() -> Vec<Operation> {
    let missing = "No such recipe";
    let recipe = || reference("RecipeBody");
    vec![
        get("/recipes/list", "Stored recipes")
            .gives(object([("manifests", list(reference("RecipeManifest")))])),
        post("/recipes/save", "Stores a recipe")
            .takes(object([("recipe", reference("Recipe")), ("id?", text())]))
            .gives(object([("id", string()), ("file_name", string()), ("file_path", string())]))
            .fails(404, missing),
        post("/recipes/delete", "Removes a recipe")
            .takes(object([("id", string())]))
            .with_status(204)
            .fails(404, missing),
        post("/recipes/parse", "Reads a recipe's text")
            .takes(object([("content", string())]))
            .gives(recipe()),
        post("/recipes/to-yaml", "Writes a recipe as YAML")
            .takes(recipe())
            .gives(object([("yaml", string())])),
        post("/recipes/encode", "The payload of a link to a recipe")
            .takes(recipe())
            .gives(object([("deeplink", string())])),
        post("/recipes/decode", "The recipe of a link")
            .takes(object([("deeplink", string())]))
            .gives(recipe()),
        post("/recipes/scan", "Whether a recipe hides something")
            .takes(recipe())
            .gives(object([("has_security_warnings", boolean())])),
        post("/recipes/create", "Has the model write a recipe from a session")
            .takes(object([
                ("session_id", string()),
                ("author?", nullable(object([("contact?", text()), ("metadata?", text())]))),
            ]))
            .gives(object([("recipe", nullable(reference("Recipe"))), ("error", text())])),
        post("/recipes/schedule", "Sets or ends a recipe's schedule")
            .takes(object([("id", string()), ("cron_schedule?", text())]))
            .fails(404, missing),
        post("/recipes/slash-command", "Gives a recipe a command or takes it away")
            .takes(object([("id", string()), ("slash_command?", text())]))
            .fails(404, missing),
    ]
}

fn schedules() -> Vec<Operation> {
    let missing = "No such job";
    let job = || reference("ScheduledJob");
    vec![
        post("/schedule/create", "Runs a recipe at given times")
            .takes(object([("id", string()), ("recipe", reference("Recipe")), ("cron", string())]))
            .gives(job())
            .fails(409, "There is one of this name"),
        get("/schedule/list", "All jobs").gives(object([("jobs", list(job()))])),
        delete("/schedule/delete/{id}", "Removes a job").with_status(204).fails(404, missing),
        put("/schedule/{id}", "Changes a job's times")
            .takes(object([("cron", string())]))
            .gives(job())
            .fails(404, missing),
        post("/schedule/{id}/run_now", "Runs a job and waits for its end")
            .gives(object([("session_id", string())]))
            .fails(404, missing),
        post("/schedule/{id}/pause", "Pauses a job").with_status(204).fails(404, missing),
        post("/schedule/{id}/unpause", "Lets a job run again").with_status(204).fails(404, missing),
        post("/schedule/{id}/kill", "Cancels a job's run")
            .gives(object([("message", string())]))
            .fails(400, "It does not run")
            .fails(404, missing),
        get("/schedule/{id}/inspect", "A job's run")
            .gives(reference("InspectJobResponse"))
            .fails(404, missing),
        get("/schedule/{id}/sessions", "The sessions of a job's runs")
            .with("limit", true, count())
            .gives(list(reference("SessionDisplayInfo"))),
    ]
}
