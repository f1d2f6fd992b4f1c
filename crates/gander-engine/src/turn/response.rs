//! From model events to items: pure but for ids and times.
//!
//! One response has one message id. Text, thoughts and calls become items in the order in which they begin; an item is
//! completed when another kind begins or the response ends.

use std::{collections::BTreeMap, sync::Arc};

use gander_domain::{
    Item, ItemBody, MessageId, Part, Payload, TurnId, Usage,
    item::{AgentMessage, ItemState, Origin, Thought, ToolCall, ToolCallStatus, Visibility},
    usage::Cost,
};
use gander_model::{ModelError, ModelErrorClass, ModelEvent, ModelStop};

use crate::source::{Mint, Source};

/// What a complete response leaves to do.
pub(super) struct ResponseEnd {
    pub stop: ModelStop,
    pub usage: Usage,
    pub cost: Option<Cost>,
    /// Calls with complete arguments, in the order in which the model made them.
    pub calls: Vec<Item>,
}

pub(super) struct Response {
    source: Arc<dyn Source>,
    turn_id: TurnId,
    message_id: MessageId,
    demo: bool,
    model_id: String,
    /// The text or thought that is being written.
    open: Option<Item>,
    calls: BTreeMap<u32, Item>,
    usage: Usage,
    cost: Option<Cost>,
    stop: Option<ModelStop>,
}

