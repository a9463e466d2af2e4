//! What the authorizer wants to know about a principal beyond its identity.

use clawhub_types::Principal;

/// Whether showing other credentials could change the decision.
pub(crate) fn may_authenticate(principal: &Principal) -> bool {
    matches!(principal, Principal::Anonymous)
}
