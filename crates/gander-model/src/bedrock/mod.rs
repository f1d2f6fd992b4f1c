//! AWS Bedrock: `converse-stream`, with a Bedrock key or requests signed with access keys.
//!
//! The wire is AWS's binary event stream, the signature is version 4; both are small enough to stand here, so that no SDK
//! with a TLS stack of its own is needed. Profiles, SSO and instance roles are not read: `aws configure export-credentials`
//! gives the variables for those.

mod encode;
mod frames;
mod read;
mod sign;

/// Name of this engine in stored states.
pub(crate) const ENGINE: &str = "bedrock";

pub(crate) use encode::encode;
pub(crate) use read::Reader;
pub use sign::Credentials;
pub(crate) use sign::sign;

#[cfg(any(test, feature = "testing"))]
pub(crate) use frames::write_frame;

#[cfg(test)]
mod tests;
