//! Command lines of ipvsadm, turned into operations of the engine.
//!
//! [`parse`] reads one line with the rules, messages and exit codes of ipvsadm 1.31;
//! [`explain`] says what ipvsadm would say when the engine refuses; [`restore`] plays a
//! saved rule set. Nothing here talks to the engine itself.
//!
//! Where it differs: host names are those of `/etc/hosts`, the DNS is not asked; `-M 24` is a
//! prefix length; netmasks with holes are refused; persistence engines are not known; `-R` takes comments.

mod address;
mod command;
mod listing;
mod marks;
mod options;
#[cfg(test)]
mod tests;

pub use self::command::{Command, List, Unknown, parse};
pub use self::listing::{Facts, list, save};
pub use self::marks::Marks;

use crate::engine::Operation;
use crate::model::{Error, ErrorCode};

/// What a command that failed prints on standard error, and its exit code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// 2 for a wrong option or value, 255 for what the kernel (here: the engine) refuses, 1
    /// for a listing of a service that is not there.
    pub code: i32,
    /// One line without its end.
    pub message: String,
}

impl Failure {
    fn usage() -> Self {
        Self::refused("Try `ipvsadm -h' or 'ipvsadm --help' for more information.")
    }
    fn refused(message: impl Into<String>) -> Self {
        Self { code: 255, message: message.into() }
    }
    fn wrong(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }
}

/// What ipvsadm says when an operation is refused.
pub fn explain(operation: &Operation, error: &Error) -> Failure {
    let on_server =
        matches!(operation, Operation::AddServer { .. } | Operation::SetServer { .. } | Operation::DeleteServer { .. });
    Failure::refused(match error.code {
        ErrorCode::ServiceExists => "Service already exists",
        ErrorCode::NoSuchService if on_server => "Service not defined",
        ErrorCode::NoSuchService => "No such service",
        ErrorCode::ServerExists => "Destination already exists",
        ErrorCode::NoSuchServer => "No such destination",
        ErrorCode::Invalid if error.field.as_deref() == Some("lower_threshold") => "Numerical result out of range",
        ErrorCode::Invalid if on_server && error.field.as_deref() == Some("address") => {
            "Invalid operation.  Possibly wrong module version, address not unicast, ..."
        }
        _ => return Failure::refused(error.message.clone()),
    })
}

/// Splits a line at white space, as a shell does with words that need no quoting.
/// Quotes around a word are taken off.
pub fn split(line: &str) -> Vec<&str> {
    line.split_whitespace().map(|w| w.trim_matches(|c| c == '"' || c == '\'')).collect()
}

/// Plays the lines of a saved rule set (`ipvsadm -R`). It goes on after refusals and stops
/// at a line it cannot read. Returns what is to be printed on standard error and the exit
/// code, that of the last command. `ask` is asked for an operation, or for a change that cannot be made.
pub fn restore(
    text: &str,
    marks: &Marks,
    mut ask: impl FnMut(Result<&Operation, Unknown>) -> Result<(), Failure>,
) -> (Vec<String>, i32) {
    let (mut said, mut code) = (Vec::new(), 0);
    for line in text.lines() {
        let mut words = split(line);
        if words.first().is_some_and(|w| *w == "ipvsadm") {
            words.remove(0);
        }
        if words.first().is_none_or(|w| w.starts_with('#')) {
            continue;
        }
        match parse(&words, marks) {
            Err(f) => {
                said.push(f.message);
                return (said, f.code);
            }
            Ok(Command::Change(o)) => {
                code = take(ask(Ok(&o)), &mut said);
            }
            Ok(Command::Unknown(u)) => code = take(ask(Err(u)), &mut said),
            // Listings in a rule set do nothing.
            Ok(_) => code = 0,
        }
    }
    (said, code)
}

/// The exit code of a command, its complaint kept.
fn take(outcome: Result<(), Failure>, said: &mut Vec<String>) -> i32 {
    outcome.err().map_or(0, |f| {
        said.push(f.message);
        f.code
    })
}
