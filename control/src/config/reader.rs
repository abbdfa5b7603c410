//! Reading TOML with places: every mistake is noted, none ends the reading.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use toml_edit::{Item, TableLike, Value};

use super::error::ConfigError;

/// The text with what was found wrong in it.
pub struct Source<'a> {
    file: &'a str,
    text: &'a str,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'a> Source<'a> {
    /// A text and the name of its file.
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, errors: RefCell::default() }
    }

    /// Notes a mistake at bytes `span` of the text.
    pub fn error(&self, span: Option<Range<usize>>, key: &str, message: String, remedy: Option<String>) {
        let mut e = ConfigError::of_file(self.file, message, "");
        e.remedy = remedy;
        e.key = key.into();
        if let Some(span) = span.filter(|s| s.end <= self.text.len()) {
            let start = self.text[..span.start].rfind('\n').map_or(0, |n| n + 1);
            let line = self.text[start..].lines().next().unwrap_or_default();
            let value = &self.text[span.clone()];
            e.line = self.text[..start].matches('\n').count() + 1;
            e.column = self.text[start..span.start].chars().count() + 1;
            e.width = value.lines().next().unwrap_or_default().chars().count();
            e.source_line = Some(line.into());
            e.value = Some(value.chars().take(80).collect());
        }
        self.errors.borrow_mut().push(e);
    }

    /// What was found, in the order of the text.
    pub fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|e| (e.line, e.column));
        errors.dedup();
        errors
    }
}

/// A table. Keys that were never asked for are mistakes: see [`Section::finish`].
pub struct Section<'a> {
    source: &'a Source<'a>,
    table: &'a dyn TableLike,
    span: Option<Range<usize>>,
    path: String,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub fn root(source: &'a Source<'a>, table: &'a dyn TableLike) -> Self {
        Self { source, table, span: None, path: String::new(), known: RefCell::default() }
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &'static str) -> Option<Field<'a>> {
        self.known.borrow_mut().push(key);
        let (k, item) = self.table.get_key_value(key)?;
        let span = item.span().or_else(|| k.span());
        Some(Field { source: self.source, item: Node::Item(item), span, path: self.sub(key) })
    }

    /// The table of a key; an empty one's fields are all absent.
    pub fn section(&self, key: &'static str) -> Option<Section<'a>> {
        self.get(key)?.section()
    }

    /// The tables of an array of tables.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        self.get(key).map(|f| f.sections()).unwrap_or_default()
    }

    /// Notes a mistake of the table as a whole.
    pub fn error(&self, message: String, remedy: &str) {
        self.source.error(self.span.clone(), &self.path, message, Some(remedy.into()));
    }

    /// Notes a mistake of one key, or of the table when the key is absent.
    pub fn error_at(&self, key: &str, message: String, remedy: Option<String>) {
        let found = self.table.get_key_value(key);
        let span = found.and_then(|(k, i)| i.span().or_else(|| k.span())).or_else(|| self.span.clone());
        let path = if found.is_some() { self.sub(key) } else { self.path.clone() };
        self.source.error(span, &path, message, remedy);
    }

    /// The value of a key that must be there.
    pub fn required(&self, key: &'static str, remedy: &str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            self.error(format!("`{key}` is missing"), remedy);
        }
        field
    }

    /// Notes every key that nobody asked for.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for (key, item) in self.table.iter() {
            if known.contains(&key) {
                continue;
            }
            let span = self.table.key(key).and_then(|k| k.span()).or_else(|| item.span());
            let where_ = if self.path.is_empty() { "here".into() } else { format!("in `{}`", self.path) };
            let remedy = match nearest(key, &known) {
                Some(k) => format!("did you mean `{k}`?"),
                None => format!("the known keys are {}", join(&known)),
            };
            self.source.error(span, &self.sub(key), format!("unknown key `{key}` {where_}"), Some(remedy));
        }
    }

    fn sub(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }
}

#[derive(Clone, Copy)]
enum Node<'a> {
    Item(&'a Item),
    Value(&'a Value),
}

impl<'a> Node<'a> {
    fn value(self) -> Option<&'a Value> {
        match self {
            Node::Item(i) => i.as_value(),
            Node::Value(v) => Some(v),
        }
    }
    fn type_name(self) -> &'static str {
        match self {
            Node::Item(i) => i.type_name(),
            Node::Value(v) => v.type_name(),
        }
    }
}

/// A value with its place.
pub struct Field<'a> {
    source: &'a Source<'a>,
    item: Node<'a>,
    span: Option<Range<usize>>,
    path: String,
}

impl<'a> Field<'a> {
    /// Notes a mistake of this value.
    pub fn error(&self, message: impl Into<String>, remedy: impl Into<String>) {
        self.source.error(self.span.clone(), &self.path, message.into(), Some(remedy.into()));
    }

    fn wrong_type(&self, wanted: &str) {
        self.error(format!("expected {wanted}, found {}", article(self.item.type_name())), format!("give {wanted}"));
    }

