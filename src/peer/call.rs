//! How a call failed, for rooms that know no gRPC: statuses end in this crate and at the edges. Owns nothing.

use tonic::{Code, Status};

/// The kind of a failure, by which a caller decides what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallCode {
    /// The request makes no sense.
    Invalid,
    /// What the caller showed does not entitle it.
    Denied,
    /// The request names something that is not there.
    NotFound,
    /// Something of this name is there already.
    Exists,
    /// The request does not fit what is there now; again it is of no use until that changes.
    Precondition,
    /// It was not done, or is not known to be. The same again may help.
    Unavailable,
    /// The fault of the node that was called.
    Internal,
}

impl CallCode {
    /// The status that says so, with `text` for the person who reads it. A node's own fault is logged as well.
    pub fn status(self, text: String) -> Status {
        if self == CallCode::Internal {
            tracing::error!(error = %text, "an administrative request failed");
        }
        Status::new(self.into(), text)
    }
}

impl From<CallCode> for Code {
    fn from(code: CallCode) -> Code {
        match code {
            CallCode::Invalid => Code::InvalidArgument,
            CallCode::Denied => Code::PermissionDenied,
            CallCode::NotFound => Code::NotFound,
            CallCode::Exists => Code::AlreadyExists,
            CallCode::Precondition => Code::FailedPrecondition,
            CallCode::Unavailable => Code::Unavailable,
            CallCode::Internal => Code::Internal,
        }
    }
}

impl From<Code> for CallCode {
    fn from(code: Code) -> CallCode {
        match code {
            Code::InvalidArgument => CallCode::Invalid,
            Code::PermissionDenied | Code::Unauthenticated => CallCode::Denied,
            Code::NotFound => CallCode::NotFound,
            Code::AlreadyExists => CallCode::Exists,
            Code::FailedPrecondition => CallCode::Precondition,
            // `Unknown` is what a broken connection gives: nobody answered.
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::Unknown => CallCode::Unavailable,
            _ => CallCode::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        for code in [
            CallCode::Invalid,
            CallCode::Denied,
            CallCode::NotFound,
            CallCode::Exists,
            CallCode::Precondition,
            CallCode::Unavailable,
            CallCode::Internal,
        ] {
            let status = code.status("why".to_owned());
            assert_eq!(CallCode::from(status.code()), code);
            assert_eq!(status.message(), "why");
        }
    }

    #[test]
    fn a_call_that_nobody_answered_may_be_made_again() {
        assert_eq!(CallCode::from(Code::Unknown), CallCode::Unavailable);
        assert_eq!(CallCode::from(Code::DeadlineExceeded), CallCode::Unavailable);
        assert_eq!(CallCode::from(Code::Unimplemented), CallCode::Internal);
    }
}
