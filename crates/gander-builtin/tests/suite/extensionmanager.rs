//! `extensionmanager`: the tools, over a manager that writes down what is asked of it.

use std::sync::{Arc, Mutex};

use futures::{FutureExt as _, future, future::BoxFuture};
use gander_builtin::{
    AvailableExtension, Body, ExtensionManager, HookError, ListedResource, ResourceContent,
};
use serde_json::json;

use crate::link::{BOTH, KILLED, Place};

/// One session with `git`, which has three resources, and without `maps`.
#[derive(Default)]
struct Manager {
    asked: Mutex<Vec<String>>,
}

impl Manager {
    fn asked(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

impl ExtensionManager for Manager {
    fn search(&self) -> BoxFuture<'_, Result<Vec<AvailableExtension>, HookError>> {
        let extension = |name: &str, description: &str, enabled, active| AvailableExtension {
            name: name.into(),
            description: description.into(),
            enabled,
            active,
        };
        let found = vec![extension("git", "", true, true), extension("maps", "Finds places", false, false)];
        future::ready(Ok(found)).boxed()
    }

    fn enable<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HookError>> {
        self.asked(format!("enable {name}"));
        match name {
            "maps" => future::ready(Ok(())).boxed(),
            "slow" => future::pending().boxed(),
            _ => future::ready(Err(HookError::new(format!("{name} is not configured")))).boxed(),
        }
    }

    fn disable<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HookError>> {
        self.asked(format!("disable {name}"));
        future::ready(Ok(())).boxed()
    }

    fn list_resources<'a>(
        &'a self,
        extension: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<ListedResource>, HookError>> {
        self.asked(format!("list {extension:?}"));
        let resource = ListedResource {
            extension: "git".into(),
            uri: "git://log".into(),
            name: "Log".into(),
            description: "Commits".into(),
            mime_type: "text/plain".into(),
        };
        let listed = if extension == Some("maps") { Vec::new() } else { vec![resource] };
        future::ready(Ok(listed)).boxed()
    }

    fn read_resource<'a>(
        &'a self,
        uri: &'a str,
        extension: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<ResourceContent>, HookError>> {
        self.asked(format!("read {uri} {extension:?}"));
        let part =
            |mime_type: &str, body| ResourceContent { uri: uri.into(), mime_type: mime_type.into(), body };
        let contents = match uri {
            "git://log" => vec![
                part("text/plain", Body::Text("first\n".into())),
                part("image/png", Body::Bytes(vec![1, 2, 3])),
                part("application/zip", Body::Bytes(vec![0; 10])),
            ],
            "git://long" => vec![part("", Body::Text("é".repeat(200_000))), part("", Body::Text("x".into()))],
            "git://empty" => Vec::new(),
            _ => return future::ready(Err(HookError::new(format!("nobody has {uri}")))).boxed(),
        };
        future::ready(Ok(contents)).boxed()
    }
}

fn place() -> (Place, Arc<Manager>) {
    let (mut place, manager) = (Place::new(), Arc::new(Manager::default()));
    place.context.manager = Some(manager.clone());
    (place, manager)
}

#[tokio::test]
async fn extensions_are_found_enabled_and_disabled() {
    for link in BOTH {
        let (place, manager) = place();
        let mut client = place.connect_to("extensionmanager", link).await;
        let found = client.call("search_available_extensions", json!({})).await.ok();
        assert_eq!(
            found.text,
            "Extensions that can be enabled:\n- maps: Finds places\n\nExtensions of this session:\n- git\n"
        );
        let extensions = json!([
            {"name": "git", "description": "", "enabled": true, "active": true},
            {"name": "maps", "description": "Finds places", "enabled": false, "active": false},
        ]);
        assert_eq!(found.data, json!({ "extensions": extensions }));

        let manage = |action: &str, name: &str| json!({"action": action, "extension_name": name});
        let enabled = client.call("manage_extensions", manage("enable", "maps")).await.ok();
        assert_eq!(enabled.text, "The extension maps is enabled for this session.");
        assert_eq!(enabled.data, json!({"extension_name": "maps", "active": true}));
        let disabled = client.call("manage_extensions", manage("disable", " git ")).await.ok();
        assert_eq!(disabled.data, json!({"extension_name": "git", "active": false}));
        client.call("manage_extensions", manage("enable", "what")).await.error("what is not configured");
        client.call("manage_extensions", manage("disable", "extensionmanager")).await.error("itself");
        client.call("manage_extensions", manage("restart", "git")).await.error("unknown variant `restart`");
        client.call("manage_extensions", manage("enable", " ")).await.error("extension_name: it is empty");
        assert_eq!(*manager.asked.lock().unwrap(), ["enable maps", "disable git", "enable what"]);
    }
}

#[tokio::test]
async fn resources_are_listed_and_read() {
    for link in BOTH {
        let (place, manager) = place();
        let mut client = place.connect_to("extensionmanager", link).await;
        let listed = client.call("list_resources", json!({})).await.ok();
        assert_eq!(listed.text, "git - Log, uri: (git://log)\n");
        assert_eq!(listed.data["resources"][0]["mime_type"], "text/plain");
        let none = client.call("list_resources", json!({"extension_name": "maps"})).await.ok();
        assert_eq!(none.text, "The extension maps offers no resources.");

        let arguments = json!({"uri": "git://log", "extension_name": "git"});
        let parts = client.call("read_resource", arguments).await.ok().raw["content"].clone();
        assert_eq!(parts[0]["text"], "git://log\n\nfirst\n");
        assert_eq!(
            (parts[2]["type"].as_str(), parts[2]["data"].as_str(), parts[2]["mimeType"].as_str()),
            (Some("image"), Some("AQID"), Some("image/png"))
        );
        assert_eq!(
            parts[3]["text"],
            "git://log\n\n[application/zip, 10 bytes, which cannot be shown as text]"
        );
        let long = client.call("read_resource", json!({"uri": "git://long"})).await.ok();
        assert!(long.text.ends_with("é\n[... 137856 more bytes are left out]"));
        assert_eq!(long.raw["content"][1]["text"], "git://long\n\n\n[... 1 more bytes are left out]");
        let empty = client.call("read_resource", json!({"uri": "git://empty"})).await.ok();
        assert_eq!(empty.text, "git://empty is empty.");
        client.call("read_resource", json!({"uri": "x://y"})).await.error("nobody has x://y");
        client.call("read_resource", json!({"uri": ""})).await.error("uri: it is empty");
        client.call("list_resources", json!({"extension": "git"})).await.error("unknown field `extension`");
        let asked = manager.asked.lock().unwrap().clone();
        assert_eq!(asked[..3], ["list None", "list Some(\"maps\")", "read git://log Some(\"git\")"]);
    }
}

#[tokio::test]
async fn a_call_that_waits_ends_with_its_server() {
    for link in BOTH {
        let (place, _) = place();
        let mut client = place.connect_to("extensionmanager", link).await;
        client.start("manage_extensions", json!({"action": "enable", "extension_name": "slow"})).await;
        client.call("search_available_extensions", json!({})).await.ok();
        assert!(client.server.take().unwrap().shutdown(KILLED).await);
    }
}

#[tokio::test]
async fn outside_of_a_session_there_is_nothing_to_manage() {
    for link in BOTH {
        let mut client = Place::new().connect_to("extensionmanager", link).await;
        let calls = [
            ("search_available_extensions", json!({})),
            ("manage_extensions", json!({"action": "enable", "extension_name": "git"})),
            ("list_resources", json!({})),
            ("read_resource", json!({"uri": "git://log"})),
        ];
        for (tool, arguments) in calls {
            client.call(tool, arguments).await.error("does not run inside a session");
        }
    }
}
