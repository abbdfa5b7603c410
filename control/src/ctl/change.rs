//! Commands that change something.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use super::args::{ChangeArgs, FlowsArgs, ServerOptions, ServiceOptions, TimeoutsArgs, TunnelKind, WhichServer};
use super::{Context, Done, Failure};
use crate::api::{Problem, Timeouts, TimeoutsPatch};
use crate::client::escape;
use crate::engine::Accepted;
use crate::model::{
    ForwardingMode, GueChecksum, NewServer, NewService, Persistence, ServerPatch, ServiceKey, ServicePatch, Tunnel,
};

/// Properties of a service to take away.
pub struct Clear {
    /// Persistence.
    pub no_persistence: bool,
    /// One-packet scheduling.
    pub no_one_packet: bool,
    /// Following FTP.
    pub no_ftp: bool,
    /// The scheduler's flags.
    pub no_flags: bool,
}

/// Largest file that `batch` sends, bytes: what the daemon takes at most.
const MAX_BATCH: u64 = 16 << 20;

fn service_path(service: ServiceKey) -> String {
    format!("/v1/services/{}", escape(&service.to_string()))
}

fn server_path(which: &WhichServer) -> String {
    format!("{}/servers/{}", service_path(which.service), escape(&which.server.to_string()))
}

fn persistence(o: &ServiceOptions) -> Option<Persistence> {
    o.persistence.map(|timeout_s| Persistence { timeout_s, prefix_len: o.persistence_prefix })
}

fn or_none<T, C: FromIterator<T>>(list: &[T]) -> Option<C>
where
    T: Clone,
{
    (!list.is_empty()).then(|| list.iter().cloned().collect())
}

/// The wrapping that options name. What does not go with it is refused here, since the
/// API has no place for it.
fn tunnel(o: &ServerOptions) -> Result<Option<Tunnel>, Failure> {
    let Some(kind) = o.tunnel else { return Ok(None) };
    let wrong = |option: &str| Failure::Usage {
        message: format!("{option} does not go with this kind of tunnel"),
        remedy: "see polluxctl server add --help".into(),
    };
    let missing = |what: &str| Failure::Usage {
        message: format!("this kind of tunnel needs {what}"),
        remedy: format!("give {what}"),
    };
    let not_port = o.tunnel_port.map(|_| wrong("--tunnel-port"));
    let not_vni = o.vni.map(|_| wrong("--vni"));
    let not_checksum = o.tunnel_checksum.map(|_| wrong("--tunnel-checksum"));
    let refused = match kind {
        TunnelKind::Ipip => not_port.or(not_vni).or(not_checksum),
        TunnelKind::Gre => {
            not_port.or(not_vni).or((o.tunnel_checksum == Some(GueChecksum::Remote)).then(|| wrong("remote")))
        }
        TunnelKind::Gue => not_vni,
        TunnelKind::Vxlan => not_checksum,
    };
    if let Some(e) = refused {
        return Err(e);
    }
    Ok(Some(match kind {
        TunnelKind::Ipip => Tunnel::Ipip,
        TunnelKind::Gre => Tunnel::Gre { checksum: o.tunnel_checksum == Some(GueChecksum::Udp) },
        TunnelKind::Gue => Tunnel::Gue {
            port: o.tunnel_port.ok_or_else(|| missing("--tunnel-port PORT"))?,
            checksum: o.tunnel_checksum.unwrap_or_default(),
        },
        TunnelKind::Vxlan => {
            Tunnel::Vxlan { port: o.tunnel_port.unwrap_or(4789), vni: o.vni.ok_or_else(|| missing("--vni N"))? }
        }
    }))
}

/// Naming a tunnel's wrapping means mode tunnel.
fn mode(o: &ServerOptions) -> Option<ForwardingMode> {
    o.mode.or(o.tunnel.map(|_| ForwardingMode::Tunnel))
}

