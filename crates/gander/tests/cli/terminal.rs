//! Questions at a terminal.

use crate::support::{Home, Terminal};

#[test]
fn questions_are_asked_at_a_terminal() {
    let home = Home::new();
    let arguments =
        ["run", "--color", "never", "--mode", "approve", "call shell {\"command\":\"touch made\"}"];
    let mut terminal = Terminal::start(&home, &arguments);
    terminal.wait_for("? ");
    assert!(terminal.seen.contains("touch made"), "{}", terminal.seen);
    terminal.type_line("perhaps");
    terminal.wait_for("? ");
    assert!(!home.work.path().join("made").exists());
    terminal.type_line("y");
    let (code, seen) = terminal.end();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("please type one of the letters") && seen.contains("✓"), "{seen}");
    assert!(home.work.path().join("made").exists());
    // On a terminal there are colours, unless someone does not want them.
    let (_, seen) = Terminal::start(&home, &["run", "list files"]).end();
    assert!(seen.contains("\x1b[32m✓"), "{seen}");
}

#[test]
fn a_question_that_another_client_answers_is_taken_down() {
    use gander_client::{Client, ClientOptions, Endpoint};
    use gander_proto::v1::{
        InteractionAnswer, ListInteractionsRequest, PermissionAnswer, PermissionDecision,
        RespondToInteractionRequest, interaction_answer::Answer,
    };
    let home = Home::new();
    let daemon = home.serve(&["--no-tcp"]);
    let socket = daemon.line("listening on unix:");
    let arguments =
        ["run", "--color", "never", "--mode", "approve", "call shell {\"command\":\"touch made\"}"];
    let mut terminal = Terminal::start(&home, &arguments);
    terminal.wait_for("? ");
    let answer = async {
        let client = Client::connect(Endpoint::unix(socket), ClientOptions::new("the-other")).await.unwrap();
        let open = client.interactions().list_interactions(ListInteractionsRequest::default()).await.unwrap();
        let question = open.into_inner().interactions.remove(0);
        let deny = PermissionAnswer { kind: PermissionDecision::Deny as i32, ..PermissionAnswer::default() };
        let request = RespondToInteractionRequest {
            interaction_id: question.interaction_id,
            answer: Some(InteractionAnswer { answer: Some(Answer::Decision(deny)) }),
            ..RespondToInteractionRequest::default()
        };
        client.interactions().respond_to_interaction(request).await.unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(answer);
    let (code, seen) = terminal.end();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("(answered by ") && seen.contains("✗ declined"), "{seen}");
    assert!(!home.work.path().join("made").exists());
}
