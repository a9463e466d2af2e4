//! Conversions between protobuf messages and the shared vocabulary of [`clawhub_types`]. What is missing or
//! malformed is an error, never a default.

use clawhub_types::{ClusterId, Location, Roles, label};

use crate::peer;

/// A message that is well-formed protobuf and still not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid message: {field}: {problem}")]
pub struct Invalid {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Invalid {
    /// Names a field and what is wrong with it.
    pub fn new(field: &'static str, problem: &'static str) -> Self {
        Invalid { field, problem }
    }
}

impl From<Invalid> for tonic::Status {
    fn from(e: Invalid) -> Self {
        tonic::Status::invalid_argument(e.to_string())
    }
}

/// The value of a message field that may not be left out.
///
/// # Errors
/// [`Invalid`] if it was.
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or(Invalid { field, problem: "is missing" })
}

/// A byte field of fixed length.
///
/// # Errors
/// [`Invalid`] for any other length.
pub fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], Invalid> {
    bytes.try_into().map_err(|_| Invalid { field, problem: "has the wrong length" })
}

impl peer::JoinReply {
    /// The cluster that was joined.
    ///
    /// # Errors
    /// [`Invalid`] unless it is 16 bytes.
    pub fn cluster_id(&self) -> Result<ClusterId, Invalid> {
        array("cluster", &self.cluster).map(ClusterId)
    }
}

impl From<Location> for peer::Location {
    fn from(l: Location) -> Self {
        peer::Location { region: l.region, zone: l.zone }
    }
}

impl TryFrom<peer::Location> for Location {
    type Error = Invalid;

    fn try_from(l: peer::Location) -> Result<Self, Invalid> {
        let checked = |field, s: &str| label(s).map_err(|_| Invalid { field, problem: "is not a label" });
        Ok(Location { region: checked("region", &l.region)?, zone: checked("zone", &l.zone)? })
    }
}

impl From<Roles> for peer::Roles {
    fn from(r: Roles) -> Self {
        peer::Roles { voter: r.voter, storage: r.storage }
    }
}

impl From<peer::Roles> for Roles {
    fn from(r: peer::Roles) -> Self {
        Roles { voter: r.voter, storage: r.storage }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_round_trip_and_refuse_what_is_no_label() {
        let there = Location { region: "eu-1".into(), zone: "a".into() };
        assert_eq!(Location::try_from(peer::Location::from(there.clone())), Ok(there));
        let bad = peer::Location { region: "eu-1".into(), zone: "A b".into() };
        assert_eq!(Location::try_from(bad), Err(Invalid::new("zone", "is not a label")));
        assert!(Location::try_from(peer::Location::default()).is_err());
    }

    #[test]
    fn fixed_lengths_are_exact() {
        assert_eq!(array::<4>("x", &[1, 2, 3, 4]), Ok([1, 2, 3, 4]));
        for bad in [&[][..], &[1, 2, 3], &[1, 2, 3, 4, 5]] {
            assert!(array::<4>("x", bad).is_err());
        }
        assert_eq!(required::<u8>("y", None), Err(Invalid::new("y", "is missing")));
    }

    #[test]
    fn roles_round_trip() {
        for (voter, storage) in [(true, true), (true, false), (false, true), (false, false)] {
            let roles = Roles { voter, storage };
            assert_eq!(Roles::from(peer::Roles::from(roles)), roles);
        }
    }
}
