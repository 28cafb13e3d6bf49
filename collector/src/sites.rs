//! Which sites' events are taken.
//!
//! Names are compared in lower case, exactly. A file that cannot be used at start ends the program; one that
//! cannot be used later changes nothing, because a typing error must not stop the counting.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use tallylight_proto::beacon::site_name;
use thiserror::Error;

/// The sites whose events are taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sites {
    /// None: any, also none at all.
    listed: Option<HashSet<Box<str>>>,
}

/// A list that cannot be used.
#[derive(Debug, Error)]
pub enum SitesError {
    /// The file cannot be read.
    #[error("cannot read the sites in {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No host name has white space in it.
    #[error("{name:?} is not the name of a site")]
    NotAName {
        /// What stands there.
        name: Box<str>,
    },
    /// Taken at its word, it would refuse every event.
    #[error("no site is listed in {path}")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Sites {
    /// The sites named one by one and those in the file, which is read now. Neither: any site.
    ///
    /// # Errors
    /// If the file cannot be read, names none, or what it names is no site.
    pub fn load(names: &[String], file: Option<&Path>) -> Result<Self, SitesError> {
        if names.is_empty() && file.is_none() {
            return Ok(Self::default());
        }
        let mut listed = names.iter().map(|name| checked(name)).collect::<Result<HashSet<_>, _>>()?;
        if let Some(path) = file {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|source| SitesError::Read { path: path.to_owned(), source })?;
            let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
            for name in lines.filter(|name| !name.is_empty()) {
                listed.insert(checked(name)?);
            }
        }
        match file {
            Some(path) if listed.is_empty() => Err(SitesError::Empty { path: path.to_owned() }),
            _ => Ok(Self { listed: Some(listed) }),
        }
    }

    /// Whether an event of this site, in lower case, is taken.
    pub fn contains(&self, site: &str) -> bool {
        self.listed.as_ref().is_none_or(|listed| listed.contains(site))
    }

    /// How many are listed, if any are.
    pub fn count(&self) -> Option<usize> {
        self.listed.as_ref().map(HashSet::len)
    }
}

fn checked(name: &str) -> Result<Box<str>, SitesError> {
    let name = name.trim();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(SitesError::NotAName { name: name.into() });
    }
    Ok(site_name(name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn without_a_list_any_site_is_taken_and_none_too() {
        let sites = Sites::load(&[], None).unwrap();
        assert!(sites.contains("shop.example") && sites.contains(""));
        assert_eq!(sites.count(), None);
    }

    #[test]
    fn a_list_is_exact_and_in_lower_case() {
        let file = file("# ours\nShop.Example  # the first\n\n\tbücher.example\r\n");
        let sites = Sites::load(&["Third.example".into()], Some(file.path())).unwrap();
        assert_eq!(sites.count(), Some(3));
        for site in ["shop.example", "bücher.example", "third.example"] {
            assert!(sites.contains(site), "{site}");
        }
        for site in ["", "example", "a.shop.example", "shop.example.", "SHOP.example"] {
            assert!(!sites.contains(site), "{site}");
        }
    }

    #[test]
    fn what_names_no_site_is_refused() {
        let empty = file("# nothing yet\n");
        assert!(matches!(Sites::load(&[], Some(empty.path())), Err(SitesError::Empty { .. })));
        let words = file("shop.example\ntwo words\n");
        assert!(matches!(Sites::load(&[], Some(words.path())), Err(SitesError::NotAName { .. })));
        assert!(matches!(Sites::load(&[" ".into()], None), Err(SitesError::NotAName { .. })));
        let gone = Path::new("/nonexistent/sites");
        assert!(matches!(Sites::load(&[], Some(gone)), Err(SitesError::Read { .. })));
    }
}