impl Context<'_> {
    pub(super) fn add_service(&mut self, key: ServiceKey, o: &ServiceOptions, change: &ChangeArgs) -> Done {
        let service = NewService {
            scheduler: o.scheduler.unwrap_or_default(),
            sched_flags: o.flag.iter().copied().collect(),
            persistence: persistence(o),
            one_packet: o.one_packet,
            client_address: o.client_address.unwrap_or_default(),
            ftp: o.ftp,
            rules: o.rule.clone(),
            ..NewService::new(key)
        };
        self.send("POST", "/v1/services", Some(&service), change, &format!("service {key} added"))
    }

    pub(super) fn set_service(&mut self, key: ServiceKey, o: &ServiceOptions, c: Clear, change: &ChangeArgs) -> Done {
        let persistence = if c.no_persistence { Some(None) } else { persistence(o).map(Some) };
        let flags: Option<BTreeSet<_>> = if c.no_flags { Some(BTreeSet::new()) } else { or_none(&o.flag) };
        let one_packet = if c.no_one_packet { Some(false) } else { o.one_packet.then_some(true) };
        let set = ServicePatch {
            scheduler: o.scheduler,
            sched_flags: flags,
            persistence,
            one_packet,
            client_address: o.client_address,
            ftp: if c.no_ftp { Some(false) } else { o.ftp.then_some(true) },
            rules: or_none(&o.rule),
        };
        if set == ServicePatch::default() {
            return Err(nothing_to_change("service set"));
        }
        self.send("PATCH", &service_path(key), Some(&set), change, &format!("service {key} changed"))
    }

    pub(super) fn delete_service(&mut self, key: ServiceKey, change: &ChangeArgs) -> Done {
        self.send("DELETE", &service_path(key), None::<&()>, change, &format!("service {key} removed"))
    }

    pub(super) fn add_server(&mut self, which: &WhichServer, o: &ServerOptions, change: &ChangeArgs) -> Done {
        let server = NewServer {
            mode: mode(o).unwrap_or_default(),
            tunnel: tunnel(o)?.unwrap_or_default(),
            weight: o.weight.unwrap_or(1),
            upper_threshold: o.upper.unwrap_or(0),
            lower_threshold: o.lower.unwrap_or(0),
            ..NewServer::new(which.server)
        };
        let path = format!("{}/servers", service_path(which.service));
        self.send("POST", &path, Some(&server), change, &said(which, "added"))
    }

    pub(super) fn set_server(&mut self, which: &WhichServer, o: &ServerOptions, change: &ChangeArgs) -> Done {
        let set = ServerPatch {
            mode: mode(o),
            tunnel: tunnel(o)?,
            weight: o.weight,
            upper_threshold: o.upper,
            lower_threshold: o.lower,
        };
        if set == ServerPatch::default() {
            return Err(nothing_to_change("server set"));
        }
        self.send("PATCH", &server_path(which), Some(&set), change, &said(which, "changed"))
    }

    pub(super) fn drain_server(&mut self, which: &WhichServer, change: &ChangeArgs) -> Done {
        let set = ServerPatch { weight: Some(0), ..ServerPatch::default() };
        self.send("PATCH", &server_path(which), Some(&set), change, &said(which, "drains"))
    }

    pub(super) fn delete_server(&mut self, which: &WhichServer, change: &ChangeArgs) -> Done {
        self.send("DELETE", &server_path(which), None::<&()>, change, &said(which, "removed"))
    }

    pub(super) fn zero(&mut self, service: Option<ServiceKey>) -> Done {
        let path = match service {
            Some(key) => format!("/v1/stats/zero?service={}", escape(&key.to_string())),
            None => "/v1/stats/zero".into(),
        };
        self.send("POST", &path, None::<&()>, &ChangeArgs::default(), "statistics start at zero")
    }

    pub(super) fn end_flows(&mut self, a: &FlowsArgs) -> Done {
        let (path, said) = match (a.service, a.server) {
            (Some(_), _) if a.all => {
                return Err(Failure::Usage {
                    message: "--all and --service are given at once".into(),
                    remedy: "give one of the two".into(),
                });
            }
            (Some(service), Some(server)) => {
                let (s, r) = (escape(&service.to_string()), escape(&server.to_string()));
                (format!("/v1/flows?service={s}&server={r}"), format!("flows of {service} to {server} end"))
            }
            (Some(service), None) => {
                (format!("/v1/flows?service={}", escape(&service.to_string())), format!("flows of {service} end"))
            }
            (None, _) if a.all => ("/v1/flows?all=true".into(), "all flows end".into()),
            (None, _) => {
                return Err(Failure::Usage {
                    message: "it is not said which flows to end".into(),
                    remedy: "give --service SERVICE, also with --server SERVER, or --all".into(),
                });
            }
        };
        self.send("DELETE", &path, None::<&()>, &ChangeArgs::default(), &said)
    }

    pub(super) fn reload(&mut self) -> Done {
        let said = "configuration file read again";
        self.send("POST", "/v1/reload", None::<&()>, &ChangeArgs::default(), said)
    }

    pub(super) fn batch(&mut self, file: &Path, change: &ChangeArgs) -> Done {
        let mut text = Vec::new();
        let read = if file.as_os_str() == "-" {
            std::io::stdin().take(MAX_BATCH + 1).read_to_end(&mut text)
        } else {
            std::fs::File::open(file).and_then(|f| f.take(MAX_BATCH + 1).read_to_end(&mut text))
        };
        read.map_err(|e| Failure::Here {
            message: format!("cannot read `{}`: {e}", file.display()),
            remedy: "name a JSON file, or - for standard input".into(),
        })?;
        self.send_bytes("POST", "/v1/batch", Some(text), change, "all changes made")
    }

    pub(super) fn timeouts(&mut self, a: &TimeoutsArgs) -> Done {
        if a.tcp.or(a.tcp_fin).or(a.udp).is_none() {
            return self.print("/v1/timeouts", |t: &Timeouts| {
                format!("tcp      {} s\ntcp-fin  {} s\nudp      {} s\n", t.tcp_s, t.tcp_fin_s, t.udp_s)
            });
        }
        let [tcp_s, tcp_fin_s, udp_s] = [a.tcp, a.tcp_fin, a.udp].map(Option::unwrap_or_default);
        let set = TimeoutsPatch { tcp_s, tcp_fin_s, udp_s };
        self.send("PATCH", "/v1/timeouts", Some(&set), &a.change, "time-outs changed")
    }

    fn send<T: Serialize>(&mut self, method: &str, path: &str, body: Option<&T>, c: &ChangeArgs, said: &str) -> Done {
        let body = body.map(serde_json::to_vec).transpose().map_err(|e| Failure::Here {
            message: format!("cannot write the request as JSON: {e}"),
            remedy: "report this as a mistake of polluxctl".into(),
        })?;
        self.send_bytes(method, path, body, c, said)
    }

    fn send_bytes(&mut self, method: &str, path: &str, body: Option<Vec<u8>>, c: &ChangeArgs, said: &str) -> Done {
        let path = if c.wait { format!("{path}?wait=true") } else { path.into() };
        let answer = self.client.request(method, &path, body)?;
        if self.json {
            return self.raw(&answer.body);
        }
        let accepted: Accepted = answer.json()?;
        writeln!(self.out, "{said} (generation {})", accepted.generation)?;
        for note in &accepted.notes {
            writeln!(self.out, "note: {note}")?;
        }
        Ok(())
    }
}

fn said(which: &WhichServer, what: &str) -> String {
    let WhichServer { service, mut server } = *which;
    if server.port == 0 {
        server.port = service.port();
    }
    format!("real server {server} of {service} {what}")
}

fn nothing_to_change(command: &str) -> Failure {
    Failure::Usage {
        message: "nothing to change was given".into(),
        remedy: format!("polluxctl {command} --help lists what can be changed"),
    }
}

/// The command that helps where the API's own remedy speaks of requests.
pub(super) fn next_command(problem: &Problem) -> Option<String> {
    let object = problem.object.as_deref().unwrap_or_default();
    let service = object.split(' ').next().unwrap_or_default();
    match problem.code.as_str() {
        "no_such_service" => Some("polluxctl service list".into()),
        "service_exists" => Some(format!("polluxctl service set {service} …, or polluxctl service show {service}")),
        "no_such_server" => Some(format!("polluxctl server list {service}")),
        "server_exists" => Some(format!("polluxctl server set {object} …")),
        _ => None,
    }
}
