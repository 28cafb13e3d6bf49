//! Secrets, and what is signed with them: HMAC-SHA-256 (RFC 2104, FIPS 180-4).
//!
//! A key file has one key a line, `ID HEX`: the id is 0 to 255, the secret 32 bytes or more. The first one signs, all
//! of them verify: so a new key is added behind, known everywhere, then put first, and the old one removed at last.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

/// The shortest secret, in bytes: as much as the hash gives.
pub const MIN_SECRET: usize = 32;

/// A secret with its id.
#[derive(Clone)]
pub struct Key {
    id: u8,
    /// Keyed already: to do it again costs as much as a short message.
    mac: Hmac<Sha256>,
}

/// The keys of a file.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

/// Why a key file cannot be used. Never says anything about a secret.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// Not two words.
    #[error("line {line} is not `ID HEX`")]
    NotAKey {
        /// Its number, from 1.
        line: usize,
    },
    /// Not 0 to 255.
    #[error("line {line}: the id is not a number from 0 to 255")]
    Id {
        /// Its number, from 1.
        line: usize,
    },
    /// Not hex.
    #[error("line {line}: the secret is not an even number of hex digits")]
    Hex {
        /// Its number, from 1.
        line: usize,
    },
    /// Guessable.
    #[error("line {line}: the secret has {len} bytes, it must have at least {MIN_SECRET}")]
    Short {
        /// Its number, from 1.
        line: usize,
        /// Its length in bytes.
        len: usize,
    },
    /// Which one would verify?
    #[error("line {line}: there is a key {id} already")]
    Twice {
        /// Its number, from 1.
        line: usize,
        /// The id.
        id: u8,
    },
    /// Nothing could be verified.
    #[error("there is no key in it")]
    Empty,
}

impl Key {
    /// A key of at least [`MIN_SECRET`] bytes; None if the secret is shorter.
    pub fn new(id: u8, secret: &[u8]) -> Option<Self> {
        let mac = Hmac::new_from_slice(secret).ok().filter(|_| secret.len() >= MIN_SECRET)?;
        Some(Self { id, mac })
    }

    /// Its id.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// HMAC-SHA-256 of these bytes.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 32] {
        self.over(bytes).finalize().into_bytes().into()
    }

    /// Whether `tag` is the beginning of the HMAC of these bytes. Takes the same time whatever is wrong.
    pub fn verifies(&self, bytes: &[u8], tag: &[u8]) -> bool {
        self.over(bytes).verify_truncated_left(tag).is_ok()
    }

    fn over(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(bytes);
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Keys {
    /// Reads a key file.
    ///
    /// # Errors
    /// If a line is no key, an id stands there twice, or there is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys = Self::default();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            let key = parse_line(line, text)?;
            if keys.get(key.id).is_some() {
                return Err(KeyError::Twice { line, id: key.id });
            }
            keys.0.push(key);
        }
        if keys.0.is_empty() { Err(KeyError::Empty) } else { Ok(keys) }
    }

    /// The one that signs: the first.
    pub fn signing(&self) -> Option<&Key> {
        self.0.first()
    }

    /// The key of this id.
    pub fn get(&self, id: u8) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn parse_line(line: usize, text: &str) -> Result<Key, KeyError> {
    let mut words = text.split_whitespace();
    let (Some(id), Some(hex), None) = (words.next(), words.next(), words.next()) else {
        return Err(KeyError::NotAKey { line });
    };
    let id = id.parse().map_err(|_| KeyError::Id { line })?;
    let secret = base16ct::mixed::decode_vec(hex).map_err(|_| KeyError::Hex { line })?;
    Key::new(id, &secret).ok_or(KeyError::Short { line, len: secret.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn the_first_signs_and_all_verify() {
        let keys = Keys::parse(&format!("# ours\n\n 7 {HEX} # new\r\n3\t{}\n", HEX.to_uppercase().repeat(2))).unwrap();
        assert_eq!((keys.len(), keys.signing().map(Key::id)), (2, Some(7)));
        let old = keys.get(3).unwrap();
        let tag = old.sign(b"words");
        assert!(old.verifies(b"words", &tag) && old.verifies(b"words", &tag[..16]));
        assert!(!old.verifies(b"word", &tag) && !keys.get(7).unwrap().verifies(b"words", &tag));
        assert!(keys.get(0).is_none());
    }

    #[test]
    fn the_hmac_is_that_of_rfc_4231() {
        // test case 3
        let key = Key { id: 0, mac: Hmac::new_from_slice(&[0xaa; 20]).unwrap() };
        let tag = base16ct::lower::encode_string(&key.sign(&[0xdd; 50]));
        assert_eq!(tag, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    }

    #[test]
    fn what_is_no_key_is_named_by_its_line_and_without_the_secret() {
        for (text, error) in [
            ("".to_owned(), KeyError::Empty),
            ("# nothing".to_owned(), KeyError::Empty),
            (format!("\n{HEX}"), KeyError::NotAKey { line: 2 }),
            (format!("1 {HEX} more"), KeyError::NotAKey { line: 1 }),
            (format!("256 {HEX}"), KeyError::Id { line: 1 }),
            (format!("1 {HEX}0"), KeyError::Hex { line: 1 }),
            (format!("1 {}xx", &HEX[2..]), KeyError::Hex { line: 1 }),
            (format!("1 {}", &HEX[2..]), KeyError::Short { line: 1, len: 31 }),
            (format!("1 {HEX}\n1 {HEX}"), KeyError::Twice { line: 2, id: 1 }),
        ] {
            assert_eq!(Keys::parse(&text).unwrap_err(), error);
            assert!(!error.to_string().contains("0001020304"));
        }
        assert_eq!(format!("{:?}", Keys::parse(&format!("5 {HEX}")).unwrap()), "Keys([Key(5)])");
    }
}
