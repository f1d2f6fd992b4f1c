//! Goose's REST and SSE surface over the canonical API.
