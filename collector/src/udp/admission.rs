//! Who may send datagrams: the tag, or else the address, decides before anything in them is looked at.
//!
//! | | tag is right | tag is wrong, or its key unknown | framed, no tag | plain |
//! | --- | --- | --- | --- | --- |
//! | keys, from elsewhere | taken | `tag` | `tag` | `plain` |
//! | keys, from a network in `--udp-from` | taken | `tag` | taken | taken |
//! | no keys, no `--udp-from` | – | `tag` | taken | taken |
//! | no keys, from a network in `--udp-from` | – | `tag` | taken | taken |
//! | no keys, from elsewhere | – | `tag` | `address` | `address` |

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tallylight_proto::DatagramRefusal;
use tallylight_proto::datagram::{Datagram, Frame};
use tallylight_proto::keys::Keys;
use tokio::sync::watch;

use crate::watched::Watched;

/// What a worker knows of those who may send.
pub struct Admission {
    keys: Watched<Keys>,
    /// Who may send unkeyed, where that is said.
    from: Vec<IpNet>,
}

impl Admission {
    /// These keys, of which there may be none, and these networks.
    pub fn new(keys: watch::Receiver<Arc<Keys>>, from: Vec<IpNet>) -> Self {
        Self { keys: Watched::new(keys), from }
    }

    /// Takes the new keys if there are any. To be called once for a batch of datagrams.
    pub fn refresh(&self) {
        self.keys.refresh();
    }

    /// A sender at this address.
    pub fn sender(&self, ip: IpAddr) -> Sender<'_> {
        // a socket for both families shows IPv4 as a part of IPv6
        let ip = ip.to_canonical();
        Sender { admission: self, is_listed: self.from.iter().any(|network| network.contains(&ip)) }
    }
}

/// Whoever sent something.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    admission: &'a Admission,
    is_listed: bool,
}

impl Sender<'_> {
    /// Takes a datagram apart if this sender may send it.
    ///
    /// # Errors
    /// If it may not, or if it is no datagram.
    pub fn admit<'b>(&self, bytes: &'b [u8]) -> Result<Datagram<'b>, DatagramRefusal> {
        let datagram = Datagram::parse(bytes).map_err(|_| DatagramRefusal::Malformed)?;
        match &datagram {
            Datagram::Framed(frame) => self.check_frame(frame)?,
            Datagram::Plain(_) => self.check_unkeyed(DatagramRefusal::Plain)?,
        }
        Ok(datagram)
    }

    fn check_frame(&self, frame: &Frame<'_>) -> Result<(), DatagramRefusal> {
        let Some(id) = frame.number.source.key else { return self.check_unkeyed(DatagramRefusal::Tag) };
        let keys = self.admission.keys.get();
        let is_right = keys.get(id).is_some_and(|key| frame.is_signed_by(key));
        if is_right { Ok(()) } else { Err(DatagramRefusal::Tag) }
    }

    /// `keyless` is what it is refused for if keys are what it needs.
    fn check_unkeyed(&self, keyless: DatagramRefusal) -> Result<(), DatagramRefusal> {
        let Admission { keys, from, .. } = self.admission;
        match (self.is_listed, keys.get().is_empty()) {
            (true, _) => Ok(()),
            (false, false) => Err(keyless),
            (false, true) if from.is_empty() => Ok(()),
            (false, true) => Err(DatagramRefusal::Address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tallylight_proto::datagram;
    use tallylight_proto::keys::Key;

    const LISTED: &str = "10.1.2.3";
    const STRANGER: &str = "192.0.2.1";

    fn keys(ids: &[u8]) -> Arc<Keys> {
        let lines: String = ids.iter().map(|id| format!("{id} {}\n", format!("{id:02x}").repeat(32))).collect();
        Arc::new(Keys::parse(&lines).unwrap_or_default())
    }

    fn admission(ids: &[u8], from: &[&str]) -> Admission {
        let (_, keys) = watch::channel(keys(ids));
        Admission::new(keys, from.iter().map(|network| network.parse().unwrap()).collect())
    }

    fn framed(key: Option<u8>) -> Vec<u8> {
        let key = key.map(|id| Key::new(id, &[id; 32]).unwrap());
        let mut bytes = Vec::new();
        datagram::write(&mut bytes, 1, 1, b"a=1", key.as_ref());
        bytes
    }

    /// As in the table: what comes of a right tag, a wrong one, an unknown key, no tag, and plain text.
    fn outcomes(admission: &Admission, ip: &str) -> [Option<DatagramRefusal>; 5] {
        let mut wrong = framed(Some(1));
        *wrong.last_mut().unwrap() ^= 1;
        let datagrams = [framed(Some(1)), wrong, framed(Some(9)), framed(None), b"a=1".to_vec()];
        datagrams.map(|bytes| admission.sender(ip.parse().unwrap()).admit(&bytes).err())
    }

    #[test]
    fn the_tag_decides_or_else_the_address() {
        use DatagramRefusal::{Address, Plain, Tag};
        let (tag, plain, address) = (Some(Tag), Some(Plain), Some(Address));
        let (both, no_keys): (&[u8], &[u8]) = (&[1, 2], &[]);
        let (from, anybody): (&[&str], &[&str]) = (&["10.0.0.0/8", "2001:db8::/32"], &[]);
        for (ids, from, ip, expected) in [
            (both, anybody, STRANGER, [None, tag, tag, tag, plain]),
            (both, from, STRANGER, [None, tag, tag, tag, plain]),
            (both, from, LISTED, [None, tag, tag, None, None]),
            (no_keys, anybody, STRANGER, [tag, tag, tag, None, None]),
            (no_keys, from, LISTED, [tag, tag, tag, None, None]),
            (no_keys, from, "::ffff:10.1.2.3", [tag, tag, tag, None, None]),
            (no_keys, from, "2001:db8::1", [tag, tag, tag, None, None]),
            (no_keys, from, STRANGER, [tag, tag, tag, address, address]),
            (no_keys, from, "::1", [tag, tag, tag, address, address]),
        ] {
            assert_eq!(outcomes(&admission(ids, from), ip), expected, "{ids:?} {from:?} {ip}");
        }
    }

    #[test]
    fn what_is_no_datagram_is_malformed_whoever_sends_it() {
        let admission = admission(&[1], &["10.0.0.0/8"]);
        for bytes in [&b""[..], b"\r\n", b"\xF5", b"\xF5TL\x02aaaaaaaaaaaaaaaaaaaaaaaa"] {
            for ip in [LISTED, STRANGER] {
                let result = admission.sender(ip.parse().unwrap()).admit(bytes);
                assert_eq!(result, Err(DatagramRefusal::Malformed));
            }
        }
    }

    #[test]
    fn new_keys_are_used_from_the_next_batch_on() {
        let (set, watched) = watch::channel(keys(&[1]));
        let admission = Admission::new(watched, Vec::new());
        let is_taken = |id| admission.sender(STRANGER.parse().unwrap()).admit(&framed(Some(id))).is_ok();
        assert!(is_taken(1) && !is_taken(2));
        set.send_replace(keys(&[2]));
        admission.refresh();
        assert!(!is_taken(1) && is_taken(2));
        drop(set);
        admission.refresh();
        assert!(is_taken(2));
    }
}
