//! The table of all scenarios: what is the same, what differs on purpose, what differs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::oracle::player;
use crate::oracle::purpose::Purpose;

/// What came of one scenario.
pub enum Outcome {
    /// Everything as recorded.
    Same,
    /// Everything as recorded, but for differences that are meant.
    OnPurpose(BTreeSet<Purpose>),
    /// Something differs, or the scenario cannot be played: every difference in words.
    Differs(Vec<String>),
}

impl Outcome {
    /// As text that [`Outcome::read`] understands.
    pub fn written(&self) -> String {
        let outcome = match self {
            Self::Same => json!("same"),
            Self::OnPurpose(why) => json!({"on purpose": why.iter().map(|p| p.row()).collect::<Vec<_>>()}),
            Self::Differs(differences) => json!({"differs": differences}),
        };
        format!("{outcome}\n")
    }

    /// Reads what was [`written`](Outcome::written).
    pub fn read(text: &str) -> Option<Self> {
        let outcome: Value = serde_json::from_str(text).ok()?;
        let words = |key: &str| outcome[key].as_array().map(|a| a.iter().filter_map(Value::as_str).collect::<Vec<_>>());
        if outcome == "same" {
            return Some(Self::Same);
        }
        if let Some(differences) = words("differs") {
            return Some(Self::Differs(differences.into_iter().map(str::to_owned).collect()));
        }
        let purpose = |row: &str| Purpose::ALL.into_iter().find(|p| p.row() == row);
        words("on purpose")?.into_iter().map(purpose).collect::<Option<_>>().map(Self::OnPurpose)
    }
}

/// Plays one scenario.
pub fn play(dir: &Path, name: &str) -> Outcome {
    // Whatever a recording asks for: one scenario must not keep the others from being played.
    let report = match std::panic::catch_unwind(|| player::play(dir, name)) {
        Ok(Ok(report)) => report,
        Ok(Err(e)) => return Outcome::Differs(vec![format!("cannot be played: {e:#}")]),
        Err(e) => {
            let why = e.downcast_ref::<String>().map(String::as_str).or(e.downcast_ref::<&str>().copied());
            return Outcome::Differs(vec![format!("playing it panics: {}", why.unwrap_or("no reason"))]);
        }
    };
    let differences: Vec<String> = report.differences().map(str::to_owned).collect();
    match report.purposes() {
        _ if !differences.is_empty() => Outcome::Differs(differences),
        purposes if purposes.is_empty() => Outcome::Same,
        purposes => Outcome::OnPurpose(purposes),
    }
}

/// Plays scenarios of a folder, all of them if none is named.
pub fn play_all(dir: &Path, names: Vec<String>) -> Result<Vec<(String, Outcome)>> {
    let names = if names.is_empty() { player::scenarios(dir)? } else { names };
    Ok(names.into_iter().map(|n| (n.clone(), play(dir, &n))).collect())
}

/// The last line of the table.
pub fn summary(outcomes: &[(String, Outcome)]) -> String {
    let count = |f: fn(&Outcome) -> bool| outcomes.iter().filter(|(_, o)| f(o)).count();
    let same = count(|o| matches!(o, Outcome::Same));
    let purpose = count(|o| matches!(o, Outcome::OnPurpose(_)));
    format!("oracle: {same} same, {purpose} on purpose, {} differ", outcomes.len() - same - purpose)
}

/// The table for the documentation.
pub fn markdown(outcomes: &[(String, Outcome)]) -> String {
    let mut out = String::from(
        "# Scenarios recorded from the kernel\'s IPVS\n\nMade by `scripts/oracle.sh tests/fixtures/oracle --markdown`, \
         and held to by `cargo test -p pollux-tests --test recorded`.\nWhy something differs on purpose: \
         [differences-from-ipvs.md](differences-from-ipvs.md).\n\n| scenario | result |\n|---|---|\n",
    );
    for (name, outcome) in outcomes {
        let result = match outcome {
            Outcome::Same => "same".into(),
            Outcome::OnPurpose(why) => format!("on purpose: {}", rows(why)),
            Outcome::Differs(_) => "**differs**".into(),
        };
        let _ = writeln!(out, "| {name} | {result} |");
    }
    let _ = writeln!(out, "\n{}", summary(outcomes));
    out
}

/// Purposes as their rows' first cells.
pub fn rows(why: &BTreeSet<Purpose>) -> String {
    why.iter().map(|p| p.row()).collect::<Vec<_>>().join("; ")
}
