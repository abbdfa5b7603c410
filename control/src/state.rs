//! Accepted changes survive a crash: the state file.
//!
//! The configuration file is the base. Changes by the API are kept as the whole set of
//! services they led to, with the fingerprint of the file's services they were made on.
//! At the start the state is used when the file's services are still the same; when an
//! operator has edited them the file is used, and the state is kept as `FILE.superseded`.
//!
//! Writing is: temporary file beside it, written and synced, renamed, directory synced.
//! A crash at any moment leaves the old file or the new one, whole. Where that is a lot to write, changes that
//! follow are added to a journal beside it, each synced, until that has grown as long.

mod journal;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::journal::Journal;
use crate::model::{Limits, NewService, ServiceChange, Services};

/// Version of the file's format. 1 had no journal.
const FORMAT: u32 = 2;
const OLDEST_FORMAT: u32 = 1;
/// State files shorter than this are written as a whole each time, bytes.
const SHORT: u64 = 32 << 10;
/// Largest state file that is read, bytes.
const MAX_FILE: u64 = 1 << 30;

/// The three time-outs that `ipvsadm --set` sets, seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetTimeouts {
    /// TCP, established.
    pub tcp_s: u32,
    /// TCP after a FIN.
    pub tcp_fin_s: u32,
    /// UDP.
    pub udp_s: u32,
}

/// Time-outs that were set, with those of the file they replace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeoutChange {
    /// What the file said.
    pub base: SetTimeouts,
    /// What was set.
    pub set: SetTimeouts,
}

/// What the file holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of the format.
    pub format: u32,
    /// Tells this file from all written before; its journal names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// [`fingerprint`] of the configuration file's services that the changes were made on.
    pub base: String,
    /// All services with their real servers.
    pub services: Vec<NewService>,
    /// Time-outs, if they were set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutChange>,
}

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("cannot read the state file {path}: {source}; make it readable or name another one in [state]")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is there and makes no sense.
    #[error(
        "the state file {path} is damaged: {reason}; changes made by the API are in it, so it is not ignored: \
         repair it, or move it away to start from the configuration file"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be written.
    #[error("cannot write the state file {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl State {
    /// The state after changes on the base of a given fingerprint.
    pub fn new(base: String, services: &Services, timeouts: Option<TimeoutChange>) -> Self {
        let services = services.iter().map(|s| NewService::from(&**s)).collect();
        Self { format: FORMAT, id: Some(new_id()), base, services, timeouts }
    }

    /// The services, checked anew: somebody may have edited the file.
    pub fn services(&self) -> Result<Services, String> {
        // The limits may have shrunk since; what was accepted is not thrown away for that.
        let no_limits = Limits {
            max_services: u32::MAX,
            max_real_servers: u32::MAX,
            max_servers_per_service: u32::MAX,
            max_neighbours: u32::MAX,
        };
        let mut out = Services::default();
        for s in &self.services {
            out.add(s, &no_limits).map_err(|e| e.message)?;
        }
        Ok(out)
    }
}

/// Differs from all given out before, unless the clock was set back to the very nanosecond.
fn new_id() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since.as_nanos(), std::process::id())
}

/// A number that differs when the services differ: 128-bit FNV-1a of their JSON, as hex.
pub fn fingerprint(services: &Services) -> String {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for s in services.iter() {
        for b in serde_json::to_vec(&**s).unwrap_or_default() {
            hash = (hash ^ u128::from(b)).wrapping_mul(PRIME);
        }
    }
    format!("{hash:032x}")
}

/// Where the state is kept.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// After a state file that is long enough.
    journal: Option<Journal>,
    short: u64,
}

impl StateFile {
    /// The file at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), journal: None, short: SHORT }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where changes since it was written are kept.
    pub fn journal_path(&self) -> PathBuf {
        self.beside("journal")
    }

    /// State files from so many bytes on have a journal.
    #[cfg(test)]
    pub(crate) fn journal_from(&mut self, bytes: u64) {
        self.short = bytes;
    }

