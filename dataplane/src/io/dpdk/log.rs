//! What DPDK says, kept instead of printed.
//!
//! DPDK reports the reason for a failure only in its log. The last lines are kept, so
//! that an error can carry them, and each line can be passed on, for example to the
//! daemon's own log. Lines that begin while no sink is set are kept all the same.

use std::collections::VecDeque;
use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many lines are kept.
const LINES: usize = 256;
/// Longest line, bytes; what is beyond is cut.
const LINE_LEN: usize = 1024;

struct Kept {
    lines: VecDeque<String>,
    /// The beginning of a line whose end has not come yet.
    partial: String,
    /// Number of lines that ever came.
    count: u64,
    sink: Option<fn(&str)>,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { lines: VecDeque::new(), partial: String::new(), count: 0, sink: None });

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes each further line to `sink`, without its line end. `sink` may be called by any
/// thread that calls into DPDK, and must not do so itself.
pub fn set_sink(sink: fn(&str)) {
    kept().sink = Some(sink);
}

/// Takes the lines kept so far, oldest first, at most 256.
pub fn take() -> Vec<String> {
    kept().lines.drain(..).collect()
}

/// A place in the log, to ask later what came after it.
pub(super) struct Mark(u64);

/// The present place.
pub(super) fn mark() -> Mark {
    Mark(kept().count)
}

/// The lines since `mark` as one text for an error message: at most the last four.
pub(super) fn since(mark: &Mark) -> String {
    let kept = kept();
    let new = usize::try_from(kept.count - mark.0).unwrap_or(usize::MAX).min(kept.lines.len()).min(4);
    let lines: Vec<&str> = kept.lines.range(kept.lines.len() - new..).map(String::as_str).collect();
    if lines.is_empty() { "DPDK logged no reason".to_owned() } else { lines.join("; ") }
}

/// Directs DPDK's log here.
pub(super) fn capture() {
    // SAFETY: `receive` lives as long as the process and takes what C passes to it.
    let rc = unsafe { dpdk_sys::px_log_to(Some(receive)) };
    debug_assert_eq!(rc, 0, "without a stream DPDK keeps writing to stderr, which does no harm");
}

/// Called by DPDK's log stream with pieces of text; must not unwind.
unsafe extern "C" fn receive(text: *const c_char, len: usize) {
    if text.is_null() {
        return;
    }
    // SAFETY: the stream passes `len` readable bytes that live until this returns.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    let mut kept = kept();
    for piece in String::from_utf8_lossy(bytes).split_inclusive('\n') {
        let room = LINE_LEN.saturating_sub(kept.partial.len());
        let body = piece.trim_end_matches('\n');
        kept.partial.extend(body.chars().take(room));
        if piece.ends_with('\n') {
            let line = std::mem::take(&mut kept.partial);
            if let Some(sink) = kept.sink {
                sink(&line);
            }
            if kept.lines.len() == LINES {
                kept.lines.pop_front();
            }
            kept.lines.push_back(line);
            kept.count += 1;
        }
    }
}
