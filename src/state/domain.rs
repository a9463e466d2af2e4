//! How the root enums are made: `Command`, `Reply`, `Rejected` and `Event` have one variant a domain, and the
//! domain's own enum in its folder says the rest.
//!
//! A new domain is a folder and one line in each of the four. The place of a line is its byte form, so that a new
//! one comes last; a line that this version does not have is an unknown shape, see `record.rs`.

/// Declares a root enum, and how it is made from what a domain says. Variants in brackets belong to no domain.
macro_rules! by_domain {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $([$(#[$plain_meta:meta])* $plain:ident])*
            $($(#[$of:meta])* $domain:ident($inner:ty),)*
        }
    ) => {
        $(#[$meta])*
        pub enum $name {
            $($(#[$plain_meta])* $plain,)*
            $($(#[$of])* #[doc = concat!("What is of domain `", stringify!($domain), "`.")] $domain($inner),)*
        }

        $($(#[$of])* impl From<$inner> for $name {
            fn from(inner: $inner) -> Self {
                $name::$domain(inner)
            }
        })*
    };
}
pub(crate) use by_domain;

/// [`by_domain`] for `Command`: each domain's commands say what they touch, what a client must be permitted to do
/// for them, who else proposes them, and are applied by their domain.
macro_rules! commands {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$of:meta])* $domain:ident($inner:ty),)*
        }
    ) => {
        crate::domain::by_domain! {
            $(#[$meta])*
            pub enum $name {
                $($(#[$of])* $domain($inner),)*
            }
        }

        impl $name {
            /// What the command touches: who proposes it must have the right to.
            pub fn resource(&self) -> Touched {
                match self {
                    $($(#[$of])* $name::$domain(cmd) => cmd.resource(),)*
                }
            }

            /// What a client must be permitted to do to have the command proposed in its name; nothing for what
            /// only the cluster and its operators propose.
            pub fn action(&self) -> Option<Action> {
                match self {
                    $($(#[$of])* $name::$domain(cmd) => cmd.action(),)*
                }
            }

            /// Whether an entry with this command must carry a request identity, since applying it a second time,
            /// later, would do harm. The others are idempotent by themselves, or are what a session needs before
            /// it exists.
            pub fn needs_identity(&self) -> bool {
                match self {
                    $($(#[$of])* $name::$domain(cmd) => cmd.needs_identity(),)*
                }
            }

            /// Who proposes it besides clients: see `proposers.rs`.
            pub(crate) fn proposers(&self) -> Proposers {
                match self {
                    $($(#[$of])* $name::$domain(cmd) => cmd.proposers(),)*
                }
            }

            pub(crate) fn apply(&self, tx: &mut Tx<'_>, cx: &mut ApplyContext) -> Result<Reply, Stop> {
                match self {
                    $($(#[$of])* $name::$domain(cmd) => cmd.apply(tx, cx),)*
                }
            }
        }
    };
}
pub(crate) use commands;

/// [`by_domain`] for `Rejected`: each domain's refusals speak for themselves.
macro_rules! rejections {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$of:meta])* $domain:ident($inner:ty),)*
        }
    ) => {
        crate::domain::by_domain! {
            $(#[$meta])*
            pub enum $name {
                $($(#[$of])* $domain($inner),)*
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $($(#[$of])* $name::$domain(rejected) => rejected.fmt(f),)*
                }
            }
        }

        impl std::error::Error for $name {}
    };
}
pub(crate) use rejections;
