//! `oracle DIR [NAME…]`: plays recorded scenarios and prints a table of what is the same.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use pollux_tests::oracle::player;
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
    /// Plays one scenario and prints its outcome for the program that asked.
    #[arg(long, hide = true)]
    alone: bool,
}

/// Plays a scenario in a process of its own: whatever comes of it, the others are played.
fn play(dir: &Path, name: &str) -> anyhow::Result<Outcome> {
    let mut alone = Command::new(std::env::current_exe()?);
    let done = alone.arg("--alone").arg(dir).arg("--").arg(name).output()?;
    let outcome = Outcome::read(&String::from_utf8_lossy(&done.stdout));
    Ok(outcome.unwrap_or_else(|| {
        let said = String::from_utf8_lossy(&done.stderr);
        Outcome::Differs(vec![format!("playing it ends with {}: {}", done.status, said.trim())])
    }))
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.alone {
        for name in &args.names {
            print!("{}", table::play(&args.dir, name).written());
        }
        return Ok(());
    }
    let names = if args.names.is_empty() { player::scenarios(&args.dir)? } else { args.names };
    let played = names.into_iter().map(|n| play(&args.dir, &n).map(|outcome| (n, outcome)));
    let outcomes: Vec<(String, Outcome)> = played.collect::<Result<_, _>>()?;
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
