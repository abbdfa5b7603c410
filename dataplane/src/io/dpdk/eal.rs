//! The environment abstraction layer: started once per process, before anything else.

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;

use super::{errno, log, strerror};

/// Why the environment did not start.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// It runs already: once per process.
    #[error("DPDK runs in this process already")]
    Running,
    /// An option holds a zero byte.
    #[error("EAL option `{0}` holds a zero byte")]
    ZeroByte(String),
    /// DPDK refused.
    #[error("DPDK did not start with the options `{options}`: {reason}. It logged: {log}")]
    Init {
        /// The options given.
        options: String,
        /// DPDK's name for the error.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// The mbuf flag that tells a marked packet is taken.
    #[error("the packet flag that marks need is taken by a driver: {0}")]
    Flag(String),
    /// A thread could not become an lcore.
    #[error("this thread cannot be registered with DPDK: {0}")]
    Register(String),
}

/// Whether the environment runs (or is being started).
static RUNNING: AtomicBool = AtomicBool::new(false);

/// The running environment. Clones share it; when the last one is gone, and with it every
/// pool and port, DPDK is told to clean up.
#[derive(Clone, Debug)]
pub struct Eal {
    _shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared;

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the last handle is going, and pools, ports and registered threads each
        // hold one, so that nothing uses DPDK any more.
        let rc = unsafe { sys::rte_eal_cleanup() };
        debug_assert_eq!(rc, 0, "cleanup of a started environment");
        // RUNNING stays set: DPDK does not promise a second start in one process.
    }
}

impl Eal {
    /// Starts DPDK with these EAL options (`--no-huge`, `-m 256`, `--file-prefix=x`,
    /// `--vdev=…`, …; no program name in front).
    ///
    /// Without an option that names cores DPDK gets one lcore for the calling thread, as
    /// workers are threads of ours that [register](Self::register_thread). DPDK pins
    /// the thread that starts it; here the thread gets its former CPUs back.
    ///
    /// # Errors
    /// When DPDK refuses, with what it logged; a second start is refused as well.
    pub fn init(args: &[String]) -> Result<Self, EalError> {
        if RUNNING.swap(true, Ordering::SeqCst) {
            return Err(EalError::Running);
        }
        let started = start(args);
        if started.is_err() {
            RUNNING.store(false, Ordering::SeqCst);
        }
        started
    }

    /// DPDK's version, for example `DPDK 22.11.11`.
    pub fn version() -> String {
        // SAFETY: returns a pointer to a constant string.
        let text = unsafe { sys::rte_version() };
        // SAFETY: a terminated string that lives as long as the process.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// Whether DPDK got huge pages.
    pub fn has_huge_pages(&self) -> bool {
        // SAFETY: reads a setting of the running environment.
        unsafe { sys::rte_eal_has_hugepages() != 0 }
    }

    /// Makes the calling thread an lcore, so that it has a cache of its own in each pool.
    /// Pin it to its CPU first: DPDK notes the NUMA node. A thread that is one already
    /// (the one that started DPDK) gets a handle that does nothing.
    ///
    /// # Errors
    /// When no lcore number is left, or another process shares this DPDK instance.
    pub fn register_thread(&self) -> Result<Lcore, EalError> {
        // SAFETY: reads a thread-local variable.
        let present = unsafe { sys::px_lcore_id() };
        if present != sys::LCORE_ID_ANY {
            return Ok(Lcore { id: present, registered: false, _eal: self.clone(), _thread: PhantomData });
        }
        let mark = log::mark();
        // SAFETY: the environment runs, as `self` proves.
        if unsafe { sys::rte_thread_register() } != 0 {
            return Err(EalError::Register(format!("{}; {}", strerror(errno()), log::since(&mark))));
        }
        // SAFETY: reads a thread-local variable.
        let id = unsafe { sys::px_lcore_id() };
        Ok(Lcore { id, registered: true, _eal: self.clone(), _thread: PhantomData })
    }
}

/// A thread's place among the lcores, given back when dropped. Stays on its thread.
#[derive(Debug)]
pub struct Lcore {
    id: u32,
    registered: bool,
    _eal: Eal,
    /// Neither Send nor Sync: it belongs to the thread it was made on.
    _thread: PhantomData<*const ()>,
}

impl Lcore {
    /// DPDK's number of this lcore.
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Lcore {
    fn drop(&mut self) {
        if self.registered {
            // SAFETY: this thread registered, and the handle cannot leave it.
            unsafe { sys::rte_thread_unregister() };
        }
    }
}

/// Options by which a caller chooses DPDK's cores.
const CORE_OPTIONS: [&str; 5] = ["-l", "-c", "--lcores", "-s", "-S"];

fn start(args: &[String]) -> Result<Eal, EalError> {
    let mut options = vec!["pollux".to_owned()];
    if !args.iter().any(|a| CORE_OPTIONS.iter().any(|o| a.starts_with(o))) {
        options.push(format!("--lcores=0@{}", first_cpu().unwrap_or(0)));
    }
    options.extend_from_slice(args);
    let mut argv = Vec::with_capacity(options.len() + 1);
    for option in &options {
        let c = CString::new(option.as_str()).map_err(|_| EalError::ZeroByte(option.clone()))?;
        // Leaked on purpose, once a process: DPDK keeps pointers into its arguments.
        argv.push(c.into_raw());
    }
    let argc = i32::try_from(argv.len()).unwrap_or(i32::MAX);
    argv.push(std::ptr::null_mut());

    log::capture();
    let mark = log::mark();
    let cpus = affinity();
    let argv: &'static mut [*mut c_char] = argv.leak();
    // SAFETY: `argc` terminated strings and a null pointer, which live for ever; RUNNING
    // makes this the only call.
    let rc = unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) };
    let error = errno();
    if let Some(cpus) = cpus {
        set_affinity(&cpus);
    }
    if rc < 0 {
        return Err(EalError::Init {
            options: options[1..].join(" "),
            reason: strerror(error),
            log: log::since(&mark),
        });
    }
    let eal = Eal { _shared: Arc::new(Shared) };
    claim_mark_flag()?;
    Ok(eal)
}

/// Reserves the flag [`super::mbuf::MARKED`]: the highest of the free ones, as drivers that
/// ask for any flag get the lowest, so that its place is known at compile time.
fn claim_mark_flag() -> Result<(), EalError> {
    // SAFETY: plain integers and characters, for which all zeros is a value.
    let mut flag: sys::rte_mbuf_dynflag = unsafe { std::mem::zeroed() };
    for (to, from) in flag.name.iter_mut().zip(b"pollux_marked") {
        *to = *from as c_char;
    }
    let bit = super::mbuf::MARKED.trailing_zeros();
    // SAFETY: a filled-in, terminated structure that is copied.
    let rc = unsafe { sys::rte_mbuf_dynflag_register_bitnum(&flag, bit) };
    if rc < 0 { Err(EalError::Flag(strerror(errno()))) } else { Ok(()) }
}

/// The CPUs the calling thread may use.
fn affinity() -> Option<libc::cpu_set_t> {
    // SAFETY: a bit set, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is as large as stated; thread 0 is the calling one.
    let rc = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    (rc == 0).then_some(set)
}

fn set_affinity(set: &libc::cpu_set_t) {
    // SAFETY: `set` is as large as stated; thread 0 is the calling one. A failure leaves
    // the thread on DPDK's CPU, which is slower but right.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) };
}

/// The lowest CPU that the calling thread may use.
fn first_cpu() -> Option<usize> {
    let set = affinity()?;
    // SAFETY: the index stays below the set's size.
    (0..libc::CPU_SETSIZE as usize).find(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
}
