//! Plays every recorded scenario of tests/fixtures/oracle: nothing may differ but on purpose,
//! and the documentation says what does.

use std::path::{Path, PathBuf};

use pollux_tests::oracle::purpose::Purpose;
use pollux_tests::oracle::table::{self, Outcome};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn nothing_differs_from_the_kernel_but_on_purpose() {
    let outcomes = table::play_all(&root().join("tests/fixtures/oracle"), Vec::new()).expect("fixtures");
    assert!(outcomes.len() >= 171, "only {} scenarios", outcomes.len());
    let mut differ = Vec::new();
    for (name, outcome) in &outcomes {
        if let Outcome::Differs(d) = outcome {
            differ.push(format!("{name}: {}", d.join("\n    ")));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    let page = std::fs::read_to_string(root().join("docs/oracle-scenarios.md")).expect("docs/oracle-scenarios.md");
    let how = "make it anew: scripts/oracle.sh tests/fixtures/oracle --markdown > docs/oracle-scenarios.md";
    assert_eq!(page, table::markdown(&outcomes), "docs/oracle-scenarios.md is not current; {how}");
}

#[test]
fn every_purpose_has_its_row() {
    let page = std::fs::read_to_string(root().join("docs/differences-from-ipvs.md")).expect("docs");
    for purpose in Purpose::ALL {
        let row = format!("| {} |", purpose.row());
        assert_eq!(page.lines().filter(|l| l.starts_with(&row)).count(), 1, "no row {row}");
    }
}
