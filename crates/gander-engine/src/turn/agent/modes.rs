//! The agent's own modes beside the session's. In chat the agent is brought into a mode in which it changes nothing,
//! where it has one; a mode in which it asks nobody is only for sessions whose own mode is auto. Where it was before is
//! noted, and it goes back there once the session's mode allows it.
//!
//! Mode auto chooses no such mode: what the agent asks is answered for the user then, so rules that never allow a tool
//! still hold. Who wants the agent's own mode sets it, as one of its settings.

use std::time::Duration;

use gander_domain::{
    item::NoticeLevel,
    session::{Mode, SessionOption},
};
use gander_model::AgentOpened;

use super::{Opened, read_records};
use crate::turn::{TurnResult, TurnTask};

/// How long the agent may take to change its mode.
const MODE_WAIT: Duration = Duration::from_secs(10);

/// Where the agent should be.
#[derive(Debug, PartialEq, Eq)]
struct Aim {
    target: String,
    /// It should not be there and has no other mode.
    stuck: bool,
}

/// `home` is where the agent would be by itself.
fn aim(mode: Mode, option: &SessionOption, home: &str, agent: &AgentOpened) -> Aim {
    let is = |list: &[String], value: &str| list.iter().any(|known| known == value);
    let (read_only, unattended) = (&agent.read_only_modes, &agent.unattended_modes);
    let offered = |value: &str| option.choices.iter().any(|choice| choice.value == value);
    let (fits, other) = match mode {
        Mode::Auto => (true, None),
        Mode::Chat => (is(read_only, home), read_only.iter().find(|value| offered(value)).cloned()),
        Mode::Approve | Mode::SmartApprove => {
            let asks = |value: &str| !is(read_only, value) && !is(unattended, value);
            let other = option.choices.iter().find(|choice| asks(&choice.value));
            (!is(unattended, home), other.map(|choice| choice.value.clone()))
        }
    };
    match other {
        Some(target) if !fits => Aim { target, stuck: false },
        // In chat the agent's questions are refused, so it need not have a mode for it.
        _ => Aim { target: home.to_owned(), stuck: !fits && mode != Mode::Chat },
    }
}

/// Whether a setting would let the agent work without asking although the session's mode is another.
pub(super) fn needs_auto(mode: Mode, option: &SessionOption, value: &str, agent: &AgentOpened) -> bool {
    let unattended = agent.unattended_modes.iter().any(|known| known == value);
    option.category == "mode" && unattended && mode != Mode::Auto
}

impl TurnTask {
    /// Brings the agent's mode in line with the session's. `started`: the agent has just been started, and what was
    /// chosen for it is not set yet.
    pub(super) async fn follow_mode(&self, opened: &mut Opened, started: bool) -> TurnResult<()> {
        let link = opened.link.clone();
        let modes = link.session.options().into_iter().find(|option| option.category == "mode");
        let Some(option) = modes else { return Ok(()) };
        let mode = match self.start.mode {
            Some(mode) => mode,
            None => link.bridge.session_mode().await,
        };
        let home = if started || opened.record.away_from.is_some() {
            let session_id = self.start.session.session_id();
            let mut records = read_records(&self.start.services, session_id).await?;
            let record = records.providers.remove(self.provider_id()).unwrap_or_default();
            let chosen = record.chosen.get(&option.option_id).cloned();
            let known = |value: &String| option.choices.iter().any(|choice| choice.value == *value);
            let away_from = opened.record.away_from.clone();
            chosen.filter(known).or(away_from.filter(known)).unwrap_or_else(|| option.value.clone())
        } else {
            option.value.clone()
        };
        let Aim { target, stuck } = aim(mode, &option, &home, link.session.opened());
        let name = &link.session.opened().name;
        if stuck && started {
            let text =
                format!("{name} has no mode in which it asks before it works; it is in its mode {target}");
            self.emit(vec![self.notice(NoticeLevel::Warning, "agent_mode", text)]).await?;
        }
        opened.record.away_from = (target != home).then_some(home);
        if target == option.value {
            return Ok(());
        }
        let setting = link.session.set_option(&option.option_id, &target);
        let why = match self.unless_cancelled(tokio::time::timeout(MODE_WAIT, setting)).await? {
            Ok(Ok(options)) => {
                link.bridge.show_options(options).await;
                return Ok(());
            }
            Ok(Err(error)) => error.message,
            Err(_) => format!("it did not answer within {} s", MODE_WAIT.as_secs()),
        };
        let text = format!("{name} could not be brought into its mode {target}: {why}");
        Ok(self.emit(vec![self.notice(NoticeLevel::Warning, "agent_mode", text)]).await?)
    }
}

#[cfg(test)]
mod tests {
    use gander_domain::session::OptionChoice;

    use super::*;

    fn option(choices: &[&str]) -> SessionOption {
        let choice = |value: &&str| OptionChoice {
            value: (*value).into(),
            name: (*value).into(),
            description: String::new(),
        };
        SessionOption {
            option_id: "mode".into(),
            name: "Mode".into(),
            description: String::new(),
            category: "mode".into(),
            kind: "select".into(),
            value: String::new(),
            choices: choices.iter().map(choice).collect(),
        }
    }

    #[test]
    fn an_agent_is_where_the_sessions_mode_allows() {
        let agent = AgentOpened {
            read_only_modes: vec!["plan".into(), "chat".into()],
            unattended_modes: vec!["yolo".into()],
            ..AgentOpened::default()
        };
        let all = &["yolo", "plan", "default", "edit"][..];
        for (mode, choices, home, target, stuck) in [
            (Mode::Auto, all, "yolo", "yolo", false),
            (Mode::Auto, all, "default", "default", false),
            (Mode::Chat, all, "default", "plan", false),
            (Mode::Chat, all, "yolo", "plan", false),
            (Mode::Chat, all, "plan", "plan", false),
            (Mode::Chat, &["default", "chat"], "default", "chat", false),
            (Mode::Chat, &["default"], "default", "default", false),
            (Mode::Approve, all, "edit", "edit", false),
            (Mode::Approve, all, "plan", "plan", false),
            (Mode::Approve, all, "yolo", "default", false),
            (Mode::SmartApprove, all, "yolo", "default", false),
            (Mode::Approve, &["yolo", "plan"], "yolo", "yolo", true),
        ] {
            let expected = Aim { target: target.into(), stuck };
            assert_eq!(aim(mode, &option(choices), home, &agent), expected, "{mode:?} {choices:?} {home}");
        }
        assert!(needs_auto(Mode::Approve, &option(all), "yolo", &agent));
        assert!(!needs_auto(Mode::Auto, &option(all), "yolo", &agent));
        let other = SessionOption { category: "model".into(), ..option(all) };
        assert!(!needs_auto(Mode::Approve, &other, "yolo", &agent));
    }
}
