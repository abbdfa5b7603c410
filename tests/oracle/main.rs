//! `oracle DIR [NAME…]`: plays recorded scenarios and prints a table of what is the same.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Parser;
use pollux_tests::oracle::player;

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
    /// Lists what differs on purpose: lines of a name and a reason.
    #[arg(long)]
    on_purpose: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let names = if args.names.is_empty() { player::scenarios(&args.dir)? } else { args.names };
    let purposes: HashMap<String, String> = match &args.on_purpose {
        Some(p) => std::fs::read_to_string(p)?
            .lines()
            .filter_map(|l| l.split_once(' ').map(|(a, b)| (a.to_owned(), b.trim().to_owned())))
            .collect(),
        None => HashMap::new(),
    };
    let (mut same, mut purpose, mut differ) = (0, 0, 0);
    for name in names {
        let report = player::play(&args.dir, &name);
        let differences = match &report {
            Ok(r) => r.differences.clone(),
            Err(e) => vec![format!("cannot be played: {e:#}")],
        };
        if differences.is_empty() {
            same += 1;
            println!("{name:<36} same");
        } else if let Some(reason) = purposes.get(&name) {
            purpose += 1;
            println!("{name:<36} on purpose: {reason}");
        } else {
            differ += 1;
            println!("{name:<36} differs ({} of {})", differences.len(), report.map_or(0, |r| r.compared));
            for d in differences.iter().take(args.show) {
                println!("    {d}");
            }
        }
    }
    println!("oracle: {same} same, {purpose} on purpose, {differ} differ");
    std::process::exit(i32::from(differ > 0));
}
