//! The command line: one definition feeds parsing, help and completions.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::{DEFAULT_SOCKET, SOCKET_VARIABLE};
use crate::model::{ClientAddress, ForwardingMode, GueChecksum, MarkRule, SchedFlag, Scheduler, ServerKey, ServiceKey};

/// Controls polluxd, the layer-4 load balancer.
///
/// Services are named by protocol, address and port: tcp:10.9.0.1:80, udp:[2001:db8::1]:53,
/// or fwm:7 for a firewall mark. Real servers are named by address and port: 10.2.0.11:8080.
#[derive(Parser, Debug)]
#[command(name = "polluxctl", version, propagate_version = true, infer_subcommands = true, max_term_width = 100)]
#[command(after_help = "\
Exit status: 0 done, 1 refused or polluxd not reachable, 2 wrong usage.

Examples:
  polluxctl service add tcp:10.9.0.1:80 --scheduler wlc
  polluxctl server add tcp:10.9.0.1:80 10.2.0.11:8080 --mode nat --weight 2
  polluxctl server drain tcp:10.9.0.1:80 10.2.0.11:8080
  polluxctl stats --watch")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where help lists the options of every command.
const GLOBAL: &str = "Options of every command";

/// Options of every command.
#[derive(Args, Debug)]
pub struct Global {
    /// The daemon's socket
    #[arg(long, global = true, help_heading = GLOBAL, env = SOCKET_VARIABLE, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// Print the API's JSON instead of tables; errors are JSON on standard error
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Longest time to wait for the daemon, in seconds
    #[arg(long, global = true, help_heading = GLOBAL, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Virtual services
    #[command(subcommand, visible_alias = "services")]
    Service(ServiceCommand),
    /// Real servers of a service
    #[command(subcommand, visible_alias = "servers")]
    Server(ServerCommand),
    /// Traffic of services, real servers and workers
    Stats(StatsArgs),
    /// Flows that are tracked now
    Flows(FlowsArgs),
    /// Neighbours and their Ethernet addresses
    #[command(visible_alias = "neighbors")]
    Neighbours,
    /// Ports with their addresses and counters
    Ports,
    /// Packets that were dropped, and why
    Drops {
        /// Also reasons that never occurred
        #[arg(long)]
        all: bool,
    },
    /// How the daemon is
    Status,
    /// What the daemon is
    Version,
    /// The configuration: the running one, or a file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Time-outs of flows: shows them, or sets those that are given
    Timeouts(TimeoutsArgs),
    /// Makes the changes of a file, all or none
    Batch {
        /// A JSON file: {"operations": [{"op": "add-service", …}, …]}; - reads standard input
        file: PathBuf,
        /// Options of changes.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Makes the daemon read its configuration file again
    Reload,
    /// Prints a script that completes commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Options of commands that change something.
#[derive(Args, Debug, Default)]
pub struct ChangeArgs {
    /// Return only when every worker works with the change
    #[arg(long)]
    pub wait: bool,
}

/// `polluxctl service …`
#[derive(Subcommand, Debug)]
pub enum ServiceCommand {
    /// Adds a service
    Add {
        /// The service, such as tcp:10.9.0.1:80
        service: ServiceKey,
        /// Its properties.
        #[command(flatten)]
        options: ServiceOptions,
        /// Options of changes.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Changes a service; what is not given stays
    #[command(visible_alias = "edit")]
    Set {
        /// The service
        service: ServiceKey,
        /// Its properties.
        #[command(flatten)]
        options: ServiceOptions,
        /// End persistence
        #[arg(long, conflicts_with_all = ["persistence", "persistence_prefix"])]
        no_persistence: bool,
        /// End one-packet scheduling
        #[arg(long, conflicts_with = "one_packet")]
        no_one_packet: bool,
        /// Do not follow FTP any more
        #[arg(long, conflicts_with = "ftp")]
        no_ftp: bool,
        /// Clear the scheduler's flags
        #[arg(long, conflicts_with = "flag")]
        no_flags: bool,
        /// Options of changes.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Removes a service with its real servers
    #[command(visible_aliases = ["delete", "rm"])]
    Del {
        /// The service
        service: ServiceKey,
        /// Options of changes.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Lists services
    #[command(visible_alias = "ls")]
    List,
    /// Shows one service with its real servers
    Show {
        /// The service
        service: ServiceKey,
    },
}

/// Properties of a service.
#[derive(Args, Debug, Default)]
pub struct ServiceOptions {
    /// Who gets a new flow [default when adding: wlc]
    #[arg(long, short, value_name = "NAME", value_parser = named::<Scheduler>(Scheduler::ALL, Scheduler::name))]
    pub scheduler: Option<Scheduler>,
    /// Flags of the hashing schedulers, separated by commas
    #[arg(long, value_name = "FLAG", value_delimiter = ',', value_parser = named::<SchedFlag>(SchedFlag::ALL, SchedFlag::name))]
    pub flag: Vec<SchedFlag>,
    /// Keep a client on its real server, for so many seconds after its last flow
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "360")]
    pub persistence: Option<u32>,
    /// Clients that agree in this many leading bits count as one
    #[arg(long, value_name = "BITS", requires = "persistence")]
    pub persistence_prefix: Option<u8>,
    /// Schedule every UDP packet by itself
    #[arg(long)]
    pub one_packet: bool,
    /// How real servers are told clients' addresses: none, proxy (PROXY protocol v2) or toa (a TCP option)
    #[arg(long, value_name = "WAY", value_parser = named::<ClientAddress>(ClientAddress::ALL, ClientAddress::name))]
    pub client_address: Option<ClientAddress>,
    /// Follow FTP's control connection to its data connections
    #[arg(long)]
    pub ftp: bool,
    /// For a firewall mark: traffic that carries it, such as tcp:10.9.0.0/24:80-90; repeat for more
    #[arg(long, value_name = "RULE")]
    pub rule: Vec<MarkRule>,
}

/// `polluxctl server …`
#[derive(Subcommand, Debug)]
pub enum ServerCommand {
    /// Adds a real server to a service
    Add {
        /// Which one.
        #[command(flatten)]
        which: WhichServer,
        /// Its properties.
        #[command(flatten)]
        options: ServerOptions,
        /// Options of changes.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Changes a real server; what is not given stays
    #[command(visible_alias = "edit")]
    Set {
        /// Which one.
        #[command(flatten)]
        which: WhichServer,
        /// Its properties.
        #[command(flatten)]
        options: ServerOptions,
        /// Options of changes.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Lets a real server keep its flows and take no new ones (weight 0)
    Drain {
        /// Which one.
        #[command(flatten)]
        which: WhichServer,
        /// Options of changes.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Removes a real server
    #[command(visible_aliases = ["delete", "rm"])]
    Del {
        /// Which one.
        #[command(flatten)]
        which: WhichServer,
        /// Options of changes.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Lists the real servers of a service, or of all
    #[command(visible_alias = "ls")]
    List {
        /// The service
        service: Option<ServiceKey>,
    },
}

/// A real server of a service.
#[derive(Args, Debug)]
pub struct WhichServer {
    /// The service, such as tcp:10.9.0.1:80
    pub service: ServiceKey,
    /// The real server, such as 10.2.0.11:8080; without a port it takes the service's
    pub server: ServerKey,
}

/// Weights and thresholds, up to the kernel's largest.
fn up_to_most() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(..=i64::from(i32::MAX))
}

/// Properties of a real server.
#[derive(Args, Debug, Default)]
pub struct ServerOptions {
    /// How packets reach it [default when adding: direct-routing]
    #[arg(long, short, value_parser = modes())]
    pub mode: Option<ForwardingMode>,
    /// Share of new flows, 0 to 2147483647; 0 drains it [default when adding: 1]
    #[arg(long, short, value_name = "N", value_parser = up_to_most())]
    pub weight: Option<u32>,
    /// Take no new flow at this many connections; 0 is no limit
    #[arg(long, value_name = "CONNECTIONS", value_parser = up_to_most())]
    pub upper: Option<u32>,
    /// Take new flows again below this many; 0 means three quarters of --upper
    #[arg(long, value_name = "CONNECTIONS", value_parser = up_to_most())]
    pub lower: Option<u32>,
    /// The wrapping, with mode tunnel [default: ipip]
    #[arg(long, value_enum)]
    pub tunnel: Option<TunnelKind>,
    /// UDP port of the tunnel's end (gue, vxlan)
    #[arg(long, value_name = "PORT", requires = "tunnel")]
    pub tunnel_port: Option<u16>,
    /// Network identifier (vxlan)
    #[arg(long, value_name = "N", requires = "tunnel")]
    pub vni: Option<u32>,
    /// Checksum of the wrapping: for gue none, udp or remote; for gre none or udp
    #[arg(long, value_name = "KIND", requires = "tunnel", value_parser = named::<GueChecksum>(GueChecksum::ALL, GueChecksum::name))]
    pub tunnel_checksum: Option<GueChecksum>,
}

/// The wrapping of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum TunnelKind {
    /// IP in IP
    Ipip,
    /// Generic routing encapsulation
    Gre,
    /// Generic UDP encapsulation
    Gue,
    /// VXLAN
    Vxlan,
}

/// `polluxctl stats …`
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// Only this service
    pub service: Option<ServiceKey>,
    /// Traffic per second instead of totals
    #[arg(long, short)]
    pub rates: bool,
    /// Workers instead of services
    #[arg(long, conflicts_with_all = ["rates", "service"])]
    pub workers: bool,
    /// Where the cores' time goes: busy and idle, and cycles a packet by stage
    #[arg(long, conflicts_with_all = ["rates", "service", "workers"])]
    pub cycles: bool,
    /// Print again every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub watch: Option<u64>,
    /// Start at zero again instead
    #[arg(long, conflicts_with_all = ["watch", "rates", "workers", "cycles"])]
    pub zero: bool,
    /// Whole numbers instead of rounded ones
    #[arg(long, short)]
    pub exact: bool,
}

/// `polluxctl flows …`
#[derive(Args, Debug)]
pub struct FlowsArgs {
    /// Only flows of this client
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<IpAddr>,
    /// Only flows to this virtual address
    #[arg(long, value_name = "ADDRESS")]
    pub vip: Option<IpAddr>,
    /// Only flows of this service
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<ServiceKey>,
    /// Only flows to this real server of the service
    #[arg(long, value_name = "SERVER", requires = "service")]
    pub server: Option<ServerKey>,
    /// Only flows of this protocol
    #[arg(long, value_name = "NAME", value_parser = ["tcp", "udp", "sctp"])]
    pub protocol: Option<String>,
    /// Most rows to print
    #[arg(long, short = 'n', value_name = "ROWS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// All flows, however many
    #[arg(long, short, conflicts_with = "limit")]
    pub all: bool,
    /// Go on where the listing before ended
    #[arg(long)]
    pub cursor: Option<String>,
    /// End the flows instead of listing them: those of --service, of its --server, or --all
    #[arg(long, conflicts_with_all = ["client", "vip", "protocol", "limit", "cursor"])]
    pub end: bool,
}

/// `polluxctl config …`
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Prints the running configuration as a configuration file
    Show,
    /// Checks a configuration file without a daemon
    Check {
        /// The file
        file: PathBuf,
    },
}

/// `polluxctl timeouts …`
#[derive(Args, Debug)]
pub struct TimeoutsArgs {
    /// TCP flows that are established
    #[arg(long, value_name = "SECONDS")]
    pub tcp: Option<u32>,
    /// TCP flows after a FIN
    #[arg(long, value_name = "SECONDS")]
    pub tcp_fin: Option<u32>,
    /// UDP flows
    #[arg(long, value_name = "SECONDS")]
    pub udp: Option<u32>,
    /// Options of changes.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A parser that knows all names, so that help and completions list them.
fn named<T>(all: &'static [T], name: fn(T) -> &'static str) -> impl clap::builder::TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + std::str::FromStr<Err = crate::model::ParseError>,
{
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    let names: Vec<&'static str> = all.iter().map(|v| name(*v)).collect();
    PossibleValuesParser::new(names).try_map(|s| s.parse::<T>())
}

/// Forwarding modes, with the short forms that operators know.
fn modes() -> impl clap::builder::TypedValueParser<Value = ForwardingMode> {
    use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
    let values = ForwardingMode::ALL.iter().map(|m| {
        let value = PossibleValue::new(m.name());
        match m {
            ForwardingMode::DirectRouting => value.aliases(["dr", "gatewaying", "route"]),
            ForwardingMode::Nat => value.aliases(["masq", "masquerading"]),
            ForwardingMode::Tunnel => value.aliases(["ipip", "tun"]),
            ForwardingMode::FullNat => value.aliases(["fullnat"]),
        }
    });
    PossibleValuesParser::new(values).try_map(|s| s.parse::<ForwardingMode>())
}
