//! What load balancing costs, on packets made in the process: `scripts/bench.sh --generator`
//! builds and runs this, and makes a table of it.
//!
//! `cargo bench -p pollux-dataplane --bench generator -- PART… [--NAME VALUE …]`, PART being
//! one of those in `rows`. Every result is
//! a line of JSON on standard output; what is going on is told on standard error.
//!
//! Times are those of the thread's own processor time, and what is compared is measured in turns.

mod rig;
mod rows;

use rows::Options;

fn main() {
    let mut options = Options::default();
    let mut parts = Vec::new();
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(arg) = args.next() {
        let Some(name) = arg.strip_prefix("--") else {
            parts.push(arg);
            continue;
        };
        let value = args.next().unwrap_or_default();
        if let Err(e) = options.set(name, &value) {
            eprintln!("generator: {e}");
            std::process::exit(2);
        }
    }
    for part in parts {
        let Some((_, run)) = rows::PARTS.iter().find(|(name, _)| *name == part) else {
            eprintln!("generator: `{part}` is no part; there are {}", rows::PARTS.map(|(n, _)| n).join(", "));
            std::process::exit(2);
        };
        run(&options);
    }
}
