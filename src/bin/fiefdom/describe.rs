//! The command line described by itself: completions for shells, and man pages.

use std::io::{self, Write as _};

use clap::{Args as ClapArgs, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man as Page;

use crate::args::Args;
use crate::failure::{DONE, Failure};
use crate::output::Output;

#[derive(ClapArgs)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(ClapArgs)]
pub(crate) struct Man {
    /// The command [default: the tool itself]
    command: Option<String>,
}

pub(crate) fn completions(out: Output, args: &Completions) -> Result<u8, Failure> {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    print(out, &script)
}

pub(crate) fn man(out: Output, args: &Man) -> Result<u8, Failure> {
    let mut tool = Args::command();
    // Gives every command the options that all of them have.
    tool.build();
    let source = format!("{} {}", tool.get_name(), env!("CARGO_PKG_VERSION"));
    let page = match &args.command {
        None => Page::new(tool),
        Some(name) => {
            let Some(command) = tool.find_subcommand(name) else {
                let unknown = format!("there is no command {name:?}; `fiefdom --help` lists them");
                return Err(Failure::Usage(unknown));
            };
            // A page has one word for its name, as in `man fiefdom-run`.
            let title = format!("{}-{}", tool.get_name(), command.get_name());
            Page::new(command.clone()).title(title).source(source)
        }
    };
    let mut text = Vec::new();
    page.render(&mut text).map_err(Failure::Output)?;
    print(out, &text)
}

/// Into memory first: a reader who has enough must be told from a page that cannot be made.
fn print(out: Output, text: &[u8]) -> Result<u8, Failure> {
    if out.json {
        return Err(Failure::Usage("this is for a shell or for man, and has no JSON form; leave --json out".into()));
    }
    io::stdout().lock().write_all(text)?;
    Ok(DONE)
}
