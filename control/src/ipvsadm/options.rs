//! Words into options: what may stand where, and what is said when it does not.

use super::Failure;
use super::command::{sched_flags, value};

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    AddService,
    EditService,
    DeleteService,
    Flush,
    List,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
    Help,
    Version,
}

impl Verb {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::AddService => "add-service",
            Self::EditService => "edit-service",
            Self::DeleteService => "delete-service",
            Self::Flush => "flush",
            Self::List => "list",
            Self::AddServer => "add-server",
            Self::EditServer => "edit-server",
            Self::DeleteServer => "delete-server",
            Self::Set => "set",
            Self::StartDaemon => "start-daemon",
            Self::StopDaemon => "stop-daemon",
            Self::Restore => "restore",
            Self::Save => "save",
            Self::Zero => "zero",
            Self::Help => "help",
            Self::Version => "version",
        }
    }

    fn find(word: &str) -> Option<Self> {
        Some(match word {
            "-A" | "--add-service" => Self::AddService,
            "-E" | "--edit-service" => Self::EditService,
            "-D" | "--delete-service" => Self::DeleteService,
            "-C" | "--clear" => Self::Flush,
            "-L" | "-l" | "--list" => Self::List,
            "-a" | "--add-server" => Self::AddServer,
            "-e" | "--edit-server" => Self::EditServer,
            "-d" | "--delete-server" => Self::DeleteServer,
            "--set" => Self::Set,
            "--start-daemon" => Self::StartDaemon,
            "--stop-daemon" => Self::StopDaemon,
            "-R" | "--restore" => Self::Restore,
            "-S" | "--save" => Self::Save,
            "-Z" | "--zero" => Self::Zero,
            "-h" | "--help" => Self::Help,
            "-v" | "--version" => Self::Version,
            _ => return None,
        })
    }
}

/// An option's name in messages.
pub type Name = &'static str;

/// Whether a value follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    Maybe,
}

/// Short form, long form, name in messages, whether a value follows.
const OPTIONS: &[(&str, &str, Name, Takes)] = &[
    ("-t", "--tcp-service", "service-address", Takes::Value),
    ("-u", "--udp-service", "service-address", Takes::Value),
    ("", "--sctp-service", "service-address", Takes::Value),
    ("-f", "--fwmark-service", "service-address", Takes::Value),
    ("-6", "--ipv6", "ipv6", Takes::Nothing),
    ("-s", "--scheduler", "scheduler", Takes::Value),
    ("-p", "--persistent", "persistent", Takes::Maybe),
    ("-M", "--netmask", "netmask", Takes::Value),
    ("-r", "--real-server", "real-server", Takes::Value),
    ("-g", "--gatewaying", "forwarding-method", Takes::Nothing),
    ("-i", "--ipip", "forwarding-method", Takes::Nothing),
    ("-m", "--masquerading", "forwarding-method", Takes::Nothing),
    ("", "--full-nat", "forwarding-method", Takes::Nothing),
    ("-w", "--weight", "weight", Takes::Value),
    ("-x", "--u-threshold", "u-threshold", Takes::Value),
    ("-y", "--l-threshold", "l-threshold", Takes::Value),
    ("-n", "--numeric", "numeric", Takes::Nothing),
    ("-c", "--connection", "connection", Takes::Nothing),
    ("", "--timeout", "timeout", Takes::Nothing),
    ("", "--daemon", "daemon", Takes::Nothing),
    ("", "--stats", "stats", Takes::Nothing),
    ("", "--rate", "rate", Takes::Nothing),
    ("", "--thresholds", "thresholds", Takes::Nothing),
    ("", "--persistent-conn", "persistent-conn", Takes::Nothing),
    ("", "--tun-info", "tun-info", Takes::Nothing),
    ("", "--nosort", "nosort", Takes::Nothing),
    ("", "--sort", "sort", Takes::Nothing),
    ("-X", "--exact", "exact", Takes::Nothing),
    ("-o", "--ops", "ops", Takes::Nothing),
    ("", "--pe", "pe", Takes::Value),
    ("-b", "--sched-flags", "sched-flags", Takes::Value),
    ("", "--tun-type", "tun-type", Takes::Value),
    ("", "--tun-port", "tun-port", Takes::Value),
    ("", "--tun-nocsum", "tun-nocsum", Takes::Nothing),
    ("", "--tun-csum", "tun-csum", Takes::Nothing),
    ("", "--tun-remcsum", "tun-remcsum", Takes::Nothing),
    ("", "--mcast-interface", "mcast-interface", Takes::Value),
    ("-I", "--syncid", "syncid", Takes::Value),
    ("", "--sync-maxlen", "sync-maxlen", Takes::Value),
    ("", "--mcast-group", "mcast-group", Takes::Value),
    ("", "--mcast-port", "mcast-port", Takes::Value),
    ("", "--mcast-ttl", "mcast-ttl", Takes::Value),
];

