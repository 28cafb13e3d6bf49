//! The words for where an event came in and why it was not taken.
//!
//! One spelling each: the enum, the metric label, the header `Tallylight-Refused` and the documentation say
//! the same word.

/// Declares an enum whose variants have one label each, and an index for tables of counters.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every variant, in the order of [`Self::index`].
            pub const ALL: [$name; [$($label),*].len()] = [$($name::$variant),*];

            /// The word used in metrics, headers and files.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }

            /// The place in tables with one slot a variant. Stable: it stands in the log.
            pub const fn index(self) -> usize {
                self as usize
            }

            /// The variant at a place in such a table.
            pub fn from_index(index: usize) -> Option<Self> {
                Self::ALL.get(index).copied()
            }
        }
    };
}

words! {
    /// The door that an event came through.
    Front {
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2, with or without TLS.
        Http2 = "http2",
        /// HTTP/3.
        Http3 = "http3",
        /// A datagram.
        Udp = "udp",
    }
}

words! {
    /// Why a good event was not taken: the sender may try again later.
    Shed {
        /// The channel to the log writer is full.
        Queue = "queue",
        /// The log cannot have another segment.
        Disk = "disk",
        /// The collector is stopping.
        Draining = "draining",
        /// The peer sends more than its limit.
        Rate = "rate",
    }
}

words! {
    /// Why an event will never be taken: sending it again does not help.
    Refusal {
        /// It cannot be understood.
        Malformed = "malformed",
        /// Its site is not one of those listed.
        Site = "site",
        /// A body, batch or event over the limit.
        TooLarge = "too_large",
        /// A content type or encoding that is not taken.
        Type = "type",
        /// The browser is only guessing that the visitor will come (prefetch, prerender).
        Speculative = "speculative",
        /// A redirect without a valid signature.
        Signature = "signature",
    }
}

words! {
    /// Why a datagram is refused as a whole, before any event in it is looked at.
    DatagramRefusal {
        /// Its tag is wrong or missing, or no key can check it.
        Tag = "tag",
        /// It is plain where only keyed ones are taken.
        Plain = "plain",
        /// Its number is older than the window.
        Stale = "stale",
        /// It is no datagram of ours: cut short, of another version, or with nothing in it.
        Malformed = "malformed",
        /// Whoever sent it may not send unkeyed.
        Address = "address",
    }
}
