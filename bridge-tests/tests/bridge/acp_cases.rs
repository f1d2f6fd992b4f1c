//! The cases that clients of the Agent Client Protocol check agents with, each findable by its name: the modules and the
//! function are the name's words, so `session.prompt.single_turn` is `session::prompt::single_turn`. The peer checks
//! every message that it gets against the protocol's official schema.

use std::time::{Duration, Instant};

use gander_bridge_tests::{TestDaemon, events};
use serde_json::{Value, json};

use crate::{
    acp::{code, configure},
    acp_peer::{Peer, options, prompt, said},
};

/// A daemon with the developer tools in this mode, and an editor with these capabilities in a session.
struct Case {
    daemon: TestDaemon,
    peer: Peer,
    session_id: String,
}

impl Case {
    async fn new(mode: &str, capabilities: Value) -> Self {
        let daemon = TestDaemon::start().await;
        configure(&daemon.unix().await, mode).await;
        let mut peer = Peer::with(&daemon, capabilities).await;
        let session_id = peer.new_session(&daemon.work()).await;
        Self { daemon, peer, session_id }
    }

    async fn finish(self) {
        self.peer.close().await;
        self.daemon.finish().await;
    }

    /// Updates of tool calls in this state.
    fn calls(&self, status: &str) -> Vec<Value> {
        let updates = self.peer.updates(&self.session_id);
        updates.into_iter().filter(|update| update["status"] == status).collect()
    }
}

fn files() -> Value {
    json!({"fs": {"readTextFile": true, "writeTextFile": true}})
}

mod initialize {
    use super::*;

    /// Whatever a client speaks, it is told 1, also one that can speak 2: that the client then goes on in 1.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn handshake() {
        let daemon = TestDaemon::start().await;
        for version in [json!(0), json!(1), json!(2), json!(99)] {
            let mut peer = Peer::open(daemon.unix().await, options());
            let hello = peer.call("initialize", json!({"protocolVersion": version})).await.expect("welcome");
            assert_eq!(hello["protocolVersion"], 1, "{version}");
            assert_eq!(hello["agentInfo"]["name"], "gander");
            assert_eq!(hello["agentCapabilities"]["promptCapabilities"]["image"], true);
            assert!(hello["authMethods"].as_array().is_some_and(|methods| !methods.is_empty()));
            peer.close().await;
        }
        // The form of version 2, and then the one of version 1 on the same connection.
        let mut peer = Peer::open(daemon.unix().await, options());
        let second =
            json!({"protocolVersion": 2, "info": {"name": "new", "version": "2"}, "capabilities": {}});
        assert_eq!(peer.call("initialize", second).await.expect("welcome")["protocolVersion"], 1);
        let hello = peer.initialize(json!({"elicitation": {"form": {}}})).await;
        assert!(hello["agentCapabilities"]["auth"]["logout"].is_object(), "{hello}");
        let session_id = peer.new_session(&daemon.work()).await;
        assert_eq!(peer.run(&session_id, "say in version one").await, "end_turn");
        for bad in [json!("soon"), json!(-1), json!(1.5), json!({})] {
            let refused = peer.call("initialize", json!({"protocolVersion": bad})).await;
            assert_eq!(code(&refused), -32602, "{bad}");
        }
        peer.close().await;
        daemon.finish().await;
    }
}

mod session {
    use super::*;

    mod new {
        use super::*;

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn basic() {
            let daemon = TestDaemon::start().await;
            let mut peer = Peer::with(&daemon, json!({})).await;
            let (one, two) = (peer.new_session(&daemon.work()).await, peer.new_session(&daemon.work()).await);
            assert!(!one.is_empty() && !two.is_empty());
            assert_ne!(one, two);
            peer.close().await;
            daemon.finish().await;
        }
    }