    /// Reads it with its journal; `None` when there is none.
    pub fn load(&self) -> Result<Option<State>, StateError> {
        let read = |source| StateError::Read { path: self.path.clone(), source };
        let damaged = |reason: String| StateError::Damaged { path: self.path.clone(), reason };
        match std::fs::metadata(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(read(e)),
            Ok(m) if m.len() > MAX_FILE => return Err(damaged("it is larger than 1 GB".into())),
            Ok(_) => {}
        }
        let bytes = std::fs::read(&self.path).map_err(read)?;
        // The version first: another one's fields would only confuse the message.
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(f) if (u64::from(OLDEST_FORMAT)..=u64::from(FORMAT)).contains(&f) => {}
            Some(f) => return Err(damaged(format!("its format is {f}, this version reads format {FORMAT}"))),
            None => return Err(damaged("`format` is missing".into())),
        }
        let mut state: State = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        self.replay(&mut state)?;
        state.services().map_err(damaged)?;
        Ok(Some(state))
    }

    fn replay(&self, state: &mut State) -> Result<(), StateError> {
        let path = self.journal_path();
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(|source| StateError::Read { path: path.clone(), source })?,
        };
        journal::replay(state, &text).map_err(|reason| StateError::Damaged { path, reason })
    }

    /// Writes down changes that lead to `services`. When this returns without an error they survive a crash.
    pub fn save_change(
        &mut self,
        base: &str,
        services: &Services,
        changes: &[ServiceChange],
        timeouts: Option<TimeoutChange>,
    ) -> Result<(), StateError> {
        // A journal is never used again after a failure.
        match self.journal.take().filter(|j| j.base == base && !j.is_full()) {
            Some(mut journal) => {
                let added = journal.append(changes, timeouts);
                added.map_err(|source| StateError::Write { path: self.journal_path(), source })?;
                self.journal = Some(journal);
                Ok(())
            }
            None => self.save(&State::new(base.into(), services, timeouts)),
        }
    }

    /// Writes it as a whole. When this returns without an error the state survives a crash.
    pub fn save(&mut self, state: &State) -> Result<(), StateError> {
        self.journal = None;
        let bytes = self.write(state).map_err(|source| StateError::Write { path: self.path.clone(), source })?;
        if bytes >= self.short {
            self.begin_journal(state, bytes);
        }
        Ok(())
    }

    /// From here on the old journal is of no use, as the state file has another id. Without a new one
    /// all is written each time.
    fn begin_journal(&mut self, state: &State, bytes: u64) {
        let journal = Journal::create(&self.journal_path(), state, bytes);
        let synced = journal.and_then(|j| File::open(self.directory())?.sync_all().map(|()| j));
        match synced {
            Ok(journal) => self.journal = journal,
            Err(e) => tracing::warn!(error = %e, path = %self.journal_path().display(), "no journal"),
        }
    }

    fn write(&self, state: &State) -> std::io::Result<u64> {
        let directory = self.directory();
        std::fs::create_dir_all(directory)?;
        let temporary = self.beside("tmp");
        let mut text = serde_json::to_vec_pretty(state)?;
        text.push(b'\n');
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&temporary, &self.path)?;
        File::open(directory)?.sync_all()?;
        Ok(text.len() as u64)
    }

    /// Puts it aside as `FILE.superseded`; returns that path if there was a file.
    pub fn supersede(&mut self) -> Result<Option<PathBuf>, StateError> {
        // What is put aside is one file.
        if self.journal_path().exists()
            && let Some(state) = self.load()?
        {
            self.save(&State { id: Some(new_id()), format: FORMAT, ..state })?;
        }
        self.journal = None;
        let aside = self.beside("superseded");
        let moved = match std::fs::rename(&self.path, &aside) {
            Ok(()) => File::open(self.directory()).and_then(|d| d.sync_all()).map(|()| Some(aside)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        moved.map_err(|source| StateError::Write { path: self.path.clone(), source })
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        name.into()
    }
}

/// How `a` differs from `b`, one line each, at most `most` lines.
pub fn differences(a: &Services, b: &Services, most: usize) -> Vec<String> {
    let mut out = Vec::new();
    for s in a.iter() {
        match b.get(&s.address) {
            Err(_) => out.push(format!("service {} was added", s.address)),
            Ok(other) if other == s => {}
            Ok(other) => {
                for r in &s.servers {
                    match other.server(&r.address) {
                        None => out.push(format!("real server {} of {} was added", r.address, s.address)),
                        Some(o) if o != r => {
                            out.push(format!("real server {} of {} was changed", r.address, s.address))
                        }
                        Some(_) => {}
                    }
                }
                for r in other.servers.iter().filter(|r| s.server(&r.address).is_none()) {
                    out.push(format!("real server {} of {} was removed", r.address, s.address));
                }
                let bare = |x: &crate::model::Service| crate::model::Service { servers: Vec::new(), ..x.clone() };
                if bare(s) != bare(other) {
                    out.push(format!("service {} was changed", s.address));
                }
            }
        }
    }
    out.extend(b.iter().filter(|s| !a.contains(&s.address)).map(|s| format!("service {} was removed", s.address)));
    if out.len() > most {
        let more = out.len() - most;
        out.truncate(most);
        out.push(format!("and {more} more"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RealServer;

    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Self {
            let d = std::env::temp_dir().join(format!("pollux-state-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&d);
            Self(d)
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn services(servers: &[&str]) -> Services {
        let mut s = NewService::new("tcp:10.9.0.1:80".parse().unwrap());
        s.servers = servers.iter().map(|a| RealServer::new(a.parse().unwrap())).collect();
        let mut all = Services::default();
        all.add(&s, &Limits::default()).unwrap();
        all
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = Dir::new("roundtrip");
        let mut file = StateFile::new(dir.0.join("sub/state.json"));
        assert!(file.load().unwrap().is_none());
        let all = services(&["10.2.0.11", "10.2.0.12"]);
        let state = State::new(fingerprint(&all), &all, None);
        file.save(&state).unwrap();
        assert_eq!(file.load().unwrap().unwrap(), state);
        assert_eq!(file.load().unwrap().unwrap().services().unwrap(), all);
        // A temporary file that a crash left behind is nobody's state.
        std::fs::write(dir.0.join("sub/state.json.tmp"), "half a fi").unwrap();
        assert_eq!(file.load().unwrap().unwrap(), state);
        file.save(&state).unwrap();
        assert!(!dir.0.join("sub/state.json.tmp").exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_state() {
        let dir = Dir::new("fail");
        let mut file = StateFile::new(dir.0.join("state.json"));
        let (old, new) = (services(&["10.2.0.11"]), services(&["10.2.0.12"]));
        file.save(&State::new("a".into(), &old, None)).unwrap();
        // The temporary name is taken by a directory: opening it for writing fails.
        std::fs::create_dir(dir.0.join("state.json.tmp")).unwrap();
        assert!(matches!(file.save(&State::new("a".into(), &new, None)), Err(StateError::Write { .. })));
        assert_eq!(file.load().unwrap().unwrap().services().unwrap(), old);
    }

    #[test]
    fn a_damaged_file_is_an_error_never_nothing() {
        let dir = Dir::new("damaged");
        std::fs::create_dir_all(&dir.0).unwrap();
        let file = StateFile::new(dir.0.join("state.json"));
        let all = services(&["10.2.0.11"]);
        let good = serde_json::to_string(&State::new("a".into(), &all, None)).unwrap();
        let broken = [
            String::new(),
            good[..good.len() / 2].to_owned(),
            good.replace("\"format\":2", "\"format\":3"),
            good.replace("\"format\":2,", ""),
            good.replace("\"base\"", "\"bass\""),
            good.replace("10.2.0.11", "10.2.0.999"),
            good.replace("\"weight\":1", "\"weight\":4294967296"),
            good.replace("10.2.0.11:80", "10.2.0.11:81"),
        ];
        for text in broken {
            assert_ne!(text, good);
            std::fs::write(file.path(), &text).unwrap();
            assert!(matches!(file.load(), Err(StateError::Damaged { .. })), "{text}");
        }
    }

    #[test]
    fn superseding_keeps_the_file_under_another_name() {
        let dir = Dir::new("superseded");
        let mut file = StateFile::new(dir.0.join("state.json"));
        assert!(file.supersede().unwrap().is_none());
        file.save(&State::new("a".into(), &services(&[]), None)).unwrap();
        assert_eq!(file.supersede().unwrap(), Some(dir.0.join("state.json.superseded")));
        assert!(file.load().unwrap().is_none());
    }

    #[test]
    fn fingerprints_and_differences_tell_services_apart() {
        let (a, b) = (services(&["10.2.0.11"]), services(&["10.2.0.11", "10.2.0.12"]));
        assert_eq!(fingerprint(&a), fingerprint(&a.clone()));
        assert_ne!(fingerprint(&a), fingerprint(&b));
        assert_eq!(differences(&b, &a, 9), ["real server 10.2.0.12:80 of tcp:10.9.0.1:80 was added"]);
        assert_eq!(differences(&a, &Services::default(), 9), ["service tcp:10.9.0.1:80 was added"]);
        assert_eq!(differences(&Services::default(), &b, 0), ["and 1 more"]);
    }
}
