//! `polluxctl`: the operator's tool. Arguments, one request to polluxd, a table.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(control::ctl::main())
}