    mod prompt {
        use super::*;

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn single_turn() {
            let mut case = Case::new("auto", json!({})).await;
            assert_eq!(case.peer.run(&case.session_id, "say one turn").await, "end_turn");
            assert!(case.peer.said(&case.session_id).contains("one turn"));
            case.finish().await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn multi_turn() {
            let mut case = Case::new("auto", json!({})).await;
            for words in ["first words", "second words", "third words"] {
                case.peer.forget();
                assert_eq!(case.peer.run(&case.session_id, &format!("say {words}")).await, "end_turn");
                assert!(case.peer.said(&case.session_id).contains(words));
            }
            case.finish().await;
        }

        /// Empty words have an end like others, or are refused; neither hangs nor harms what follows.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn echo_empty() {
            let mut case = Case::new("auto", json!({})).await;
            assert_eq!(case.peer.run(&case.session_id, "say").await, "end_turn");
            for words in ["", " ", "\n"] {
                match case.peer.call("session/prompt", super::super::prompt(&case.session_id, words)).await {
                    Ok(answer) => assert_eq!(answer["stopReason"], "end_turn", "{words:?}"),
                    Err(error) => assert_eq!(error["code"], -32602, "{words:?}: {error}"),
                }
            }
            assert_eq!(case.peer.run(&case.session_id, "say after nothing").await, "end_turn");
            assert!(case.peer.said(&case.session_id).contains("after nothing"));
            case.finish().await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn unrecognized() {
            let mut case = Case::new("auto", json!({})).await;
            assert_eq!(case.peer.run(&case.session_id, "frobnicate the gizmo").await, "end_turn");
            assert!(!case.peer.said(&case.session_id).trim().is_empty(), "there is an answer");
            case.finish().await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn structured_blocks() {
            let mut case = Case::new("auto", json!({})).await;
            let blocks = json!([
                {"type": "text", "text": "say structured"},
                {"type": "resource_link", "name": "README.md", "uri": "file:///w/README.md"},
                {"type": "resource", "resource": {"uri": "file:///w/a.txt", "mimeType": "text/plain", "text": "embedded"}},
                {"type": "image", "data": "AAEC", "mimeType": "image/png"},
            ]);
            let params = json!({"sessionId": case.session_id, "prompt": blocks});
            let answer = case.peer.call("session/prompt", params).await.expect("an answer");
            assert_eq!(answer["stopReason"], "end_turn");
            // Nothing of it was lost: who loads the session sees all four.
            let mut other = Peer::with(&case.daemon, json!({})).await;
            let load = json!({"sessionId": case.session_id, "cwd": case.daemon.work(), "mcpServers": []});
            other.call("session/load", load).await.expect("loaded");
            let updates = other.updates(&case.session_id).into_iter();
            let mine = updates.filter(|update| update["sessionUpdate"] == "user_message_chunk");
            assert_eq!(json!(mine.map(|update| update["content"].clone()).collect::<Vec<_>>()), blocks);
            other.close().await;
            case.finish().await;
        }

        /// While a turn runs the connection does everything else, and the answer comes when it is due.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn background_completion() {
            let mut case = Case::new("auto", json!({})).await;
            let running = case.peer.prompt(&case.session_id, "slow 300").await;
            case.peer.update("agent_message_chunk").await;
            let other = case.peer.new_session(&case.daemon.work()).await;
            assert_eq!(case.peer.run(&other, "say meanwhile").await, "end_turn");
            let listed = case.peer.call("session/list", json!({})).await.expect("a list");
            assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(2));
            assert_eq!(case.peer.answered(&running).await, Ok(json!({"stopReason": "end_turn"})));
            assert!(case.peer.said(&case.session_id).contains("300"));
            case.finish().await;
        }
    }

    mod update {
        use super::*;

