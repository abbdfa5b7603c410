//! Finds the installed DPDK, generates the bindings from its headers, compiles the shim
//! and has the C compiler confirm the layouts that the bindings state.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, panic};

/// The oldest release whose interfaces are used.
const OLDEST: &str = "22.11";

/// Functions of the shared libraries that are bound. The shim's `px_*` come besides.
const FUNCTIONS: &[&str] = &[
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_has_hugepages",
    "rte_eal_iova_mode",
    "rte_version",
    "rte_strerror",
    "rte_log_set_global_level",
    "rte_log_set_level_pattern",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_socket_id",
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_dev_name",
    "rte_mbuf_dynflag_register_bitnum",
    "rte_pktmbuf_pool_create",
    "rte_pktmbuf_copy",
    "rte_mempool_free",
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    "rte_eth_dev_(info_get|configure|start|stop|close|set_mtu|get_mtu|socket_id|count_avail)",
    "rte_eth_dev_(get_port_by_name|get_name_by_port|is_valid_port|adjust_nb_rx_tx_desc)",
    "rte_eth_dev_(rss_hash_conf_get|rss_hash_update|rss_reta_update|rss_reta_query)",
    "rte_eth_find_next",
    "rte_eth_[rt]x_queue_setup",
    "rte_eth_promiscuous_(enable|disable|get)",
    "rte_eth_allmulticast_(enable|disable|get)",
    "rte_eth_macaddr_get",
    "rte_eth_stats_(get|reset)",
    "rte_eth_(add|remove)_[rt]x_callback",
    "rte_eth_xstats_(get|get_names|reset)",
    "rte_hash_(create|free|reset|count)",
    "rte_hash_add_key_with_hash(_data)?",
    "rte_hash_del_key_with_hash",
    "rte_hash_lookup_with_hash_bulk(_data)?",
    "px_.*",
];

/// Structures that are used; what they contain follows of itself.
const TYPES: &[&str] = &[
    "rte_mbuf",
    "rte_mempool",
    "rte_mbuf_dynflag",
    "rte_eth_fp_ops",
    "rte_eth_dev_info",
    "rte_eth_conf",
    "rte_eth_rss_conf",
    "rte_eth_rss_reta_entry64",
    "rte_eth_stats",
    "rte_eth_xstat",
    "rte_eth_xstat_name",
    "rte_ether_addr",
    "rte_hash_parameters",
    "px_.*",
];

/// Never looked into from Rust: their fields are reached through `LAYOUT_*` offsets or
/// not at all, so that unnamed unions, bit fields and packed members do no harm.
const OPAQUE: &[&str] = &["rte_mempool", "rte_mbuf", "rte_device", "rte_eth_link", "rte_ring", "rte_hash"];

fn main() {
    for file in ["wrapper.h", "layout.h", "shim.h", "shim.c", "layout_check.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    for variable in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "LIBCLANG_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Err(message) = build() {
        // One message, shown by cargo as this package's error; no backtrace, no second one.
        println!("cargo::error={message}");
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| e.to_string())?);
    let dpdk = find_dpdk()?;
    for dir in &dpdk.include_dirs {
        // Another DPDK in the same place, after an upgrade.
        let version = dir.join("rte_version.h");
        if version.exists() {
            println!("cargo:rerun-if-changed={}", version.display());
        }
    }
    let bindings = generate(&dpdk.cflags)?;
    fs::write(out.join("bindings.rs"), &bindings).map_err(|e| format!("cannot write the bindings: {e}"))?;
    write_rust_layout(&bindings, &out.join("rust_layout.h"))?;
    compile_c(&dpdk.cflags, &out)?;
    for dir in &dpdk.lib_dirs {
        println!("cargo:rustc-link-search=native={}", dir.display());
    }
    // The few libraries that are called; their own needs they name themselves, and the
    // drivers are loaded from the distribution's directory when the EAL starts.
    for lib in ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_hash", "rte_eal"] {
        println!("cargo:rustc-link-lib=dylib={lib}");
    }
    // The log library is one of its own since 23.11.
    if dpdk.libs.iter().any(|l| l == "rte_log") {
        println!("cargo:rustc-link-lib=dylib=rte_log");
    }
    println!("cargo:version={}", dpdk.version);
    Ok(())
}

struct Dpdk {
    version: String,
    cflags: Vec<String>,
    libs: Vec<String>,
    lib_dirs: Vec<PathBuf>,
    include_dirs: Vec<PathBuf>,
}

