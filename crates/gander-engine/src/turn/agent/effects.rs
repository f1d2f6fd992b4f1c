//! What an agent reports of the session as a whole, as events. Each runs inside the actor, against the state of now.

use gander_domain::{
    ErrorDetail, Payload, TurnId, Usage,
    event::{UpdateCause, UsageReport},
    session::{SessionOption, TitleSource},
    usage::{Cost, UsagePurpose},
};

use super::OPTION_PREFIX;
use crate::session::Core;

pub(super) fn set_commands(core: &mut Core, commands: Vec<gander_domain::session::Command>) {
    if core.state.commands != commands {
        core.emit(None, Payload::CommandsChanged { commands });
    }
}

pub(super) fn set_title(core: &mut Core, title: String) {
    let mut session = core.state.session.clone();
    if session.title_source == TitleSource::User || session.title == title {
        return;
    }
    session.title = title;
    session.title_source = TitleSource::Generated;
    core.emit(
        None,
        Payload::SessionUpdated {
            session: Box::new(session),
            changed_fields: vec!["title".to_owned()],
            cause: UpdateCause::TitleGenerated,
        },
    );
}

/// The agent's settings beside gander's own.
pub(super) fn set_options(core: &mut Core, options: Vec<SessionOption>) {
    let mode = core.state.session.mode.unwrap_or_else(|| core.services.configured_mode());
    let own = crate::engine::mode_option(mode);
    let agents = options.into_iter().map(|mut option| {
        option.option_id.insert_str(0, OPTION_PREFIX);
        if option.name == own.name {
            option.name = format!("Agent's {}", option.name.to_lowercase());
        }
        option
    });
    let all: Vec<_> = std::iter::once(own.clone()).chain(agents).collect();
    if core.state.options != all {
        core.emit(None, Payload::SessionOptionsChanged { options: all });
    }
}

pub(super) fn report(
    core: &mut Core,
    turn_id: Option<TurnId>,
    call: Usage,
    cost: Option<Cost>,
    context: Option<(u64, u64)>,
) {
    // Late usage of a turn that has ended counts for the session.
    let turn_id = turn_id.filter(|id| core.state.session.active_turn_id.as_ref() == Some(id));
    let totals = &core.state.session.usage;
    let cost_totals = match (&totals.cost_totals, &cost) {
        (Some(total), Some(more)) if total.currency == more.currency => {
            Some(Cost { amount_micros: total.amount_micros + more.amount_micros, ..total.clone() })
        }
        (total, more) => total.clone().or_else(|| more.clone()),
    };
    let report = UsageReport {
        purpose: UsagePurpose::Turn,
        call,
        session_totals: totals.totals.plus(call),
        context_used_tokens: context.map(|(used, _)| used),
        context_window_tokens: context.map(|(_, window)| window),
        cost,
        cost_totals,
    };
    core.emit(turn_id, Payload::UsageReported(Box::new(report)));
}

impl Core {
    /// Whether the agent, as it last said, has this setting and value.
    pub(crate) fn check_agent_option(&self, option_id: &str, value: &str) -> Result<(), ErrorDetail> {
        let agents = self.state.options.iter().filter(|o| o.option_id.starts_with(OPTION_PREFIX));
        let full_id = format!("{OPTION_PREFIX}{option_id}");
        let Some(option) = agents.clone().find(|option| option.option_id == full_id) else {
            let known: Vec<_> = agents.map(|option| option.option_id.as_str()).collect();
            let what = match known.as_slice() {
                [] => "the agent has not said yet what can be set; start a turn first".to_owned(),
                known => format!("must be mode or one of {}", known.join(", ")),
            };
            return Err(ErrorDetail::invalid("option_id", what));
        };
        let known = option.choices.iter().any(|choice| choice.value == value);
        if option.choices.is_empty() || known {
            return Ok(());
        }
        let choices: Vec<_> = option.choices.iter().map(|choice| choice.value.as_str()).collect();
        Err(ErrorDetail::invalid("value.choice", format!("must be one of {}", choices.join(", "))))
    }

    /// Shows the agent's settings after one was set: what the agent says, or the wish where it does not run.
    pub(crate) fn show_agent_options(
        &mut self,
        options: Option<Vec<SessionOption>>,
        option_id: &str,
        value: &str,
    ) {
        if let Some(options) = options {
            return set_options(self, options);
        }
        let mut options = self.state.options.clone();
        let full_id = format!("{OPTION_PREFIX}{option_id}");
        for option in options.iter_mut().filter(|option| option.option_id == full_id) {
            value.clone_into(&mut option.value);
        }
        if options != self.state.options {
            self.emit(None, Payload::SessionOptionsChanged { options });
        }
    }
}
