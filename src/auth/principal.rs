//! Who is asking, as the authorizer sees it.

use clawhub_types::Principal;

/// Whether showing other credentials could change the decision.
pub(crate) fn may_authenticate(principal: &Principal) -> bool {
    matches!(principal, Principal::Anonymous)
}