/// One option as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given<'a> {
    /// Its name in messages.
    pub name: Name,
    /// Its long form, which tells apart those that share a name.
    pub long: &'static str,
    /// Its value.
    pub value: Option<&'a str>,
}

/// A command line taken apart.
#[derive(Debug)]
pub struct Words<'a> {
    /// The command.
    pub verb: Verb,
    /// The options in order.
    pub options: Vec<Given<'a>>,
    /// What is neither.
    pub arguments: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// The option of this name.
    pub fn get(&self, name: Name) -> Option<Given<'a>> {
        self.options.iter().find(|o| o.name == name).copied()
    }
    /// Whether the option of this name was given.
    pub fn has(&self, name: Name) -> bool {
        self.get(name).is_some()
    }
}

fn required(verb: Verb) -> &'static [Name] {
    match verb {
        Verb::AddService | Verb::EditService | Verb::DeleteService => &["service-address"],
        Verb::AddServer | Verb::EditServer | Verb::DeleteServer => &["service-address", "real-server"],
        _ => &[],
    }
}

fn allowed(verb: Verb) -> &'static [Name] {
    match verb {
        Verb::AddService | Verb::EditService => &["scheduler", "persistent", "netmask", "ops", "pe", "sched-flags"],
        Verb::AddServer | Verb::EditServer => &[
            "forwarding-method",
            "weight",
            "u-threshold",
            "l-threshold",
            "tun-type",
            "tun-port",
            "tun-nocsum",
            "tun-csum",
            "tun-remcsum",
        ],
        Verb::List => &[
            "numeric",
            "connection",
            "service-address",
            "timeout",
            "daemon",
            "stats",
            "rate",
            "thresholds",
            "persistent-conn",
            "tun-info",
            "nosort",
            "sort",
            "exact",
        ],
        Verb::Zero => &["service-address"],
        Verb::Save => &["numeric"],
        Verb::StartDaemon => &["mcast-interface", "syncid", "sync-maxlen", "mcast-group", "mcast-port", "mcast-ttl"],
        Verb::StopDaemon => &["syncid"],
        _ => &[],
    }
}

/// Takes a line apart. Short options may be written together: `-Lnc`.
pub fn words<'a>(args: &[&'a str]) -> Result<Words<'a>, Failure> {
    let mut rest = args.iter().copied().peekable();
    let first = rest.next().ok_or_else(Failure::usage)?;
    let (verb, mut cluster) = if first.starts_with("--") {
        (Verb::find(first.split('=').next().unwrap_or(first)).ok_or_else(Failure::usage)?, None)
    } else {
        let head = first.get(..2).and_then(Verb::find).ok_or_else(Failure::usage)?;
        (head, Some(&first[2..]).filter(|t| !t.is_empty()))
    };
    let mut w = Words { verb, options: Vec::new(), arguments: Vec::new() };
    if let Some((_, value)) = first.split_once('=').filter(|_| first.starts_with("--")) {
        w.arguments.push(value);
    }
    loop {
        // One short option of a cluster, or the next word.
        let (form, attached) = match cluster.take() {
            Some(text) => {
                let end = text.chars().next().map_or(0, char::len_utf8);
                (format!("-{}", &text[..end]), Some(&text[end..]).filter(|t| !t.is_empty()))
            }
            None => {
                let Some(word) = rest.next() else { break };
                if word.starts_with("--") && word.len() > 2 {
                    let (form, value) = word.split_once('=').map_or((word, None), |(f, v)| (f, Some(v)));
                    long(form, value, &mut rest, &mut w)?;
                    continue;
                }
                if word.len() > 1 && word.starts_with('-') {
                    cluster = Some(&word[1..]);
                } else {
                    w.arguments.push(word);
                }
                continue;
            }
        };
        let Some((_, l, name, takes)) = OPTIONS.iter().find(|(s, ..)| *s == form) else {
            return Err(unknown(&form));
        };
        let value = match (*takes, attached) {
            (Takes::Nothing, more) => {
                cluster = more;
                None
            }
            (_, Some(text)) => Some(text.strip_prefix('=').unwrap_or(text)),
            (takes, None) => following(takes, &form, &mut rest)?,
        };
        give(&mut w, Given { name, long: l, value })?;
    }
    check(&w)?;
    Ok(w)
}