fn find_dpdk() -> Result<Dpdk, String> {
    let found = pkg_config::Config::new().atleast_version(OLDEST).cargo_metadata(false).probe("libdpdk");
    let library = found.map_err(|e| no_dpdk(&e))?;
    // The crate keeps include paths and definitions only, but DPDK's headers want
    // `-include rte_config.h` and an instruction set as well.
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = Command::new(&tool)
        .args(["--cflags", "libdpdk"])
        .output()
        .map_err(|e| format!("cannot run `{tool} --cflags libdpdk`: {e}"))?;
    let cflags = String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect();
    Ok(Dpdk {
        version: library.version,
        cflags,
        libs: library.libs,
        lib_dirs: library.link_paths,
        include_dirs: library.include_paths,
    })
}

fn no_dpdk(error: &pkg_config::Error) -> String {
    let why = match error {
        pkg_config::Error::Command { .. } => "pkg-config, which finds it, is not installed".to_owned(),
        _ => match Command::new("pkg-config").args(["--modversion", "libdpdk"]).output() {
            Ok(o) if o.status.success() => {
                format!("version {} is installed", String::from_utf8_lossy(&o.stdout).trim())
            }
            _ => "pkg-config finds no `libdpdk`".to_owned(),
        },
    };
    format!(
        "DPDK {OLDEST} or newer is needed, with its headers, but {why}. \
         Debian, Ubuntu: apt-get install libdpdk-dev dpdk pkg-config libclang-dev. \
         Fedora, RHEL: dnf install dpdk-devel dpdk pkgconf-pkg-config clang-devel. \
         DPDK built from source: put the directory of libdpdk.pc into PKG_CONFIG_PATH."
    )
}

/// The bindings as Rust source.
fn generate(cflags: &[String]) -> Result<String, String> {
    // libclang is loaded when bindgen runs, and its absence is a panic there.
    panic::set_hook(Box::new(|_| {}));
    let loaded = panic::catch_unwind(bindgen::clang_version);
    let _ = panic::take_hook();
    if loaded.is_err() {
        return Err("libclang, which reads DPDK's headers, was not found. \
             Debian, Ubuntu: apt-get install libclang-dev. Fedora, RHEL: dnf install clang-devel. \
             Elsewhere: set LIBCLANG_PATH to the directory of libclang.so."
            .to_owned());
    }
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(cflags)
        .parse_callbacks(Box::new(Names))
        .allowlist_var("LAYOUT_.*|SIZE_rte_.*|RSS_.*_BIT|PX_.*|rte_eth_fp_ops")
        .derive_default(false)
        .prepend_enum_name(false)
        .generate_comments(false)
        // One item a line, for write_rust_layout, on machines without rustfmt as well.
        .formatter(bindgen::Formatter::Prettyplease)
        .merge_extern_blocks(true)
        .use_core();
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    match builder.generate() {
        Ok(bindings) => Ok(bindings.to_string()),
        Err(e) => Err(format!("the installed DPDK's headers could not be read: {e}").replace('\n', " ")),
    }
}

/// Takes the `PX_` of wrapper.h's constants away.
#[derive(Debug)]
struct Names;

impl bindgen::callbacks::ParseCallbacks for Names {
    fn item_name(&self, item: bindgen::callbacks::ItemInfo) -> Option<String> {
        item.name.strip_prefix("PX_").map(str::to_owned)
    }
}

/// Writes the constants `LAYOUT_*` and `SIZE_*` of the bindings as C macros `RUST_*`.
fn write_rust_layout(bindings: &str, to: &Path) -> Result<(), String> {
    let mut text = String::new();
    for line in bindings.lines() {
        let Some(rest) = line.trim().strip_prefix("pub const ") else { continue };
        if !(rest.starts_with("LAYOUT_") || rest.starts_with("SIZE_")) {
            continue;
        }
        let name = rest.split(':').next().unwrap_or_default();
        let value = rest.rsplit('=').next().unwrap_or_default().trim().trim_end_matches(';');
        let _ = writeln!(text, "#define RUST_{name} {value}");
    }
    if text.is_empty() {
        return Err("no offset was found in the bindings that bindgen made".to_owned());
    }
    fs::write(to, text).map_err(|e| format!("cannot write {}: {e}", to.display()))
}

fn compile_c(cflags: &[String], out: &Path) -> Result<(), String> {
    let mut cc = cc::Build::new();
    cc.files(["shim.c", "layout_check.c"]).include(".").include(out).opt_level(3).warnings(true);
    // Warnings inside DPDK's own headers are not ours to mend.
    cc.flag_if_supported("-Wno-unused-parameter").flag_if_supported("-Wno-deprecated-declarations");
    for flag in cflags {
        cc.flag(flag);
    }
    cc.try_compile("pollux_dpdk_shim").map_err(|e| format!("the C side could not be compiled: {e}").replace('\n', " "))
}
