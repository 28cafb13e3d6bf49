//! The node's name: made once for a data folder, and part of file names from then on.
//!
//! The rule kept here: a name that was given out is never changed, whatever happens to the machine's own name.

use std::path::{Path, PathBuf};

use tallylight_host::chance;
use tallylight_proto::layout;
use thiserror::Error;

use crate::log::StorageError;
use crate::log::storage;

/// The longest label of a host name (RFC 1035).
const MAX_LABEL: usize = 63;

/// Why there is no name.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The disk said no.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file holds something else. Nothing is guessed: another name would be another node.
    #[error("{path} does not hold the name of a node")]
    NotAName {
        /// The file.
        path: PathBuf,
    },
    /// The system has no random numbers.
    #[error("no random numbers for the name of the node: {0}")]
    Random(std::io::Error),
}

/// The name in the data folder, made now if there is none. The caller holds the folder's lock.
///
/// # Errors
/// If the file cannot be read or written, or holds no name.
pub fn name(data: &Path) -> Result<String, NodeError> {
    let path = data.join(layout::NODE);
    if let Some(text) = storage::read_small(&path)? {
        let name = text.trim();
        return if layout::is_node_name(name) { Ok(name.to_owned()) } else { Err(NodeError::NotAName { path }) };
    }
    let [a, b, c, ..] = chance::bits().map_err(NodeError::Random)?.to_ne_bytes();
    let host = rustix::system::uname();
    let name = made_of(&host.nodename().to_string_lossy(), [a, b, c]);
    storage::write_small(&path, &format!("{name}\n"))?;
    Ok(name)
}

/// The first label of a host name, with what cannot stand in a file name replaced, and six hex digits.
fn made_of(host: &str, random: [u8; 3]) -> String {
    let label = host.split('.').next().unwrap_or_default();
    let fitting = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let label: String = label.chars().map(fitting).take(MAX_LABEL).collect();
    let label = if label.is_empty() { "node" } else { &label };
    let [a, b, c] = random;
    let name = format!("{label}-{a:02x}{b:02x}{c:02x}");
    assert!(layout::is_node_name(&name), "a made name is a name: {name}");
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let first = name(folder.path()).unwrap();
        assert!(layout::is_node_name(&first), "{first}");
        assert_eq!(name(folder.path()).unwrap(), first);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(name(other.path()).unwrap(), first);
    }

    #[test]
    fn a_file_without_a_name_is_refused_and_not_overwritten() {
        for text in ["", "../x", "two words"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(layout::NODE);
            std::fs::write(&path, text).unwrap();
            assert!(matches!(name(folder.path()), Err(NodeError::NotAName { .. })), "{text:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn any_host_name_makes_a_name() {
        for (host, expected) in [
            ("web-1.example.com", "web-1-010aff"),
            ("", "node-010aff"),
            (".hidden", "node-010aff"),
            ("bücher/1", "b-cher-1-010aff"),
        ] {
            assert_eq!(made_of(host, [1, 10, 255]), expected);
        }
        assert_eq!(made_of(&"a".repeat(300), [0; 3]).len(), 70);
    }
}
