//! How commands fail: a sentence for people, an exit code for scripts.

use std::fmt;
use std::process::ExitCode;

use clawhub_config::ConfigError;

/// Shown under `--help`.
pub(crate) const HELP: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the node or cluster cannot be \
reached or cannot answer now (try again), 4 refused, 5 the node was removed from its cluster, \
78 the configuration has mistakes.";

/// Why a command did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failed,
    Usage,
    Unavailable,
    Refused,
}

impl Failure {
    /// Something broke.
    pub(crate) fn failed(message: impl Into<String>) -> Failure {
        Failure { kind: Kind::Failed, message: message.into() }
    }

    /// The command makes no sense as given.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure { kind: Kind::Usage, message: message.into() }
    }

    /// Worth trying again.
    pub(crate) fn unavailable(message: impl Into<String>) -> Failure {
        Failure { kind: Kind::Unavailable, message: message.into() }
    }

    /// Whether the same again may work later.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.kind == Kind::Unavailable
    }

    /// The exit code that tells a script what happened.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Unavailable => 3,
            Kind::Refused => 4,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Failure {
        use tonic::Code;
        let kind = match status.code() {
            // `Unknown` is what a broken connection gives: the outcome is unknown.
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::Unknown => Kind::Unavailable,
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated => Kind::Refused,
            _ => Kind::Failed,
        };
        let message = if status.message().is_empty() {
            status.code().description().to_owned()
        } else {
            status.message().to_owned()
        };
        Failure { kind, message }
    }
}

impl From<ConfigError> for Failure {
    /// A command that was given a wrong file was used wrongly; 78 is for the node that is started with it.
    fn from(error: ConfigError) -> Failure {
        Failure::usage(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_differ_from_what_is_worth_trying_again() {
        let refused = Failure::from(tonic::Status::failed_precondition("the node is a member already"));
        assert_eq!(
            (refused.kind, refused.to_string().as_str()),
            (Kind::Refused, "the node is a member already")
        );
        assert_eq!(Failure::from(tonic::Status::unavailable("no leader")).kind, Kind::Unavailable);
        assert_eq!(Failure::from(tonic::Status::internal("")).kind, Kind::Failed);
    }
}
