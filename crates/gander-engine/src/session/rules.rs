//! Permission rules of one session: those that answers created, which are in the log, and those that were set, which are
//! kept beside it and win.

use std::{collections::BTreeMap, sync::PoisonError};

use gander_domain::{
    SessionId,
    permission::{PermissionRule, RememberScope, RuleDecision},
};

use super::core::Core;
use crate::services::Services;

/// The document beside the log.
const DOCUMENT: &str = "permission_rules";

/// What was set, by pattern; `None`: the rule was removed.
pub(crate) type RuleEdits = BTreeMap<String, Option<RuleDecision>>;

impl Services {
    pub(crate) async fn rule_edits(
        &self,
        session_id: &SessionId,
    ) -> Result<RuleEdits, gander_domain::ErrorDetail> {
        let body = self.store.get_document(session_id, DOCUMENT).await;
        let body = body.map_err(|e| crate::services::store_error(&e))?;
        Ok(body.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default())
    }

    pub(crate) async fn store_rule_edits(
        &self,
        session_id: &SessionId,
        edits: &RuleEdits,
    ) -> Result<(), gander_domain::ErrorDetail> {
        let body = serde_json::to_vec(edits)
            .map_err(|e| gander_domain::ErrorDetail::internal(format!("rules: {e}")))?;
        let put = self.store.put_document(session_id, DOCUMENT, Some(body));
        put.await.map_err(|e| crate::services::store_error(&e))
    }
}

impl Core {
    /// The session's own rules.
    pub(crate) fn session_rules(&self) -> Vec<PermissionRule> {
        let edits = &self.rule_edits;
        let of_log = self.state.rules.iter().filter(|r| !edits.contains_key(&r.tool_pattern)).cloned();
        let set = edits.iter().filter_map(|(pattern, decision)| {
            Some(PermissionRule {
                tool_pattern: pattern.clone(),
                decision: (*decision)?,
                scope: RememberScope::Session,
            })
        });
        of_log.chain(set).collect()
    }

    /// All rules that bear on calls of this session, the session's own first.
    pub(crate) fn applicable_rules(&self) -> Vec<PermissionRule> {
        let mut rules = self.session_rules();
        rules.extend(self.services.project_rules(&self.state.session.working_directory));
        rules.extend(self.services.user_rules());
        rules
    }

    /// Takes over what was set and stored.
    pub(crate) fn set_rule_edits(&mut self, edits: RuleEdits) {
        self.rule_edits = edits;
        self.publish_rules();
    }

    /// An answer is newer than what was set before.
    pub(super) fn forget_rule_edit(&mut self, pattern: &str) {
        if self.rule_edits.remove(pattern).is_none() {
            return;
        }
        self.publish_rules();
        let (services, id, edits) =
            (self.services.clone(), self.session_id().clone(), self.rule_edits.clone());
        self.services.tasks.spawn(async move {
            let _one_writer = services.rules_lock.lock().await;
            if let Err(error) = services.store_rule_edits(&id, &edits).await {
                tracing::warn!(%error, "a permission rule of the session could not be stored");
            }
        });
    }

    /// Shows the rules to those who do not ask the actor.
    pub(super) fn publish_rules(&self) {
        let now = self.session_rules();
        let rules = &mut *self.me.shared.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if **rules != *now {
            *rules = now.into();
        }
    }
}
