//! The log: `tracing` to standard error, as text or JSON lines.

use std::io::IsTerminal;

use control::config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// Starts logging. `POLLUX_LOG` overrules the configured level (as `RUST_LOG` filters go).
pub fn start(config: &Log) {
    let filter = std::env::var("POLLUX_LOG").unwrap_or_else(|_| config.level.clone());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match config.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