fn unknown(form: &str) -> Failure {
    match Verb::find(form) {
        Some(_) => Failure::wrong(format!("invalid option `{form}'")),
        None => Failure::refused(format!("{form}: unknown option")),
    }
}

type Rest<'r, 'a> = std::iter::Peekable<std::iter::Copied<std::slice::Iter<'r, &'a str>>>;

fn following<'a>(takes: Takes, form: &str, rest: &mut Rest<'_, 'a>) -> Result<Option<&'a str>, Failure> {
    match takes {
        Takes::Nothing => Ok(None),
        Takes::Maybe => Ok(rest.next_if(|w| !w.starts_with('-'))),
        Takes::Value => match rest.next() {
            Some(v) => Ok(Some(v)),
            None => Err(Failure::refused(format!("{form}: missing argument"))),
        },
    }
}

fn long<'a>(form: &'a str, value: Option<&'a str>, rest: &mut Rest<'_, 'a>, w: &mut Words<'a>) -> Result<(), Failure> {
    let Some((_, l, name, takes)) = OPTIONS.iter().find(|(_, l, ..)| *l == form) else {
        return Err(unknown(form));
    };
    let value = match (takes, value) {
        (Takes::Nothing, Some(_)) => {
            return Err(Failure::refused(format!("{form}: option does not take an argument")));
        }
        (_, Some(v)) => Some(v),
        (takes, None) => following(*takes, form, rest)?,
    };
    give(w, Given { name, long: l, value })
}

/// Takes an option in. A wrong value is complained of before anything that stands behind it.
fn give<'a>(w: &mut Words<'a>, option: Given<'a>) -> Result<(), Failure> {
    if matches!(option.name, "ipv6" | "sort") && w.has(option.name) {
        return Ok(());
    }
    if w.has(option.name) {
        return Err(Failure::wrong(format!("multiple '{}' options specified", option.name)));
    }
    w.options.push(option);
    value(w, &option)
}

fn check(w: &Words) -> Result<(), Failure> {
    let verb = w.verb;
    let takes_arguments = matches!(verb, Verb::Set | Verb::StartDaemon | Verb::StopDaemon);
    if let Some(a) = w.arguments.first().filter(|_| !takes_arguments) {
        return Err(Failure::wrong(format!("unexpected argument {a}")));
    }
    sched_flags(w)?;
    for name in ORDER {
        let given = w.has(name);
        if !given && required(verb).contains(&name) {
            let m = format!("You need to supply the '{name}' option for the '{}' command", verb.name());
            return Err(Failure::wrong(m));
        }
        if given && !required(verb).contains(&name) && !allowed(verb).contains(&name) {
            return Err(Failure::wrong(format!("Illegal '{name}' option with the '{}' command", verb.name())));
        }
    }
    Ok(())
}

/// The order in which options are looked at once all have been read. `ipv6` and `sort` go with
/// any command.
const ORDER: [Name; 34] = [
    "numeric",
    "connection",
    "service-address",
    "scheduler",
    "persistent",
    "netmask",
    "real-server",
    "forwarding-method",
    "weight",
    "u-threshold",
    "l-threshold",
    "mcast-interface",
    "timeout",
    "daemon",
    "stats",
    "rate",
    "thresholds",
    "persistent-conn",
    "nosort",
    "syncid",
    "exact",
    "ops",
    "pe",
    "sched-flags",
    "mcast-group",
    "mcast-port",
    "mcast-ttl",
    "sync-maxlen",
    "tun-info",
    "tun-type",
    "tun-port",
    "tun-nocsum",
    "tun-csum",
    "tun-remcsum",
];