        /// All updates of a turn stand before the answer of its prompt, and each names the session.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn termination() {
            let mut case = Case::new("auto", json!({})).await;
            for words in
                ["burst 2000".to_owned(), events::shell("echo tool-output"), "think a while".to_owned()]
            {
                let turn = case.peer.prompt(&case.session_id, &words).await;
                case.peer.answered(&turn).await.expect("its end");
                // Whatever comes late comes before the next answer.
                case.peer.call("session/list", json!({})).await.expect("a list");
                let is_answer = |m: &Value| m.get("method").is_none() && m["id"] == turn;
                let answer = case.peer.log.iter().position(is_answer).expect("the answer");
                let kinds = ["agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update"];
                let of_turn =
                    |m: &Value| kinds.iter().any(|kind| m["params"]["update"]["sessionUpdate"] == *kind);
                assert!(case.peer.log[..answer].iter().any(of_turn), "{words}");
                assert!(!case.peer.log[answer..].iter().any(of_turn), "{words}");
                let updates = case.peer.log.iter().filter(|m| m["method"] == "session/update");
                assert!(updates.into_iter().all(|m| m["params"]["sessionId"] == case.session_id.as_str()));
                case.peer.forget();
            }
            case.finish().await;
        }
    }

    mod cancel {
        use super::*;

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn in_flight() {
            let mut case = Case::new("approve", json!({})).await;
            let cancel = json!({"sessionId": case.session_id});
            let turn = case.peer.prompt(&case.session_id, "slow 100000").await;
            case.peer.update("agent_message_chunk").await;
            let start = Instant::now();
            case.peer.notify("session/cancel", cancel.clone()).await;
            assert_eq!(case.peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
            // With a question open: it is taken down.
            let turn = case.peer.prompt(&case.session_id, &events::shell("echo never")).await;
            let asked = case.peer.request("session/request_permission").await;
            case.peer.notify("session/cancel", cancel).await;
            assert_eq!(case.peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
            let withdrawn = case.peer.until("the withdrawal", |m| m["method"] == "$/cancel_request").await;
            assert_eq!(withdrawn["params"]["requestId"], asked["id"]);
            case.finish().await;
        }

        /// Nothing runs: there is no answer to a notification, and nothing is harmed.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn idle() {
            let mut case = Case::new("auto", json!({})).await;
            for session_id in [case.session_id.as_str(), "nobody"] {
                case.peer.notify("session/cancel", json!({"sessionId": session_id})).await;
            }
            case.peer.notify("session/cancel", json!({})).await;
            assert_eq!(case.peer.run(&case.session_id, "say unharmed").await, "end_turn");
            let answers = case.peer.log.iter().filter(|m| m.get("method").is_none()).count();
            assert_eq!(answers, 3, "initialize, session/new, session/prompt: {:#?}", case.peer.log);
            case.finish().await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn followup_prompt() {
            let mut case = Case::new("auto", json!({})).await;
            let turn = case.peer.prompt(&case.session_id, "slow 100000").await;
            case.peer.update("agent_message_chunk").await;
            case.peer.notify("session/cancel", json!({"sessionId": case.session_id})).await;
            let follow = case.peer.prompt(&case.session_id, "say followed up").await;
            assert_eq!(case.peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
            assert_eq!(case.peer.answered(&follow).await, Ok(json!({"stopReason": "end_turn"})));
            assert!(case.peer.said(&case.session_id).contains("followed up"));
            case.finish().await;
        }
    }
}

mod errors {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn invalid_params() {
        let mut case = Case::new("auto", json!({})).await;
        let id = case.session_id.clone();
        for (method, params) in [
            ("session/new", json!({})),
            ("session/new", json!({"cwd": 5, "mcpServers": []})),
            ("session/new", json!({"cwd": "relative", "mcpServers": []})),
            ("session/new", json!({"cwd": case.daemon.work(), "mcpServers": "none"})),
            (
                "session/new",
                json!({"cwd": case.daemon.work(), "mcpServers": [], "additionalDirectories": ["x"]}),
            ),
            ("session/new", json!([])),
            ("session/prompt", json!({"sessionId": id})),
            ("session/prompt", json!({"sessionId": id, "prompt": {"type": "text"}})),
            ("session/set_mode", json!({"sessionId": id})),
            ("session/set_config_option", json!({"sessionId": id, "configId": "mode"})),
            ("session/list", json!({"cursor": 5})),
        ] {
            assert_eq!(code(&case.peer.call(method, params.clone()).await), -32602, "{method} {params}");
        }
        assert_eq!(case.peer.run(&id, "say still here").await, "end_turn");
        case.finish().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn cwd_null() {
        let mut case = Case::new("auto", json!({})).await;
        let refused = case.peer.call("session/new", json!({"cwd": null, "mcpServers": []})).await;
        assert_eq!(code(&refused), -32602);
        assert!(refused.expect_err("an error")["message"].as_str().expect("text").contains("cwd"));
        case.finish().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn invalid_prompt_session_type() {
        let mut case = Case::new("auto", json!({})).await;
        for id in [json!(5), json!(null), json!([]), json!({"id": "x"}), json!(""), json!(true)] {
            let params = json!({"sessionId": id, "prompt": [{"type": "text", "text": "say no"}]});
            assert_eq!(code(&case.peer.call("session/prompt", params).await), -32602, "{id}");
        }
        case.finish().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn unknown_session() {
        let mut case = Case::new("auto", json!({})).await;
        let work = case.daemon.work();
        for (method, params) in [
            ("session/prompt", prompt("nobody", "say x")),
            ("session/load", json!({"sessionId": "nobody", "cwd": work, "mcpServers": []})),
            ("session/resume", json!({"sessionId": "nobody", "cwd": work})),
            ("session/fork", json!({"sessionId": "nobody", "cwd": work, "mcpServers": []})),
            ("session/close", json!({"sessionId": "nobody"})),
            ("session/set_mode", json!({"sessionId": "nobody", "modeId": "auto"})),
            (
                "session/set_config_option",
                json!({"sessionId": "nobody", "configId": "mode", "value": "auto"}),
            ),
            ("session/set_title", json!({"sessionId": "nobody", "title": "x"})),
            ("session/status", json!({"sessionId": "nobody"})),
        ] {
            let error = case.peer.call(method, params).await.expect_err(method);
            assert_eq!(error["code"], -32002, "{method}: {error}");
            assert_eq!(error["data"]["sessionId"], "nobody", "{method}: {error}");
        }
        // Deleting what is not there is done.
        case.peer.call("session/delete", json!({"sessionId": "nobody"})).await.expect("done");
        case.finish().await;
    }

    /// What the client's policy forbids is a failure with its reason, and the turn has an end.
    async fn refused_by_the_client(method: &str, call: &str) -> Case {
        let mut case = Case::new("auto", files()).await;
        std::fs::write(case.daemon.work().join("notes.txt"), "untouched\n").expect("a file");
        let turn = case.peer.prompt(&case.session_id, call).await;
        loop {
            let next = case
                .peer
                .until("a request or the end", |m| {
                    m.get("id").is_some() && (m.get("method").is_some() || m["id"] == turn)
                })
                .await;
            if next.get("method").is_none() {
                assert_eq!(next["result"]["stopReason"], "end_turn", "{next}");
                break;
            }
            if next["method"] == method {
                let error = json!({"code": -32001, "message": "Permission denied by the client"});
                case.peer.write(json!({"jsonrpc": "2.0", "id": next["id"], "error": error})).await;
            } else {
                case.peer.answer(&next, json!({"content": "untouched\n"})).await;
            }
        }
        let failed = case.calls("failed");
        assert!(failed.iter().any(|call| call.to_string().contains("ermission denied")), "{failed:#?}");
        let file = std::fs::read_to_string(case.daemon.work().join("notes.txt")).expect("the file");
        assert_eq!(file, "untouched\n");
        case
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn permission_denied() {
        let read = format!("call developer__read {}", json!({"path": "notes.txt"}));
        refused_by_the_client("fs/read_text_file", &read).await.finish().await;
        // The person's own refusal.
        let mut case = Case::new("approve", json!({})).await;
        let turn = case.peer.prompt(&case.session_id, &events::shell("touch forbidden")).await;
        let asked = case.peer.request("session/request_permission").await;
        let options = asked["params"]["options"].as_array().expect("options");
        let reject = options.iter().find(|option| option["kind"] == "reject_once").expect("a refusal");
        let selected = json!({"outcome": {"outcome": "selected", "optionId": reject["optionId"]}});
        case.peer.answer(&asked, selected).await;
        assert_eq!(case.peer.answered(&turn).await, Ok(json!({"stopReason": "end_turn"})));
        assert_eq!(case.calls("failed").len(), 1);
        assert!(!case.daemon.work().join("forbidden").exists());
        case.finish().await;
    }

    mod permission_denied {
        use super::*;

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn write() {
            let write = json!({"path": "notes.txt", "content": "overwritten\n"});
            let call = format!("call developer__write {write}");
            refused_by_the_client("fs/write_text_file", &call).await.finish().await;
        }
    }
}

mod permissions {
    use super::*;

    /// Answers whatever the agent asks of the editor until the turn ends; gives the methods in their order.
    async fn agreed(case: &mut Case, call: &str) -> Vec<String> {
        let turn = case.peer.prompt(&case.session_id, call).await;
        let mut asked = Vec::new();
        loop {
            let next = case
                .peer
                .until("a request or the end", |m| {
                    m.get("id").is_some() && (m.get("method").is_some() || m["id"] == turn)
                })
                .await;
            let Some(method) = next["method"].as_str() else {
                assert_eq!(next["result"]["stopReason"], "end_turn", "{next}");
                return asked;
            };
            asked.push(method.to_owned());
            let answer = match method {
                "session/request_permission" => {
                    json!({"outcome": {"outcome": "selected", "optionId": next["params"]["options"][0]["optionId"]}})
                }
                "fs/read_text_file" => json!({"content": "of the editor\n"}),
                "fs/write_text_file" => {
                    let path = next["params"]["path"].as_str().expect("a path");
                    std::fs::write(path, next["params"]["content"].as_str().expect("text")).expect("written");
                    json!({})
                }
                other => panic!("{other} was not offered"),
            };
            case.peer.answer(&next, answer).await;
        }
    }

    mod read {
        use super::*;

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn approved() {
            let mut case = Case::new("approve", files()).await;
            std::fs::write(case.daemon.work().join("notes.txt"), "of the disk\n").expect("a file");
            let call = format!("call developer__read {}", json!({"path": "notes.txt"}));
            let asked = agreed(&mut case, &call).await;
            assert!(asked.contains(&"fs/read_text_file".to_owned()), "{asked:?}");
            let done = case.calls("completed");
            assert!(done.iter().any(|call| call.to_string().contains("of the editor")), "{done:#?}");
            case.finish().await;
        }
    }

    mod write {
        use super::*;

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn approved() {
            let mut case = Case::new("approve", files()).await;
            let file = case.daemon.work().join("made.txt");
            let call = format!("call developer__write {}", json!({"path": file, "content": "new\n"}));
            let asked = agreed(&mut case, &call).await;
            let at = |method: &str| asked.iter().position(|asked| asked == method);
            assert!(at("session/request_permission") < at("fs/write_text_file"), "{asked:?}");
            assert_eq!(std::fs::read_to_string(&file).expect("written"), "new\n");
            let diff = |call: &Value| {
                call["content"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == "diff"))
            };
            assert!(case.peer.updates(&case.session_id).iter().any(diff), "the change is shown");
            assert!(!case.calls("completed").is_empty());
            case.finish().await;
        }
    }
}

/// What users of other agents complained about.
mod complaints {
    use super::*;

    /// Editors did not show questions about calls that they had not heard of.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_is_announced_before_it_is_asked_about() {
        let mut case = Case::new("approve", json!({})).await;
        let turn = case.peer.prompt(&case.session_id, &events::shell("echo asked")).await;
        let asked = case.peer.request("session/request_permission").await;
        let call = &asked["params"]["toolCall"];
        let before = case.peer.updates(&case.session_id);
        let announced = before.iter().find(|update| update["sessionUpdate"] == "tool_call").expect("a call");
        assert_eq!(announced["toolCallId"], call["toolCallId"]);
        assert_eq!(announced["kind"], "execute");
        for part in ["title", "kind", "rawInput", "content"] {
            assert!(!call[part].is_null(), "{part} is in the question itself: {call:#}");
        }
        let names = asked["params"]["options"].as_array().expect("options").iter();
        let names: Vec<&str> = names.filter_map(|option| option["name"].as_str()).collect();
        assert!(names.iter().all(|name| !name.contains('_')), "names for people: {names:?}");
        case.peer.notify("session/cancel", json!({"sessionId": case.session_id})).await;
        case.peer.answered(&turn).await.expect("its end");
        case.finish().await;
    }

    /// The mode that an editor shows is the session's, also after an answer for always.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn always_changes_no_mode_behind_the_editors_back() {
        let mut case = Case::new("approve", json!({})).await;
        let turn = case.peer.prompt(&case.session_id, &events::shell("true")).await;
        let asked = case.peer.request("session/request_permission").await;
        let options = asked["params"]["options"].as_array().expect("options");
        let always = options.iter().find(|option| option["kind"] == "allow_always").expect("always");
        let selected = json!({"outcome": {"outcome": "selected", "optionId": always["optionId"]}});
        case.peer.answer(&asked, selected).await;
        case.peer.answered(&turn).await.expect("its end");
        let told: Vec<_> = case.peer.updates(&case.session_id);
        let told = told.iter().rfind(|update| update["sessionUpdate"] == "current_mode_update");
        let told = told.map_or(json!("approve"), |update| update["currentModeId"].clone());
        let resume = json!({"sessionId": case.session_id, "cwd": case.daemon.work()});
        let now = case.peer.call("session/resume", resume).await.expect("resumed");
        assert_eq!(now["modes"]["currentModeId"], told);
        let option = now["configOptions"].as_array().expect("options").iter().find(|o| o["id"] == "mode");
        assert_eq!(option.expect("the mode")["currentValue"], told);
        case.finish().await;
    }

    /// A long conversation is restored whole, in order, and begins to arrive before all of it is read.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_long_conversation_is_restored() {
        let case = Case::new("auto", json!({})).await;
        let client = case.daemon.unix().await;
        let turns = 130;
        for number in 0..turns {
            events::complete(&client, &case.session_id, &format!("say number {number}.")).await;
        }
        let mut peer = Peer::with(&case.daemon, json!({})).await;
        let load = json!({"sessionId": case.session_id, "cwd": case.daemon.work(), "mcpServers": []});
        // Again and again on one connection, as clients with a retry do.
        for _ in 0..10 {
            peer.forget();
            peer.call("session/load", load.clone()).await.expect("loaded");
            let answer = peer.log.iter().position(|m| m.get("method").is_none()).expect("the answer");
            let before: Vec<Value> =
                peer.log[..answer].iter().map(|m| m["params"]["update"].clone()).collect();
            let asked: Vec<_> = before
                .iter()
                .filter(|update| update["sessionUpdate"] == "user_message_chunk")
                .map(|update| update["content"]["text"].as_str().expect("text").to_owned())
                .collect();
            let wanted: Vec<_> = (0..turns).map(|number| format!("say number {number}.")).collect();
            assert_eq!(asked, wanted);
            let text = said(&before);
            let mut from = 0;
            for number in 0..turns {
                let words = format!("number {number}.");
                from +=
                    text[from..].find(&words).unwrap_or_else(|| panic!("{words} is missing")) + words.len();
            }
        }
        peer.forget();
        assert_eq!(peer.run(&case.session_id, "say once").await, "end_turn");
        assert_eq!(peer.said(&case.session_id).matches("once").count(), 1);
        peer.close().await;
        case.finish().await;
    }

    /// Lines of both systems, blank ones, and several in one write.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn line_ends_of_all_systems() {
        let mut case = Case::new("auto", json!({})).await;
        let list = |id: i64| json!({"jsonrpc": "2.0", "id": id, "method": "session/list", "params": {}});
        case.peer.raw(&format!("{}\r\n\r\n\n{}\r", list(901), list(902))).await;
        for id in [901, 902] {
            case.peer.answered(&json!(id)).await.expect("a list");
        }
        case.finish().await;
    }
}
