//! `tallylight-collector sign-link`: one signed link, for trying them out and for scripts.
//!
//! The rule kept here: a link that is printed redirects, as long as the collector has the key.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tallylight_proto::link::{Link, Unsignable, location};
use thiserror::Error;

use crate::keys::{self, KeysError};

/// What the link says. What is empty is left out.
#[derive(Args, Clone, Debug)]
pub struct SignLinkArgs {
    /// Key file, as the collector's --redirect-key; the first key signs
    #[arg(long, alias = "redirect-key", value_name = "FILE")]
    pub key: PathBuf,

    /// Where visitors reach the collector, without /r: `https://collector.example`
    #[arg(long, value_name = "URL")]
    pub to: String,

    /// Where the link leads: an http or https address
    #[arg(long, value_name = "URL")]
    pub target: String,

    /// Whose site the click counts for
    #[arg(long, value_name = "NAME")]
    pub site: Option<String>,

    /// The event's name [default: click]
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,

    /// What is recommended
    #[arg(long, value_name = "TEXT")]
    pub item: Option<String>,

    /// Where it stands
    #[arg(long, value_name = "TEXT")]
    pub placement: Option<String>,

    /// Whose link it is: an opaque id
    #[arg(long, value_name = "TEXT")]
    pub visitor: Option<String>,
}

/// Why there is no link.
#[derive(Debug, Error)]
pub enum SignLinkError {
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Nothing could be put behind it.
    #[error("--to is not the http or https address of a collector, like https://collector.example")]
    To,
    /// It would not be redirected to.
    #[error("--target is not an http or https address")]
    Target,
    /// It could not be verified.
    #[error("--{0}")]
    Value(#[from] Unsignable),
}

/// Prints the link.
pub fn run(args: &SignLinkArgs) -> ExitCode {
    match link(args) {
        Ok(link) => match writeln!(io::stdout(), "{link}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&format_args!("cannot write the link: {error}"), 1),
        },
        Err(error) => failed(&error, 2),
    }
}

fn failed(error: &dyn fmt::Display, code: u8) -> ExitCode {
    // a full or closed stderr is nothing that could be told
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::from(code)
}

fn link(args: &SignLinkArgs) -> Result<String, SignLinkError> {
    let keys = keys::load(&args.key)?;
    let key = keys.signing().expect("a key file without a key is refused");
    let base = location(&args.to).filter(|base| !base.contains(['?', '#'])).ok_or(SignLinkError::To)?;
    let present = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty()).map(Into::into);
    let link = Link {
        site: present(&args.site),
        event: present(&args.event),
        target: Some(args.target.as_str().into()),
        item: present(&args.item),
        placement: present(&args.placement),
        visitor: present(&args.visitor),
    };
    let query = link.to_query(key)?;
    if link.location().is_none() {
        return Err(SignLinkError::Target);
    }
    Ok(format!("{}/r?{query}", base.trim_end_matches('/')))
}