    /// A text.
    pub fn string(&self) -> Option<&'a str> {
        let s = self.item.value().and_then(Value::as_str);
        if s.is_none() {
            self.wrong_type("a string");
        }
        s
    }

    /// true or false.
    pub fn bool(&self) -> Option<bool> {
        let b = self.item.value().and_then(Value::as_bool);
        if b.is_none() {
            self.wrong_type("true or false");
        }
        b
    }

    /// A number within bounds.
    pub fn int<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Option<T> {
        let Some(n) = self.item.value().and_then(Value::as_integer) else {
            self.wrong_type("a whole number");
            return None;
        };
        if !range.contains(&n) {
            let remedy = format!("give a number from {} to {}", range.start(), range.end());
            self.error(format!("`{n}` is out of range"), remedy);
            return None;
        }
        T::try_from(n).ok()
    }

    /// A text of a certain form. The form's own message is given when it is not.
    pub fn parse<T: FromStr<Err: Display>>(&self, remedy: &str) -> Option<T> {
        match self.string()?.parse() {
            Ok(v) => Some(v),
            Err(e) => {
                // Messages of the model carry their own remedy after a semicolon.
                let text = e.to_string();
                match text.split_once("; ") {
                    Some((message, own)) => self.error(message, if remedy.is_empty() { own } else { remedy }),
                    None if text.contains('`') => self.error(text, remedy),
                    None => self.error(format!("`{}`: {text}", self.string()?), remedy),
                }
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        let s = self.string()?;
        let found = choices.iter().find(|(name, _)| *name == s);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(n, _)| *n).collect();
            let remedy = match nearest(s, &names) {
                Some(n) => format!("did you mean `{n}`? The choices are {}", join(&names)),
                None => format!("the choices are {}", join(&names)),
            };
            self.error(format!("`{s}` is none of the choices"), remedy);
        }
        found.map(|(_, v)| v.clone())
    }

    /// The elements of an array.
    pub fn list(&self) -> Vec<Field<'a>> {
        let Some(array) = self.item.value().and_then(Value::as_array) else {
            self.wrong_type("an array");
            return Vec::new();
        };
        let element = |(n, v): (usize, &'a Value)| Field {
            source: self.source,
            item: Node::Value(v),
            span: v.span(),
            path: format!("{}[{n}]", self.path),
        };
        array.iter().enumerate().map(element).collect()
    }

    /// A table.
    pub fn section(&self) -> Option<Section<'a>> {
        let table = match self.item {
            Node::Item(i) => i.as_table_like(),
            Node::Value(v) => v.as_inline_table().map(|t| t as &dyn TableLike),
        };
        match table {
            Some(table) => Some(Section {
                source: self.source,
                table,
                span: self.span.clone(),
                path: self.path.clone(),
                known: RefCell::default(),
            }),
            None => {
                self.wrong_type("a table");
                None
            }
        }
    }

    /// The tables of an array of tables, in either notation.
    pub fn sections(&self) -> Vec<Section<'a>> {
        let Node::Item(Item::ArrayOfTables(tables)) = self.item else {
            if matches!(self.item, Node::Item(Item::Table(_))) {
                let name = &self.path;
                self.error("expected a list of tables, found one table", format!("write [[{name}]] with two brackets"));
                return Vec::new();
            }
            return self.list().iter().filter_map(Field::section).collect();
        };
        let section = |(n, table): (usize, &'a toml_edit::Table)| Section {
            source: self.source,
            table: table as &dyn TableLike,
            span: table.span(),
            path: format!("{}[{n}]", self.path),
            known: RefCell::default(),
        };
        tables.iter().enumerate().map(section).collect()
    }

    /// Whether this is a table.
    pub fn is_table(&self) -> bool {
        match self.item {
            Node::Item(i) => i.is_table_like(),
            Node::Value(v) => v.is_inline_table(),
        }
    }
}

fn article(type_name: &str) -> String {
    let an = type_name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {type_name}", if an { "an" } else { "a" })
}

fn join(names: &[&str]) -> String {
    let mut names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    names.dedup();
    names.join(", ")
}

/// The known name that `typed` most likely stands for.
fn nearest<'n>(typed: &str, known: &[&'n str]) -> Option<&'n str> {
    let typed = typed.to_lowercase().replace('-', "_");
    let distance = |k: &&str| edit_distance(&typed, &k.replace('-', "_"));
    let best = known.iter().min_by_key(|k| distance(k))?;
    let close = distance(best) <= (typed.chars().count() / 3).max(1);
    let part = || known.iter().find(|k| typed.len() >= 3 && (k.contains(&typed) || typed.contains(**k)));
    if close { Some(best) } else { part().copied() }
}

/// Letters to insert, remove, replace or swap with the next (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    // Longer words are no typing mistakes, and the work is bounded.
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut d = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                d = d.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = d;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_letters() {
        for (a, b, d) in [("", "", 0), ("wieght", "weight", 1), ("adress", "address", 1), ("abc", "xyz", 3)] {
            assert_eq!(edit_distance(a, b), d, "{a} {b}");
        }
        assert_eq!(nearest("schedular", &["scheduler", "server"]), Some("scheduler"));
        assert_eq!(nearest("qqq", &["scheduler", "server"]), None);
    }
}
