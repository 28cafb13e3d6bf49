//! What a command line says of itself: completions for shells, and manual pages. Packages are made with them.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

/// For which shell.
#[derive(Args, Clone, Copy, Debug)]
pub struct Completions {
    /// Whose language they are in
    pub shell: Shell,
}

/// Where to.
#[derive(Args, Clone, Debug)]
pub struct Man {
    /// The folder of the pages, made if it is not there: one of the program, and one of each command
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

impl Completions {
    /// Prints them.
    pub fn print(self, mut command: Command) {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        // whoever asked may have gone
        let _ = io::stdout().write_all(&script);
    }
}

impl Man {
    /// Writes them.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn write(&self, command: Command) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let version = command.get_version().unwrap_or_default().to_owned();
        let mut command = command.disable_help_subcommand(true);
        // gives each command its whole name
        command.build();
        self.write_page(&command, &version)
    }

    fn write_page(&self, command: &Command, version: &str) -> io::Result<()> {
        let page = clap_mangen::Man::new(command.clone());
        // without a date: the same program writes the same pages
        page.date(" ").source(format!("tallylight {version}")).manual("Tallylight").generate_to(&self.folder)?;
        command.get_subcommands().try_for_each(|command| self.write_page(command, version))
    }
}
