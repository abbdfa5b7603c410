//! Aligned tables and rounded numbers, for people.

use std::fmt::Write;

/// On which side of its column a cell stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// A table: a heading, rows, two spaces between columns, no lines.
#[derive(Debug)]
pub struct Table {
    heading: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns. A heading that begins with `>` is right-aligned.
    pub fn new<S: AsRef<str>>(columns: &[S]) -> Self {
        let column = |c: &S| match c.as_ref().strip_prefix('>') {
            Some(c) => (c.to_owned(), Align::Right),
            None => (c.as_ref().to_owned(), Align::Left),
        };
        Self { heading: columns.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row. Cells that are missing at its end stay empty.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, without spaces at the ends of lines.
    pub fn render(&self) -> String {
        let mut widths: Vec<usize> = self.heading.iter().map(|(h, _)| width(h)).collect();
        for row in &self.rows {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(width(cell));
            }
        }
        let mut out = String::new();
        let heading: Vec<String> = self.heading.iter().map(|(h, _)| h.clone()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, w), (_, align)) in row.iter().zip(&widths).zip(&self.heading) {
                let pad = " ".repeat(w.saturating_sub(width(cell)));
                let _ = match align {
                    Align::Left => write!(line, "{cell}{pad}  "),
                    Align::Right => write!(line, "{pad}{cell}  "),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// How numbers are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Numbers {
    /// Whole, rather than rounded to three digits with a prefix.
    pub exact: bool,
}

impl Numbers {
    /// A count: `0`, `99999`, `123k`, `4.56M`.
    pub fn count(self, n: u64) -> String {
        if self.exact || n < 100_000 { n.to_string() } else { scaled(n as f64, "") }
    }
    /// Bytes: `0 B`, `1.50 kB`, `2.34 GB` (decimal prefixes).
    pub fn bytes(self, n: u64) -> String {
        if self.exact { n.to_string() } else { scaled(n as f64, " ") + "B" }
    }
    /// A rate per second: `0`, `12.5`, `1.23k`.
    pub fn rate(self, x: f64) -> String {
        if self.exact { format!("{x:.1}") } else { scaled(x, "") }
    }
    /// Bytes per second, shown in bits as links are: `0 bit/s`, `1.23 Gbit/s`.
    pub fn bits(self, bytes: f64) -> String {
        if self.exact { format!("{:.0}", bytes * 8.0) } else { scaled(bytes * 8.0, " ") + "bit/s" }
    }
}

/// Three digits and a decimal prefix after `space`.
fn scaled(mut x: f64, space: &str) -> String {
    const PREFIXES: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut prefix = 0;
    // 999.5 rounds up to four digits, so it takes the next prefix already.
    while x >= 999.5 && prefix + 1 < PREFIXES.len() {
        x /= 1000.0;
        prefix += 1;
    }
    let whole = prefix == 0 && (x.fract() == 0.0 || x >= 99.95);
    let digits = if whole || x >= 99.95 {
        0
    } else if prefix == 0 || x >= 9.995 {
        1
    } else {
        2
    };
    format!("{x:.digits$}{space}{}", PREFIXES[prefix])
}

/// Seconds as people say them: `45s`, `12m30s`, `3h05m`, `2d04h`.
pub fn duration(s: u64) -> String {
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Milliseconds as minutes and seconds, rounded up: `14:59`.
pub fn minutes(ms: u32) -> String {
    let s = ms.div_ceil(1000);
    format!("{:02}:{:02}", s / 60, s % 60)
}

/// `1 service`, `2 services`.
pub fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut t = Table::new(&["NAME", ">N", "NOTE"]);
        t.row(["a".into(), "1".into(), "x".into()]);
        t.row(["längere".into(), "12345".into()]);
        assert_eq!(t.render(), "NAME         N  NOTE\na            1  x\nlängere  12345\n");
    }

    #[test]
    fn numbers_keep_three_digits() {
        let n = Numbers::default();
        let counts = [0, 7, 99_999, 100_000, 999_499, 999_500, 1_234_567, 18_000_000_000_000_000_000];
        assert_eq!(counts.map(|c| n.count(c)), ["0", "7", "99999", "100k", "999k", "1.00M", "1.23M", "18000P"]);
        assert_eq!([0, 999, 1500, 23_400_000].map(|b| n.bytes(b)), ["0 B", "999 B", "1.50 kB", "23.4 MB"]);
        assert_eq!([0.0, 0.24, 12.5, 150.2, 1234.0].map(|r| n.rate(r)), ["0", "0.2", "12.5", "150", "1.23k"]);
        assert_eq!(n.bits(125_000_000.0), "1.00 Gbit/s");
        assert_eq!(Numbers { exact: true }.count(1_234_567), "1234567");
    }

    #[test]
    fn times_read_well() {
        assert_eq!([0, 59, 60, 3661, 90_000].map(duration), ["0s", "59s", "1m00s", "1h01m", "1d01h"]);
        assert_eq!(minutes(899_001), "15:00");
        assert_eq!(minutes(0), "00:00");
    }
}
