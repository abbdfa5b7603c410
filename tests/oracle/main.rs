//! `oracle DIR [NAME…]`: plays recorded scenarios and prints a table of what is the same.

use std::path::PathBuf;

use clap::Parser;
use pollux_tests::oracle::table::{self, Outcome};

/// Plays scenarios recorded from the kernel's IPVS through Pollux.
#[derive(Parser)]
struct Args {
    /// A folder with `scenarios/` and `results/`.
    dir: PathBuf,
    /// Only these scenarios.
    names: Vec<String>,
    /// Differences shown per scenario.
    #[arg(long, default_value_t = 3)]
    show: usize,
    /// Prints the table for the documentation instead.
    #[arg(long)]
    markdown: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let outcomes = table::play_all(&args.dir, args.names)?;
    if args.markdown {
        print!("{}", table::markdown(&outcomes));
        return Ok(());
    }
    for (name, outcome) in &outcomes {
        match outcome {
            Outcome::Same => println!("{name:<36} same"),
            Outcome::OnPurpose(why) => println!("{name:<36} differs on purpose: {}", table::rows(why)),
            Outcome::Differs(differences) => {
                println!("{name:<36} differs ({})", differences.len());
                for d in differences.iter().take(args.show) {
                    println!("    {d}");
                }
            }
        }
    }
    println!("{}", table::summary(&outcomes));
    let differ = outcomes.iter().any(|(_, o)| matches!(o, Outcome::Differs(_)));
    std::process::exit(i32::from(differ));
}
