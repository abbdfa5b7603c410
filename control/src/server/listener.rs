//! The socket's path: who may have it, and how it is taken and given back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Group;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why a socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon has it.
    #[error(
        "another polluxd{} serves `{}` already; stop it first, or give this one another path with `socket` in [api]",
        of_pid(*pid), path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The other daemon's process id, where the lock file tells it.
        pid: Option<u32>,
    },
    /// Somebody who does not know of the lock file answers there.
    #[error("another program answers on `{}`; stop it first, or choose another path with `socket` in [api]", path.display())]
    Answered {
        /// The socket.
        path: PathBuf,
    },
    /// The path is taken by something that is no socket.
    #[error("`{}` exists and is no socket; move it away, or choose another path with `socket` in [api]", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error("`{}` is too long for a socket's path (at most 107 bytes); choose a shorter one with `socket` in [api]", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The configured group does not exist.
    #[error(
        "there is no group `{group}` on this machine; create it (`groupadd --system {group}`) or change `group` in [api]"
    )]
    NoSuchGroup {
        /// Its name.
        group: String,
    },
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn of_pid(pid: Option<u32>) -> String {
    pid.map_or(String::new(), |pid| format!(" (process {pid})"))
}

/// A bound socket. Dropping it removes the socket from the file system.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket, so that somebody else's is never removed.
    identity: (u64, u64),
    /// Held as long as the socket is; the kernel releases it when the process ends.
    _lock: Flock<File>,
}

impl Listener {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The lock is released after this, so nobody can have put a new socket here since
        // the comparison. The lock file stays: removing it would let two daemons lock
        // two files of one name.
        if fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes `path` and listens there with the permissions `mode`, owned by `group` if one is
/// given. Missing directories are created.
///
/// A file `path` + `.lock` is locked (`flock`) as long as the socket is held, so that of
/// two daemons started at once one gets the path and the other an error. A socket that a
/// killed daemon left behind is taken over.
pub fn bind(path: &Path, mode: u32, group: Option<&str>) -> Result<Listener, BindError> {
    let address = UnixAddr::new(path).map_err(|_| BindError::TooLong { path: path.into() })?;
    let gid = group.map(group_id).transpose()?;
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(io_error("create the directory", dir))?;
    }
    let lock = lock(path)?;
    remove_stale(path)?;

    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| io_error("open a socket for", path)(e.into()))?;
    // Before `bind`, so that the socket never stands there with wider permissions.
    fchmod(&fd, Mode::from_bits_truncate(mode & 0o600)).map_err(|e| io_error("set the mode of", path)(e.into()))?;
    let listener = listen(fd, &address).map_err(|e| io_error("listen on", path)(e.into()))?;
    let at = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
    let listener = Listener { socket: listener, path: path.into(), identity: (at.dev(), at.ino()), _lock: lock };
    if gid.is_some() {
        std::os::unix::fs::chown(path, None, gid).map_err(io_error("give the group to", path))?;
    }
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode & 0o777))
        .map_err(io_error("set the mode of", path))?;
    Ok(listener)
}

fn listen(fd: OwnedFd, address: &UnixAddr) -> Result<UnixListener, Errno> {
    use std::os::fd::AsRawFd;
    socket::bind(fd.as_raw_fd(), address)?;
    socket::listen(&fd, Backlog::new(BACKLOG)?)?;
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))?;
    Ok(listener)
}

fn group_id(name: &str) -> Result<u32, BindError> {
    let none = || BindError::NoSuchGroup { group: name.into() };
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    Ok(Group::from_name(name).ok().flatten().ok_or_else(none)?.gid.as_raw())
}

/// Locks the file beside the socket and writes the process id into it.
fn lock(path: &Path) -> Result<Flock<File>, BindError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&name)
        .map_err(io_error("open the lock file", &name))?;
    let mut text = String::new();
    // Whatever stands there is only told to people; a file of junk is no error.
    let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let mut write = || {
                lock.set_len(0)?;
                lock.rewind()?;
                writeln!(&mut *lock, "{}", std::process::id())
            };
            write().map_err(io_error("write the lock file", &name))?;
            Ok(lock)
        }
        Err((_, Errno::EWOULDBLOCK)) => Err(BindError::InUse { path: path.into(), pid: text.trim().parse().ok() }),
        Err((_, e)) => Err(io_error("lock", &name)(e.into())),
    }
}

