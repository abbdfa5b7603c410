//! `polluxctl`: arguments, one request, a table or the API's JSON.

mod args;
mod change;
mod show;
mod table;
mod traffic;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use serde_json::json;

pub use args::{Cli, Command};

use crate::client::{Client, ClientError};
use args::{ConfigCommand, Global, ServerCommand, ServiceCommand};

/// Why a command ended without having done its work. Exit status 1 unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The daemon could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Arguments that do not go together. Exit status 2.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// Something on this side.
    #[error("{message}")]
    Here {
        /// What.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// Mistakes in a file, rendered already.
    #[error("{0}")]
    Rendered(String),
    /// Standard output could not be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// What commands work with.
struct Context<'a> {
    client: Client,
    json: bool,
    out: &'a mut dyn Write,
    /// Whether `out` is a terminal: then `--watch` clears it.
    terminal: bool,
}

type Done = Result<(), Failure>;

/// Runs the program with the process's arguments and streams; returns its exit status.
pub fn main() -> u8 {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    run(std::env::args_os(), &mut stdout.lock(), &mut io::stderr(), terminal)
}

/// Runs with these arguments, the program's name first. Exit status 0, 1 or 2.
pub fn run(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    out: &mut dyn Write,
    err: &mut dyn Write,
    terminal: bool,
) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are no mistakes; they go to standard output and end with 0.
            let _ = if e.use_stderr() { write!(err, "{}", e.render()) } else { write!(out, "{}", e.render()) };
            return u8::try_from(e.exit_code()).unwrap_or(2);
        }
    };
    let Global { socket, json, timeout } = cli.global;
    let client = Client::new(socket, Duration::from_secs(timeout));
    let mut context = Context { client, json, out, terminal };
    match context.run(cli.command).and_then(|()| Ok(context.out.flush()?)) {
        Ok(()) => 0,
        // The reader had enough, as `head` does: no mistake of ours.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(failure) => {
            let _ = if json { failure.write_json(err) } else { failure.write_text(err) };
            if matches!(failure, Failure::Usage { .. }) { 2 } else { 1 }
        }
    }
}

impl Context<'_> {
    fn run(&mut self, command: Command) -> Done {
        match command {
            Command::Service(c) => match c {
                ServiceCommand::Add { service, options, change } => self.add_service(service, &options, &change),
                ServiceCommand::Set { service, options, no_persistence, no_one_packet, no_ftp, no_flags, change } => {
                    let clear = change::Clear { no_persistence, no_one_packet, no_ftp, no_flags };
                    self.set_service(service, &options, clear, &change)
                }
                ServiceCommand::Del { service, change } => self.delete_service(service, &change),
                ServiceCommand::List => self.list_services(),
                ServiceCommand::Show { service } => self.show_service(service),
            },
            Command::Server(c) => match c {
                ServerCommand::Add { which, options, change } => self.add_server(&which, &options, &change),
                ServerCommand::Set { which, options, change } => self.set_server(&which, &options, &change),
                ServerCommand::Drain { which, change } => self.drain_server(&which, &change),
                ServerCommand::Del { which, change } => self.delete_server(&which, &change),
                ServerCommand::List { service } => self.list_servers(service),
            },
            Command::Stats(a) if a.zero => self.zero(a.service),
            Command::Stats(a) => self.stats(&a),
            Command::Flows(a) if a.end => self.end_flows(&a),
            Command::Flows(a) => self.flows(&a),
            Command::Neighbours => self.neighbours(),
            Command::Ports => self.ports(),
            Command::Drops { all } => self.drops(all),
            Command::Status => self.status(),
            Command::Version => self.version(),
            Command::Config(ConfigCommand::Show) => self.show_config(),
            Command::Config(ConfigCommand::Check { file }) => self.check_config(&file),
            Command::Timeouts(a) => self.timeouts(&a),
            Command::Batch { file, change } => self.batch(&file, &change),
            Command::Reload => self.reload(),
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "polluxctl", &mut self.out);
                Ok(())
            }
        }
    }

    /// Reads `path` and prints it: as it came with `--json`, else as `show` makes it.
    fn print<T: serde::de::DeserializeOwned>(&mut self, path: &str, show: impl FnOnce(&T) -> String) -> Done {
        let answer = self.client.get(path)?;
        if self.json {
            self.raw(&answer.body)
        } else {
            let text = show(&answer.json()?);
            Ok(self.out.write_all(text.as_bytes())?)
        }
    }

    /// Prints what the API sent, ending with a newline.
    fn raw(&mut self, body: &[u8]) -> Done {
        self.out.write_all(body)?;
        if !body.ends_with(b"\n") {
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }
}

impl Failure {
    fn remedy(&self) -> Option<String> {
        match self {
            Self::Client(e) => e.remedy(),
            Self::Here { remedy, .. } | Self::Usage { remedy, .. } => Some(remedy.clone()),
            Self::Rendered(_) | Self::Output(_) => None,
        }
    }

    /// For people: what is wrong, each further mistake, what to do.
    fn write_text(&self, err: &mut dyn Write) -> io::Result<()> {
        if let Self::Rendered(text) = self {
            return write!(err, "{text}");
        }
        writeln!(err, "polluxctl: {self}")?;
        let mut told = false;
        if let Self::Client(ClientError::Refused { problem, .. }) = self {
            for p in problem.problems.iter().skip(1) {
                writeln!(err, "           {}", p.message)?;
            }
            if let Some(next) = change::next_command(problem) {
                writeln!(err, "  try: {next}")?;
                told = true;
            }
        }
        match self.remedy() {
            Some(remedy) if !told => writeln!(err, "  try: {remedy}"),
            _ => Ok(()),
        }
    }

    /// For programs: the API's own refusal, or one of the same form.
    fn write_json(&self, err: &mut dyn Write) -> io::Result<()> {
        if let Self::Client(ClientError::Refused { body, .. }) = self {
            err.write_all(body)?;
            return err.write_all(b"\n");
        }
        let code = match self {
            Self::Client(e) => e.code(),
            Self::Usage { .. } => "usage",
            _ => "failed",
        };
        let message = self.to_string();
        writeln!(err, "{}", json!({"error": {"code": code, "message": message.trim_end(), "remedy": self.remedy()}}))
    }
}
