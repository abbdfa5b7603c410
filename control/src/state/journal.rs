//! Changes after the state file was written, one line each, so that a change of a large configuration
//! writes what it changes.
//!
//! Each line names the state file that it follows. One that follows another is not for this one: the journal
//! need not be emptied in the same moment as the state file is replaced. A crash may leave half a line at the
//! end, which nobody was told of: it is left out. Anything else that makes no sense is damage.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{State, TimeoutChange};
use crate::model::{NewService, ServiceChange, ServiceKey};

/// A journal may grow as long as the state file that it follows, or so long at least, bytes.
const LEAST: u64 = 1 << 20;

/// One change.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// The state file that it follows.
    of: String,
    services: Vec<Edit>,
    /// Time-outs from here on, if they are set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeouts: Option<TimeoutChange>,
}

/// What became of one service.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    address: ServiceKey,
    /// As it is now, but of its real servers those only that are new or different; none if it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<NewService>,
    /// They come after so many servers of the list as it was, in the place of so many.
    #[serde(default)]
    at: usize,
    #[serde(default)]
    replaces: usize,
}

impl Edit {
    fn new(c: &ServiceChange) -> Self {
        let list = c.list();
        let service = c.after.as_ref().map(|s| NewService::with_servers(s, list.after));
        Self { address: c.key, service, at: list.at, replaces: list.before.len() }
    }

    fn apply(self, services: &mut BTreeMap<ServiceKey, NewService>) -> Result<(), String> {
        let Some(mut service) = self.service else {
            return match services.remove(&self.address) {
                Some(_) => Ok(()),
                None => Err(format!("it removes {}, which is not there", self.address)),
            };
        };
        let mut servers = services.remove(&self.address).map(|s| s.servers).unwrap_or_default();
        let end = self.at.checked_add(self.replaces).filter(|end| *end <= servers.len());
        let end = end.ok_or_else(|| format!("it changes real servers of {} that are not there", self.address))?;
        servers.splice(self.at..end, service.servers);
        service.servers = servers;
        services.insert(self.address, service);
        Ok(())
    }
}

/// The journal of the state file that was written last.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    of: String,
    len: u64,
    most: u64,
    /// The fingerprint that the state file has.
    pub(super) base: String,
}

impl Journal {
    /// An empty one at `path`, after a state file of so many bytes. What it held before must be of no
    /// more use; its name in the directory may not be safe yet.
    pub fn create(path: &Path, state: &State, bytes: u64) -> std::io::Result<Option<Self>> {
        let Some(of) = state.id.clone() else { return Ok(None) };
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
        Ok(Some(Self { file, of, len: 0, most: bytes.max(LEAST), base: state.base.clone() }))
    }

    /// Whether it is time to write the state file as a whole.
    pub fn is_full(&self) -> bool {
        self.len >= self.most
    }

    /// Adds a change. When this returns without an error the change survives a crash; with one the
    /// journal must not be used any more.
    pub fn append(&mut self, changes: &[ServiceChange], timeouts: Option<TimeoutChange>) -> std::io::Result<()> {
        let line = Line { of: self.of.clone(), services: changes.iter().map(Edit::new).collect(), timeouts };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let written = self.file.seek(SeekFrom::Start(self.len)).and_then(|_| self.file.write_all(&text));
        if let Err(e) = written.and_then(|()| self.file.sync_data()) {
            // Whoever asked is told that the change was not made.
            let _ = self.file.set_len(self.len).and_then(|()| self.file.sync_data());
            return Err(e);
        }
        self.len += text.len() as u64;
        Ok(())
    }
}