/// Removes the socket of a daemon that is no more. The caller holds the lock.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("look at", path)(e)),
        Ok(m) if !m.file_type().is_socket() => return Err(BindError::NotASocket { path: path.into() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // A full backlog also means that somebody listens.
        Ok(_) => return Err(BindError::Answered { path: path.into() }),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(BindError::Answered { path: path.into() }),
        Err(_) => {}
    }
    tracing::info!(path = %path.display(), "taking over the socket of a daemon that ended without removing it");
    fs::remove_file(path).map_err(io_error("remove the stale socket", path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |source| BindError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory of its own for each test, removed at the end.
    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Self {
            let d = std::env::temp_dir().join(format!("pollux-listener-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&d);
            Self(d)
        }
        fn socket(&self) -> PathBuf {
            self.0.join("sub/p.sock")
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_socket_has_its_mode_and_goes_with_the_listener() {
        let dir = Dir::new("mode");
        let l = bind(&dir.socket(), 0o660, None).unwrap();
        assert_eq!(fs::metadata(l.path()).unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(l.path()).unwrap();
        drop(l);
        assert!(!dir.socket().exists());
        bind(&dir.socket(), 0o600, None).unwrap();
    }

    #[test]
    fn a_second_daemon_is_refused_and_the_first_one_undisturbed() {
        let dir = Dir::new("second");
        let l = bind(&dir.socket(), 0o660, None).unwrap();
        let e = bind(&dir.socket(), 0o660, None).unwrap_err().to_string();
        assert!(e.contains(&format!("another polluxd (process {}) serves", std::process::id())), "{e}");
        assert!(e.contains(dir.socket().to_str().unwrap()) && e.contains("`socket` in [api]"), "{e}");
        UnixStream::connect(l.path()).unwrap();
    }

    #[test]
    fn a_stale_socket_is_taken_over_but_a_live_one_and_a_file_are_not() {
        let dir = Dir::new("stale");
        fs::create_dir_all(dir.0.join("sub")).unwrap();
        let other = UnixListener::bind(dir.socket()).unwrap();
        assert!(matches!(bind(&dir.socket(), 0o660, None), Err(BindError::Answered { .. })));
        drop(other);
        assert!(dir.socket().exists());
        drop(bind(&dir.socket(), 0o660, None).unwrap());
        fs::write(dir.socket(), "precious").unwrap();
        assert!(matches!(bind(&dir.socket(), 0o660, None), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(dir.socket()).unwrap(), "precious");
    }

    #[test]
    fn of_many_daemons_started_at_once_one_wins() {
        let dir = Dir::new("race");
        fs::create_dir_all(dir.0.join("sub")).unwrap();
        drop(UnixListener::bind(dir.socket()).unwrap());
        let barrier = std::sync::Barrier::new(16);
        let winners: Vec<Listener> = std::thread::scope(|s| {
            let all: Vec<_> = (0..16)
                .map(|_| {
                    s.spawn(|| {
                        barrier.wait();
                        bind(&dir.socket(), 0o660, None).ok()
                    })
                })
                .collect();
            all.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1);
        UnixStream::connect(dir.socket()).unwrap();
    }

    #[test]
    fn a_socket_put_there_by_somebody_else_is_not_removed() {
        let dir = Dir::new("foreign");
        let l = bind(&dir.socket(), 0o660, None).unwrap();
        fs::remove_file(dir.socket()).unwrap();
        let _other = UnixListener::bind(dir.socket()).unwrap();
        drop(l);
        assert!(dir.socket().exists());
    }

    #[test]
    fn what_cannot_be_is_told() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        assert!(matches!(bind(&long, 0o660, None), Err(BindError::TooLong { .. })));
        let e = bind(Path::new("/tmp/pollux-x.sock"), 0o660, Some("no-such-group-here")).unwrap_err();
        assert!(e.to_string().contains("groupadd --system no-such-group-here"), "{e}");
        let e = bind(Path::new("/proc/nowhere/p.sock"), 0o660, None).unwrap_err().to_string();
        assert!(e.starts_with("cannot create the directory `/proc/nowhere`"), "{e}");
    }
}
