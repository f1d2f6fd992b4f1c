//! The Agent Client Protocol over the canonical API: gander as an agent.