/// Brings a state up to date with its journal.
pub(super) fn replay(state: &mut State, text: &[u8]) -> Result<(), String> {
    let Some(id) = state.id.clone() else { return Ok(()) };
    let mut services: BTreeMap<ServiceKey, NewService> =
        std::mem::take(&mut state.services).into_iter().map(|s| (s.address, s)).collect();
    let mut rest = text;
    let mut n = 0;
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        (rest, n) = (after, n + 1);
        let line: Line = match serde_json::from_slice(line) {
            Ok(line) => line,
            // The disk may have kept the end of the last line and not its middle.
            Err(_) if after.is_empty() => break,
            Err(e) => return Err(format!("line {n}: {e}")),
        };
        if line.of != id {
            continue;
        }
        for edit in line.services {
            edit.apply(&mut services).map_err(|e| format!("line {n}: {e}"))?;
        }
        state.timeouts = line.timeouts;
    }
    state.services = services.into_values().collect();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::*;
    use crate::model::{Limits, RealServer, ServiceKey};

    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Self {
            let d = std::env::temp_dir().join(format!("pollux-journal-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&d);
            Self(d)
        }
        fn file(&self) -> StateFile {
            let mut file = StateFile::new(self.0.join("state.json"));
            file.journal_from(0);
            file
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Services with so many real servers each.
    fn services(servers: &[(u8, u8)]) -> Services {
        let mut all = Services::default();
        for (service, n) in servers {
            let mut s = NewService::new(format!("tcp:10.9.0.{service}:80").parse::<ServiceKey>().unwrap());
            s.servers = (1..=*n).map(|n| RealServer::new(format!("10.2.0.{n}:80").parse().unwrap())).collect();
            all.add(&s, &Limits::default()).unwrap();
        }
        all
    }

    /// Saves the changes from each to the next; the first is written as a whole.
    fn save_all(file: &mut StateFile, all: &[Services]) {
        let mut before = Services::default();
        for s in all {
            file.save_change("base", s, &before.changes_to(s), None).unwrap();
            before = s.clone();
        }
    }

    fn story() -> Vec<Services> {
        [
            vec![(1, 3)],
            vec![(1, 4)],
            vec![(1, 4), (2, 2)],
            vec![(1, 1), (2, 2), (3, 0)],
            vec![(2, 2)],
            vec![],
            vec![(2, 9), (4, 1)],
        ]
        .iter()
        .map(|s| services(s))
        .collect()
    }

    #[test]
    fn cut_off_anywhere_it_holds_what_was_answered() {
        let dir = Dir::new("cut");
        let (mut file, story) = (dir.file(), story());
        save_all(&mut file, &story);
        let text = std::fs::read(file.journal_path()).unwrap();
        assert_eq!(text.iter().filter(|b| **b == b'\n').count(), story.len() - 1, "the first is in the file itself");
        for end in 0..=text.len() {
            std::fs::write(file.journal_path(), &text[..end]).unwrap();
            let whole = text[..end].iter().filter(|b| **b == b'\n').count();
            assert_eq!(dir.file().load().unwrap().unwrap().services().unwrap(), story[whole]);
            // The end of the last line came to the disk, and not its middle.
            let mut holes = text[..end].to_vec();
            let from = text[..end.saturating_sub(1)].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            if end > from + 1 && text[end - 1] == b'\n' {
                holes[from..end - 1].fill(0);
                std::fs::write(file.journal_path(), &holes).unwrap();
                assert_eq!(dir.file().load().unwrap().unwrap().services().unwrap(), story[whole - 1]);
            }
        }
    }

    #[test]
    fn a_journal_of_another_state_file_is_not_read() {
        let dir = Dir::new("other");
        let (mut file, story) = (dir.file(), story());
        save_all(&mut file, &story[..3]);
        let old = std::fs::read(file.journal_path()).unwrap();
        // After a start all is written anew; then it crashed before the journal was emptied.
        let mut file = dir.file();
        save_all(&mut file, &story[3..4]);
        std::fs::write(file.journal_path(), &old).unwrap();
        assert_eq!(dir.file().load().unwrap().unwrap().services().unwrap(), story[3]);
        // What comes then goes to the new one.
        let mut file = dir.file();
        save_all(&mut file, &story[3..6]);
        assert_eq!(dir.file().load().unwrap().unwrap().services().unwrap(), story[5]);
    }

    #[test]
    fn damage_is_told_and_never_ignored() {
        let dir = Dir::new("damage");
        let mut file = dir.file();
        save_all(&mut file, &story());
        let text = std::fs::read_to_string(file.journal_path()).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let without = |n: usize| [&lines[..n], &lines[n + 1..]].concat().concat();
        for broken in [text.replacen("tcp", "tpc", 1), text.replacen("\"at\":3", "\"at\":7", 1), without(1), without(0)]
        {
            assert_ne!(broken, text);
            std::fs::write(file.journal_path(), &broken).unwrap();
            let e = dir.file().load().unwrap_err();
            assert!(matches!(e, StateError::Damaged { .. }), "{e}");
            assert!(e.to_string().contains("state.json.journal is damaged: line "), "{e}");
        }
    }

    #[test]
    fn a_change_that_cannot_be_added_is_refused_and_the_next_is_written_as_a_whole() {
        let dir = Dir::new("refused");
        let (mut file, story) = (dir.file(), story());
        save_all(&mut file, &story[..2]);
        // Nothing can be written to a file that was opened for reading.
        file.journal.as_mut().unwrap().file = std::fs::File::open(file.journal_path()).unwrap();
        let change = |n: usize| story[n - 1].changes_to(&story[n]);
        let e = file.save_change("base", &story[2], &change(2), None).unwrap_err();
        assert!(e.to_string().contains("state.json.journal"), "{e}");
        assert_eq!(dir.file().load().unwrap().unwrap().services().unwrap(), story[1]);
        file.save_change("base", &story[3], &story[1].changes_to(&story[3]), None).unwrap();
        assert_eq!(dir.file().load().unwrap().unwrap().services().unwrap(), story[3]);
    }

    #[test]
    fn it_is_written_into_the_state_file_when_long_and_before_that_is_put_aside() {
        let dir = Dir::new("long");
        let (mut file, story) = (dir.file(), story());
        save_all(&mut file, &story[..2]);
        file.journal.as_mut().unwrap().most = 1;
        let set = TimeoutChange {
            base: SetTimeouts { tcp_s: 1, tcp_fin_s: 2, udp_s: 3 },
            set: SetTimeouts { tcp_s: 4, tcp_fin_s: 5, udp_s: 6 },
        };
        file.save_change("base", &story[2], &story[1].changes_to(&story[2]), Some(set)).unwrap();
        assert_eq!(std::fs::metadata(file.journal_path()).unwrap().len(), 0);
        file.save_change("base", &story[3], &story[2].changes_to(&story[3]), Some(set)).unwrap();
        let mut after = dir.file();
        let aside = after.supersede().unwrap().unwrap();
        assert!(after.load().unwrap().is_none());
        let kept = StateFile::new(aside).load().unwrap().unwrap();
        assert_eq!((kept.services().unwrap(), kept.timeouts), (story[3].clone(), Some(set)));
    }

    #[test]
    fn short_states_have_none() {
        let dir = Dir::new("short");
        let mut file = StateFile::new(dir.0.join("state.json"));
        save_all(&mut file, &story());
        assert!(!file.journal_path().exists());
    }
}
