//! Key files: secrets that only the collector and those who send to it may know.
//!
//! The rule kept here: a file that everybody on the machine can read, or write, is no secret and is refused, and no
//! error says anything of what stands in it but the line.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tallylight_proto::keys::{KeyError, Keys};
use thiserror::Error;

/// What neither owner nor group may do with a file: read, write, execute.
const OTHERS: u32 = 0o007;

/// A key file that cannot be used.
#[derive(Debug, Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error("cannot read the keys in {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its keys are no secret.
    #[error("the key file {path} is open to everybody (mode {mode:03o}): `chmod o= {path}`")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What stands in it are no keys.
    #[error("the key file {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Which line, and why.
        source: KeyError,
    },
}

/// Reads a key file.
///
/// # Errors
/// If it cannot be read, if anybody else can, or if a line is no key.
pub fn load(path: &Path) -> Result<Keys, KeysError> {
    let failed = |source| KeysError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    // of the file that is read, whatever its name leads to a moment later
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(KeysError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Keys::parse(&text).map_err(|source| KeysError::Parse { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_file_of_owner_and_group_is_read() {
        for mode in [0o600, 0o640, 0o660, 0o400] {
            let keys = load(file(&format!("7 {SECRET}\n8 {SECRET}"), mode).path()).unwrap();
            assert_eq!((keys.len(), keys.signing().map(|key| key.id())), (2, Some(7)), "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_the_world_can_open_is_refused_whatever_stands_in_it() {
        for mode in [0o604, 0o644, 0o602, 0o601, 0o666] {
            let file = file(&format!("7 {SECRET}"), mode);
            let error = load(file.path()).unwrap_err();
            assert!(matches!(error, KeysError::Open { mode: found, .. } if found == mode), "{error}");
            assert!(error.to_string().contains(&format!("(mode {mode:o})")), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_line_and_without_the_secret() {
        let file = file(&format!("7 {SECRET}\n7 {SECRET}\n"), 0o600);
        let error = load(file.path()).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()) && error.contains("line 2"), "{error}");
        assert!(!error.contains("000102"), "{error}");
        let error = load(Path::new("/nonexistent/keys")).unwrap_err();
        assert!(matches!(&error, KeysError::Read { path, .. } if path == Path::new("/nonexistent/keys")), "{error}");
    }
}
