//! Names sessions: the model is asked for a short title after the first exchanges. A title that a person gave is never
//! replaced, and a failure changes nothing.

use std::time::Duration;

use gander_domain::{
    ItemBody, Payload,
    event::UpdateCause,
    session::{SessionKind, TitleSource},
    usage::UsagePurpose,
};

use super::core::Core;
use crate::{completion::complete, models::ResolvedModel, templates, turn::CallReport};

/// Messages of the user that a title is made from; after that many it is not tried again.
const MAX_MESSAGES: usize = 3;
/// Longest message that is shown, in characters.
const MAX_SHOWN: usize = 2_000;
const MAX_TITLE: usize = 60;
const MAX_ANSWER_TOKENS: u64 = 1_024;
const DEADLINE: Duration = Duration::from_secs(30);

impl Core {
    /// Starts to look for a title, unless there is a better one or nobody wants it.
    pub(super) fn name_session(&mut self, model: &ResolvedModel) {
        let session = &self.state.session;
        let wanted = session.title_source == TitleSource::Default
            && matches!(session.kind, SessionKind::User | SessionKind::Terminal)
            && self.services.names_sessions()
            && is_language_model(model);
        if !wanted || self.naming {
            return;
        }
        let messages: Vec<String> = self
            .state
            .items
            .iter()
            .filter(|e| e.item.visibility.user && matches!(e.item.body, ItemBody::UserMessage(_)))
            .map(|e| e.item.text())
            .filter(|text| !text.trim().is_empty() && !text.trim_start().starts_with('/'))
            .map(|text| text.chars().take(MAX_SHOWN).collect())
            .collect();
        if messages.is_empty() || messages.len() > MAX_MESSAGES {
            return;
        }
        self.naming = true;
        let (services, session) = (self.services.clone(), self.me.clone());
        let model = services.small_model(model);
        self.services.tasks.spawn(async move {
            let system = services.render_template(templates::TITLE, &serde_json::json!({}));
            let prompt = format!("The user's messages:\n\n{}", messages.join("\n\n---\n\n"));
            let call = complete(&model, &*services.source, system, prompt, Some(MAX_ANSWER_TOKENS));
            let answer = tokio::select! {
                () = services.draining.cancelled() => None,
                answer = tokio::time::timeout(DEADLINE, call) => answer.ok(),
            };
            let done = match answer {
                Some(Ok(done)) => Some(done),
                Some(Err(error)) => {
                    tracing::debug!(%error, "the session was not named");
                    None
                }
                None => None,
            };
            let _ = session
                .post(move |core| {
                    core.naming = false;
                    let Some(done) = done else { return };
                    let report = CallReport::beside(UsagePurpose::Title, &done);
                    if report.is_known() {
                        core.report_usage(None, report);
                    }
                    core.take_title(&done.text);
                })
                .await;
        });
    }

    fn take_title(&mut self, text: &str) {
        let Some(title) = clean_title(text) else { return };
        // Somebody may have given one meanwhile.
        if self.state.session.title_source != TitleSource::Default {
            return;
        }
        let mut session = self.state.session.clone();
        session.title = title;
        session.title_source = TitleSource::Generated;
        self.emit(
            None,
            Payload::SessionUpdated {
                session: Box::new(session),
                changed_fields: vec!["title".to_owned()],
                cause: UpdateCause::TitleGenerated,
            },
        );
    }
}

/// An agent has a conversation of its own that a question about titles would be part of; the demo has no words.
fn is_language_model(model: &ResolvedModel) -> bool {
    model.provider.agent().is_none() && model.provider.info().kind != "demo"
}

fn clean_title(text: &str) -> Option<String> {
    // Models that think aloud put the answer last.
    let line = text.rsplit("</think>").next()?.lines().map(str::trim).find(|l| !l.is_empty())?;
    let line = line.trim_start_matches('#').trim().trim_matches(['"', '\'', '`', '*', '“', '”']).trim();
    let line = line.trim_end_matches('.');
    let mut title: String = line.chars().filter(|c| !c.is_control()).take(MAX_TITLE).collect();
    if line.chars().count() > MAX_TITLE {
        title.push('…');
    }
    (!title.is_empty()).then_some(title)
}

#[cfg(test)]
mod tests {
    use super::clean_title;

    #[test]
    fn titles_are_short_and_plain() {
        for (text, title) in [
            ("\"Fix the build\"\n", Some("Fix the build")),
            ("<think>hm\n</think>\n\n# Release notes.", Some("Release notes")),
            ("  \n ", None),
            ("''", None),
        ] {
            assert_eq!(clean_title(text).as_deref(), title, "{text:?}");
        }
        let long = clean_title(&"ä".repeat(200)).unwrap();
        assert_eq!(long.chars().count(), 61);
    }
}