impl Response {
    pub(super) fn new(source: Arc<dyn Source>, turn_id: TurnId, demo: bool, model_id: &str) -> Self {
        let message_id = source.message_id();
        Self {
            source,
            turn_id,
            message_id,
            demo,
            model_id: model_id.to_owned(),
            open: None,
            calls: BTreeMap::new(),
            usage: Usage::default(),
            cost: None,
            stop: None,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.stop.is_some()
    }

    fn item(&self, body: ItemBody) -> Item {
        Item {
            item_id: self.source.item_id(),
            turn_id: Some(self.turn_id.clone()),
            message_id: self.message_id.clone(),
            body,
            state: ItemState::InProgress,
            incomplete: false,
            visibility: Visibility::default(),
            origin: Origin::Model,
            create_time: self.source.now(),
            client_create_time: None,
            complete_time: None,
            redacted: false,
            model_id: Some(self.model_id.clone()),
            provider_state_json: None,
        }
    }

    /// Handles one event of the model.
    pub(super) fn event(&mut self, event: ModelEvent, out: &mut Vec<Payload>) {
        match event {
            ModelEvent::TextDelta(text) => self.text(text, out),
            ModelEvent::ThoughtDelta(text) => self.thought(text, out),
            ModelEvent::ThoughtCompleted { signature, redacted_data, provider_state_json } => {
                self.thought_completed(signature, redacted_data, provider_state_json, out);
            }
            ModelEvent::ToolCallStarted { index, call_id, name } => {
                self.close_open(out);
                // Clients show the call while its arguments stream.
                let kind = super::describe::kind_by_name(&name);
                let call = ToolCall { kind, ..ToolCall::streaming(name, call_id) };
                let item = self.item(ItemBody::ToolCall(Box::new(call)));
                out.push(Payload::ItemStarted { item: Box::new(item.clone()) });
                self.calls.insert(index, item);
            }
            ModelEvent::ToolArgumentsDelta { index, text } => {
                if let Some(item) = self.calls.get_mut(&index) {
                    out.push(Payload::ArgumentsDelta { item_id: item.item_id.clone(), text: text.clone() });
                    if let Some(call) = item.tool_call_mut() {
                        call.arguments_json.push_str(&text);
                    }
                }
            }
            ModelEvent::ToolCallCompleted {
                index,
                call_id,
                name,
                arguments_json,
                invalid_arguments,
                provider_state_json,
            } => {
                if !self.calls.contains_key(&index) {
                    let started =
                        ModelEvent::ToolCallStarted { index, call_id: call_id.clone(), name: name.clone() };
                    self.event(started, out);
                }
                if let Some(item) = self.calls.get_mut(&index) {
                    item.provider_state_json = provider_state_json;
                    if let Some(call) = item.tool_call_mut() {
                        call.name = name;
                        call.call_id = call_id;
                        call.arguments_json = arguments_json;
                        call.invalid_arguments = invalid_arguments;
                        call.status = ToolCallStatus::Pending;
                    }
                }
            }
            ModelEvent::Usage { usage, cost } => {
                self.usage = usage;
                self.cost = cost.or(self.cost.take());
            }
            ModelEvent::Finished { stop, model_id, provider_state_json } => {
                if let Some(model_id) = model_id {
                    self.model_id = model_id;
                }
                if let Some(open) = &mut self.open
                    && provider_state_json.is_some()
                {
                    open.provider_state_json = provider_state_json;
                }
                self.stop = Some(stop);
            }
        }
    }

    fn text(&mut self, text: String, out: &mut Vec<Payload>) {
        if text.is_empty() {
            return;
        }
        if !matches!(self.open.as_ref().map(|i| &i.body), Some(ItemBody::AgentMessage(_))) {
            self.close_open(out);
            let body = AgentMessage { parts: vec![Part::text("")], demo: self.demo };
            let item = self.item(ItemBody::AgentMessage(body));
            out.push(Payload::ItemStarted { item: Box::new(item.clone()) });
            self.open = Some(item);
        }
        let Some(item) = &mut self.open else { return };
        if let ItemBody::AgentMessage(message) = &mut item.body
            && let Some(gander_domain::PartBody::Text(all)) = message.parts.first_mut().map(|p| &mut p.body)
        {
            all.push_str(&text);
        }
        out.push(Payload::TextDelta { item_id: item.item_id.clone(), part_index: 0, text });
    }

    fn open_thought(&mut self, out: &mut Vec<Payload>) {
        if !matches!(self.open.as_ref().map(|i| &i.body), Some(ItemBody::Thought(_))) {
            self.close_open(out);
            let item = self.item(ItemBody::Thought(Thought::default()));
            out.push(Payload::ItemStarted { item: Box::new(item.clone()) });
            self.open = Some(item);
        }
    }

    fn thought(&mut self, text: String, out: &mut Vec<Payload>) {
        if text.is_empty() {
            return;
        }
        self.open_thought(out);
        let Some(item) = &mut self.open else { return };
        if let ItemBody::Thought(thought) = &mut item.body {
            thought.text.push_str(&text);
        }
        out.push(Payload::ThoughtDelta { item_id: item.item_id.clone(), text });
    }

    fn thought_completed(
        &mut self,
        signature: Option<String>,
        redacted_data: Option<String>,
        provider_state_json: Option<String>,
        out: &mut Vec<Payload>,
    ) {
        if signature.is_none()
            && redacted_data.is_none()
            && provider_state_json.is_none()
            && self.open.is_none()
        {
            return;
        }
        self.open_thought(out);
        if let Some(item) = &mut self.open {
            item.provider_state_json = provider_state_json;
            if let ItemBody::Thought(thought) = &mut item.body {
                thought.signature = signature;
                thought.redacted_data = redacted_data;
            }
        }
        self.close_open(out);
    }

    fn close_open(&mut self, out: &mut Vec<Payload>) {
        if let Some(item) = self.open.take() {
            out.push(Payload::ItemCompleted { item: Box::new(self.completed(item, false)) });
        }
    }

    fn completed(&self, mut item: Item, incomplete: bool) -> Item {
        item.state = ItemState::Completed;
        item.incomplete = incomplete;
        item.complete_time = Some(self.source.now());
        item
    }

    /// The stream broke: what came is kept for the user and hidden from the model, which will be asked again.
    pub(super) fn abandon(&mut self, out: &mut Vec<Payload>) {
        let open = self.open.take().into_iter().chain(std::mem::take(&mut self.calls).into_values());
        for item in open.collect::<Vec<_>>() {
            let mut item = self.completed(item, true);
            item.visibility.model = false;
            if let Some(call) = item.tool_call_mut() {
                call.status = ToolCallStatus::Cancelled;
            }
            out.push(Payload::ItemCompleted { item: Box::new(item) });
        }
    }

    /// Ends the response. Without a `Finished` event it was cut off.
    pub(super) fn finish(mut self, out: &mut Vec<Payload>) -> Result<ResponseEnd, ModelError> {
        let Some(stop) = self.stop else {
            self.abandon(out);
            return Err(ModelError::new(
                ModelErrorClass::Truncated,
                "the model's reply ended before the provider ended it",
            ));
        };
        self.close_open(out);
        for item in self.calls.values_mut() {
            if let Some(call) = item.tool_call_mut()
                && call.status == ToolCallStatus::StreamingArguments
            {
                // The reply ended in the middle of the call: it must not run, and the model must know why.
                call.invalid_arguments.get_or_insert_with(|| {
                    format!(
                        "the reply ended after {} bytes of them{}",
                        call.arguments_json.len(),
                        if stop == ModelStop::MaxOutputTokens {
                            ", at the limit of output tokens"
                        } else {
                            ""
                        }
                    )
                });
            }
        }
        Ok(ResponseEnd {
            stop,
            usage: self.usage,
            cost: self.cost,
            calls: self.calls.into_values().collect(),
        })
    }
}
