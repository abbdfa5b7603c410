//! A mistake in the configuration file, with its place.

use std::fmt;

/// One mistake. Its text form is for people; the fields are for tests and programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The file as it was named.
    pub file: String,
    /// Line, from 1; 0 when the mistake has no place.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key's path, such as `service[0].server[1].weight`; may be empty.
    pub key: String,
    /// The offending text as it stands in the file, shortened.
    pub value: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
    /// The whole line, to be shown.
    pub source_line: Option<String>,
    /// How many characters to underline.
    pub width: usize,
}

impl ConfigError {
    /// A mistake of the file as a whole.
    pub fn of_file(file: &str, message: String, remedy: &str) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            key: String::new(),
            value: None,
            message,
            remedy: Some(remedy.into()),
            source_line: None,
            width: 0,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        if let Some(text) = &self.source_line {
            let number = self.line.to_string();
            let pad = " ".repeat(number.len());
            write!(f, "\n  {pad} |\n  {number} | {text}\n  {pad} | ")?;
            // Tabs stay tabs, so that the mark stands under its text.
            for c in text.chars().take(self.column.saturating_sub(1)) {
                f.write_str(if c == '\t' { "\t" } else { " " })?;
            }
            f.write_str(&"^".repeat(self.width.max(1)))?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Most mistakes that [`render`] shows.
const SHOWN: usize = 50;

/// All mistakes as one text, with a last line that says how many there are.
pub fn render(errors: &[ConfigError]) -> String {
    let mut out = String::new();
    for e in errors.iter().take(SHOWN) {
        out.push_str(&format!("{e}\n\n"));
    }
    let more = match errors.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!(", {n} of them not shown"),
    };
    let s = if errors.len() == 1 { "" } else { "s" };
    out.push_str(&format!("{} error{s}{more}: the configuration was not used\n", errors.len()));
    out
}
