//! Hosts and questions: calls that only one program, or only a person, can answer.

use gander_model::testing::Script;
use gander_proto::v1::{
    self as pb, host_service_client::HostServiceClient, interaction_service_client::InteractionServiceClient,
    tool_service_client::ToolServiceClient,
};
use gander_service::InProcess;
use pb::{attach_host_response::Payload as FromDaemon, session_event::Payload};
use tonic::Code;

use crate::harness::{Harness, collect, next, reason, run_request};

struct Host {
    client: HostServiceClient<InProcess>,
    stream: tonic::Streaming<pb::AttachHostResponse>,
}

impl Host {
    async fn attach(h: &Harness, session_id: &str) -> Self {
        let mut client = HostServiceClient::new(h.transport.clone());
        let mut stream = client.attach_host(attach_request(session_id)).await.unwrap().into_inner();
        let Some(FromDaemon::Attached(attached)) = next(&mut stream).await.payload else { panic!() };
        assert!(attached.last_sequence > 0 && !attached.host_id.is_empty());
        Self { client, stream }
    }

    /// Waits for a call of the tool and answers it.
    async fn answer(&mut self, text: &str) -> pb::HostCall {
        let Some(FromDaemon::Call(call)) = next(&mut self.stream).await.payload else { panic!() };
        let part = pb::Part { body: Some(pb::part::Body::Text(text.into())), ..Default::default() };
        let result =
            pb::ToolResult { outcome: pb::ToolOutcome::Ok as i32, parts: vec![part], ..Default::default() };
        let request = pb::CompleteHostCallRequest {
            host_call_id: call.host_call_id.clone(),
            outcome: Some(pb::complete_host_call_request::Outcome::Tool(Box::new(result))),
            ..Default::default()
        };
        self.client.complete_host_call(request.clone()).await.unwrap();
        let again = self.client.complete_host_call(request).await.unwrap_err();
        assert_eq!(reason(&again), (Code::NotFound, "HOST_CALL_NOT_FOUND".into()));
        call
    }
}

fn attach_request(session_id: &str) -> pb::AttachHostRequest {
    let tool = pb::HostTool {
        name: "pick".into(),
        description: "Lets the person pick.".into(),
        input_schema_json: "{\"type\":\"object\"}".into(),
        ..Default::default()
    };
    pb::AttachHostRequest { session_id: session_id.into(), tools: vec![tool], ..Default::default() }
}

fn text_of(parts: &[pb::Part]) -> String {
    let text = |p: &pb::Part| match &p.body {
        Some(pb::part::Body::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    parts.iter().map(text).collect()
}

#[tokio::test]
async fn a_host_answers_direct_calls_and_leaves() {
    let h = Harness::new([]).await;
    let session_id = h.session().await;
    let mut host = Host::attach(&h, &session_id).await;
    let second = host.client.attach_host(attach_request(&session_id)).await.unwrap_err();
    assert_eq!(reason(&second), (Code::AlreadyExists, "HOST_ALREADY_ATTACHED".into()));

    let mut tools = ToolServiceClient::new(h.transport.clone());
    let list = pb::ListToolsRequest { session_id: session_id.clone(), ..Default::default() };
    let listed = tools.list_tools(list).await.unwrap().into_inner().tools;
    let names: Vec<_> = listed.iter().map(|t| (t.name.as_str(), t.tool_name.as_str())).collect();
    assert_eq!(names, [("client__pick", "pick")]);

    let call = pb::CallToolRequest {
        session_id: session_id.clone(),
        name: "client__pick".into(),
        arguments_json: "{\"n\":9007199254740993}".into(),
        idempotency_key: "k".into(),
        ..Default::default()
    };
    let running = tools.call_tool(call.clone()).await.unwrap().into_inner();
    let asked = host.answer("blue").await;
    let Some(pb::host_call::Call::Tool(asked)) = asked.call else { panic!() };
    assert_eq!((asked.name.as_str(), asked.arguments_json.as_str()), ("pick", "{\"n\":9007199254740993}"));
    let answers = collect(running).await;
    let Some(pb::call_tool_response::Payload::Result(result)) = &answers.last().unwrap().payload else {
        panic!()
    };
    assert_eq!((result.outcome(), text_of(&result.parts).as_str()), (pb::ToolOutcome::Ok, "blue"));
    let bad = pb::CallToolRequest { arguments_json: "[1]".into(), ..call };
    let error = tools.call_tool(bad).await.unwrap_err();
    assert_eq!(reason(&error), (Code::InvalidArgument, "INVALID_FIELD".into()));

    // The registration lives exactly as long as the stream.
    drop(host.stream);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while host.client.attach_host(attach_request(&session_id)).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the host should be gone");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_person_allows_a_call_of_a_host() {
    let h = Harness::new([Script::one_call("c1", "client__pick", "{}"), Script::reply("done")]).await;
    let session_id = h.session().await;
    let mut host = Host::attach(&h, &session_id).await;
    let request = pb::RunTurnRequest {
        mode: Some(pb::SessionMode::Approve as i32),
        ..run_request(&session_id, "t1", "pick one")
    };
    let mut run = h.turns().run_turn(request).await.unwrap().into_inner();
    let asked = loop {
        if let Some(Payload::InteractionRequested(asked)) = next(&mut run).await.event.unwrap().payload {
            break asked.interaction.unwrap();
        }
    };
    assert_eq!(asked.session_id, session_id);
    let mut people = InteractionServiceClient::new(h.transport.clone());
    let open = people.list_interactions(pb::ListInteractionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(
        open.interactions.iter().map(|i| &i.interaction_id).collect::<Vec<_>>(),
        [&asked.interaction_id]
    );
    let answer = |option: &str| pb::RespondToInteractionRequest {
        interaction_id: asked.interaction_id.clone(),
        answer: Some(pb::InteractionAnswer {
            answer: Some(pb::interaction_answer::Answer::OptionId(option.into())),
        }),
        ..Default::default()
    };
    let wrong = people.respond_to_interaction(answer("perhaps")).await.unwrap_err();
    assert_eq!(reason(&wrong), (Code::InvalidArgument, "INVALID_FIELD".into()));
    let done = people.respond_to_interaction(answer("allow_once")).await.unwrap().into_inner();
    let resolved = done.interaction.unwrap();
    assert_eq!(resolved.outcome(), pb::InteractionOutcome::Answered);
    assert_eq!(resolved.answered_by.unwrap().principal, "uid:7");
    people.respond_to_interaction(answer("allow_once")).await.unwrap();
    let lost = people.respond_to_interaction(answer("deny_once")).await.unwrap_err();
    assert_eq!(reason(&lost), (Code::FailedPrecondition, "INTERACTION_RESOLVED".into()));

    host.answer("blue").await;
    let rest: Vec<_> = collect(run).await.into_iter().map(|r| r.event.unwrap()).collect();
    let resolved = rest.iter().find(|e| matches!(e.payload, Some(Payload::InteractionResolved(_)))).unwrap();
    assert_eq!(resolved.sequence, done.sequence, "the answer names the event that recorded it");
    let result = rest.iter().find_map(|e| match &e.payload {
        Some(Payload::ItemCompleted(completed)) => match completed.item.as_ref()?.body.as_ref()? {
            pb::item::Body::ToolCall(call) => call.result.clone(),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(text_of(&result.unwrap().parts), "blue");
}
