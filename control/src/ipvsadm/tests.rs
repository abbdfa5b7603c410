use super::*;
use crate::model::{Limits, Services};

/// Plays lines one after another and notes what ipvsadm would say.
struct World {
    services: Services,
    marks: Marks,
}

impl World {
    fn new(lines: &[&str]) -> Self {
        let mut w = Self { services: Services::default(), marks: Marks::default() };
        for l in lines {
            assert_eq!(w.run(l), (0, String::new()), "{l}");
        }
        w
    }
    fn run(&mut self, line: &str) -> (i32, String) {
        match parse(&split(line), &self.marks) {
            Err(f) => (f.code, f.message),
            Ok(Command::Change(o)) => told(ask(&mut self.services, Ok(&o))),
            Ok(Command::Unknown(u)) => told(ask(&mut self.services, Err(u))),
            Ok(_) => (0, String::new()),
        }
    }
}

fn told(outcome: Result<(), Failure>) -> (i32, String) {
    outcome.err().map_or((0, String::new()), |f| (f.code, f.message))
}

fn ask(s: &mut Services, what: Result<&Operation, Unknown>) -> Result<(), Failure> {
    match what {
        Ok(o) => apply(s, o).map_err(|e| explain(o, &e)),
        Err(u) => Err(u.answer(s.contains(&u.service))),
    }
}

fn apply(s: &mut Services, o: &Operation) -> Result<(), crate::model::Error> {
    let l = Limits::default();
    match o {
        Operation::AddService { service } => s.add(service, &l),
        Operation::SetService { address, set } => s.set(address, set, &l),
        Operation::DeleteService { address } => s.delete(address),
        Operation::AddServer { service, server } => s.add_server(service, server, &l),
        Operation::SetServer { service, address, set } => s.set_server(service, address, set),
        Operation::DeleteServer { service, address } => s.delete_server(service, address),
        Operation::Flush => {
            s.flush();
            Ok(())
        }
        Operation::Zero { service: Some(k) } => s.get(k).map(|_| ()),
        _ => Ok(()),
    }
}

#[test]
fn mistakes_are_answered_as_recorded() {
    let mut w = World::new(&["-A -t 10.9.0.1:80 -s rr", "-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m"]);
    let recorded: &[(&str, i32, &str)] = &[
        ("-A -t 10.9.0.1:80 -s rr", 255, "Service already exists"),
        ("-A -t 10.9.0.2:80 -s nosuch", 255, "Scheduler or persistence engine not found"),
        ("-A -t 10.9.0.300:80 -s rr", 2, "illegal virtual server address[:port] specified"),
        ("-A -t 10.9.0.2:99999 -s rr", 2, "illegal virtual server address[:port] specified"),
        ("-A -t 10.9.0.2 -s rr", 2, "Zero port specified for non-persistent service"),
        ("-A -t 10.9.0.2:0 -s rr", 2, "Zero port specified for non-persistent service"),
        ("-A -t :80 -s rr", 2, "illegal virtual server address[:port] specified"),
        ("-A -t host.invalid:80 -s rr", 2, "illegal virtual server address[:port] specified"),
        ("-A -t 10.9.0.2:nosuch -s rr", 2, "illegal virtual server address[:port] specified"),
        ("-A -s rr", 2, "You need to supply the 'service-address' option for the 'add-service' command"),
        ("-A", 2, "You need to supply the 'service-address' option for the 'add-service' command"),
        ("-E -t 10.9.0.9:80 -s rr", 255, "No such service"),
        ("-D -t 10.9.0.9:80", 255, "No such service"),
        ("-D", 2, "You need to supply the 'service-address' option for the 'delete-service' command"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m", 255, "Destination already exists"),
        ("-a -t 10.9.0.9:80 -r 10.2.0.11:80 -m", 255, "Service not defined"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.300:80 -m", 2, "illegal real server address[:port] specified"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.12:80 -m -w -1", 2, "illegal weight specified"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.12:80 -m -w x", 2, "illegal weight specified"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.14:80 -m -w 2147483648", 2, "illegal weight specified"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.15:80 -m -g", 2, "multiple 'forwarding-method' options specified"),
        ("-a -t 10.9.0.1:80", 2, "You need to supply the 'real-server' option for the 'add-server' command"),
        ("-a -r 10.2.0.12:80", 2, "You need to supply the 'service-address' option for the 'add-server' command"),
        ("-e -t 10.9.0.1:80 -r 10.2.0.99:80 -m", 255, "No such destination"),
        ("-d -t 10.9.0.1:80 -r 10.2.0.99:80", 255, "No such destination"),
        ("-d -t 10.9.0.1:80", 2, "You need to supply the 'real-server' option for the 'delete-server' command"),
        ("-d -t 10.9.0.9:80 -r 10.2.0.11:80", 255, "Service not defined"),
        ("-A -f 0 -s rr", 2, "invalid fwmark value `0' specified"),
        ("-A -f x -s rr", 2, "invalid fwmark value `x' specified"),
        ("-A -f -1 -s rr", 2, "invalid fwmark value `-1' specified"),
        ("-A -f 4294967296 -s rr", 2, "invalid fwmark value `4294967296' specified"),
        ("-a -f 5 -r 10.2.0.1", 255, "Service not defined"),
        ("-A -t 10.9.0.2:53 -s rr -o", 2, "One-Packet Scheduling is only for UDP virtual services"),
        ("-A -t 10.9.0.1:80 -s rr -p 0", 2, "invalid timeout value `0' specified"),
        ("-A -t 10.9.0.4:80 -p x", 2, "invalid timeout value `x' specified"),
        ("-A -t 10.9.0.4:80 -p 99999999", 2, "invalid timeout value `99999999' specified"),
        ("-A -t [::1]:80 -p 5 -M 129", 2, "illegal ipv6 netmask specified"),
        ("-A -t [2001:db8::g]:80", 2, "illegal virtual server address[:port] specified"),
        ("-A -t 2001:db8::1:80", 2, "Zero port specified for non-persistent service"),
        ("-Z -t 10.9.0.9:80", 255, "No such service"),
        ("-Q", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
        ("--nosuch", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
        ("-A -t", 255, "-t: missing argument"),
        ("-A -D -t 10.9.0.1:80", 2, "invalid option `-D'"),
        ("-C x", 2, "unexpected argument x"),
        ("-S x", 2, "unexpected argument x"),
        ("-L x", 2, "unexpected argument x"),
        ("-A -t 10.9.0.1:80 -r 10.2.0.1:80", 2, "Illegal 'real-server' option with the 'add-service' command"),
        ("-A -t 10.9.0.1:80 -w 3", 2, "Illegal 'weight' option with the 'add-service' command"),
        ("-C -n", 2, "Illegal 'numeric' option with the 'flush' command"),
        ("-C -t 10.9.0.1:80", 2, "Illegal 'service-address' option with the 'flush' command"),
        ("-Z -n", 2, "Illegal 'numeric' option with the 'zero' command"),
        ("-L -w 3", 2, "Illegal 'weight' option with the 'list' command"),
        ("-L -s rr", 2, "Illegal 'scheduler' option with the 'list' command"),
        ("-L -c --stats", 2, "options conflicts in the list command"),
        ("-L --rate -c -n", 2, "options conflicts in the list command"),
        ("-L --timeout --daemon", 2, "The option 'daemon' conflicts with the 'timeout' option in the 'list' command"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.16:80 -m -x 5 -y 10", 255, "Numerical result out of range"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.16:80 -m -x -1", 2, "illegal u_threshold specified"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.17:80 -m --tun-type gre", 2, "Tunnel options conflict with forward method"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.17:80 -i --tun-type nosuch", 2, "illegal tunnel type specified"),
        (
            "-a -t 10.9.0.1:80 -r 10.2.0.17:80 -i --tun-type gue",
            2,
            "You need to supply the 'tun-port' option for the 'gue' tunnel type",
        ),
        ("-a -t 10.9.0.1:80 -r 10.2.0.17:80 -i --tun-type gue --tun-port 0", 2, "illegal tunnel port specified"),
        (
            "-a -t 10.9.0.1:80 -r 10.2.0.18:80 -i --tun-type ipip --tun-port 5",
            2,
            "Illegal 'tun-port' option with the 'ipip' tunnel type",
        ),
        (
            "-a -t 10.9.0.1:80 -r [2001:db8:2::11]:80 -m",
            2,
            "Different address family is allowed only for tunneling servers",
        ),
        ("-A -t 10.9.0.5:80 -s rr -b sh-port", 2, "incompatible scheduler flag `sh-port'"),
        ("-A -t 10.9.0.6:80 -s sh -b nosuch", 2, "invalid scheduler flag `nosuch'"),
        ("-A -t 10.9.0.8:80 --pe nosuch", 255, "Scheduler or persistence engine not found"),
        ("-L -n extra", 2, "unexpected argument extra"),
        ("-ln -t", 255, "-t: missing argument"),
        ("-S -n -t 10.9.0.1:80", 2, "Illegal 'service-address' option with the 'save' command"),
        (
            "-lnc -t 10.9.0.1:80",
            2,
            "The option 'service-address' conflicts with the 'connection' option in the 'list' command",
        ),
        ("-D -t 10.9.0.1:80 -s rr", 2, "Illegal 'scheduler' option with the 'delete-service' command"),
        ("-d -t 10.9.0.1:80 -r 10.2.0.11:80 -w 3", 2, "Illegal 'weight' option with the 'delete-server' command"),
        ("--start-daemon nosuch", 2, "illegal start-daemon parameter specified"),
        ("--start-daemon master --mcast-interface srv --syncid 300", 2, "illegal syncid specified"),
        ("--start-daemon master", 255, "No such device"),
        ("--stop-daemon master", 255, "No daemon is running"),
        ("--stop-daemon", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
        ("--set 5", 2, "--set option requires 3 timeout values"),
        ("--set 1 2 3 4", 2, "unexpected argument 4"),
        ("--set -1 2 3", 255, "-1: unknown option"),
        ("--set x 2 3", 2, "invalid timeout value `x' specified"),
        ("--set 99999999 2 3", 2, "invalid timeout value `99999999' specified"),
        ("--set 0 0 77", 0, ""),
        ("-A -t 10.9.0.2:0 -s rr -p 10", 0, ""),
        ("-A -t 10.9.0.2:http", 0, ""),
        ("-A -u 10.9.0.2:53 -s rr -o", 0, ""),
        ("-A -t 10.9.0.4:80 -M 255.255.255.0", 0, ""),
        ("-A -t 10.9.0.7:80 -s sh -b flag-1,flag-3", 0, ""),
        ("-a -t 10.9.0.1:80 -r 10.2.0.12:80 -m -w 65536", 0, ""),
        ("-L -t 10.9.0.1:80 -n", 0, ""),
    ];
    for (line, code, message) in recorded {
        assert_eq!(w.run(line), (*code, (*message).to_owned()), "{line}");
    }
}

#[test]
fn lines_become_services_and_servers() {
    let w = World::new(&[
        "-A -t 10.9.0.1:80",
        "-a -t 10.9.0.1:80 -r 10.2.0.11:8080 -g",
        "-a -t 10.9.0.1:80 -r 10.2.0.12:8080 -m -w 5 -x 10 -y 3",
        "-a -t 10.9.0.1:80 -r 10.2.0.13 -i --tun-type gue --tun-port 6080 --tun-csum",
        "-A -u [2001:db8:9::1]:53 -s sh -b sh-fallback,sh-port -p -M 64",
        "-E -t 10.9.0.1:80 -s rr -p 60 -M 255.255.0.0",
        "-e -t 10.9.0.1:80 -r 10.2.0.12:8080 -m",
    ]);
    let text = |k: &str| serde_json::to_string(&**w.services.get(&k.parse().unwrap()).unwrap()).unwrap();
    assert_eq!(
        text("tcp:10.9.0.1:80"),
        "{\"address\":\"tcp:10.9.0.1:80\",\"scheduler\":\"rr\",\
         \"persistence\":{\"timeout_s\":60,\"prefix_len\":16},\"servers\":[\
         {\"address\":\"10.2.0.11:80\",\"mode\":\"direct-routing\",\"weight\":1},\
         {\"address\":\"10.2.0.12:8080\",\"mode\":\"nat\",\"weight\":1},\
         {\"address\":\"10.2.0.13:80\",\"mode\":\"tunnel\",\
         \"tunnel\":{\"type\":\"gue\",\"port\":6080,\"checksum\":\"udp\"},\"weight\":1}]}"
    );
    assert_eq!(
        text("udp:[2001:db8:9::1]:53"),
        "{\"address\":\"udp:[2001:db8:9::1]:53\",\"scheduler\":\"sh\",\"sched_flags\":[\"fallback\",\"port\"],\
         \"persistence\":{\"timeout_s\":360,\"prefix_len\":64},\"servers\":[]}"
    );
}

#[test]
fn marks_take_their_rules_from_iptables() {
    let mut w = World::new(&[]);
    let line = "iptables-legacy -t mangle -A PREROUTING -d 10.9.0.1 -p tcp --dport 80 -j MARK --set-mark 1";
    assert!(w.marks.iptables(line));
    assert!(w.marks.iptables(&line.replace("--dport 80", "--dport 440:443")));
    assert!(!w.marks.iptables("ip route add local 10.9.0.0/24 dev lo"));
    assert_eq!(w.run("-A -f 1 -s rr -p 60").0, 0);
    assert_eq!(w.run("-A -f 1 -6").0, 0);
    let rules = |k: &str| {
        let s = w.services.get(&k.parse().unwrap()).unwrap();
        s.rules.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(rules("fwm:1"), ["tcp:10.9.0.1:80", "tcp:10.9.0.1:440-443"]);
    assert!(rules("fwm6:1").is_empty());
}

#[test]
fn restoring_goes_on_after_refusals_and_stops_at_what_it_cannot_read() {
    let mut s = Services::default();
    let text = "# saved\nipvsadm -A -t 10.9.0.1:80 -s rr\n\n-a -t 10.9.0.9:80 -r 10.2.0.1 -m\n-A -t 10.9.0.2:80\n\
                -A -t nonsense\n-A -t 10.9.0.3:80\n";
    let (said, code) = restore(text, &Marks::default(), |what| ask(&mut s, what));
    assert_eq!(said, ["Service not defined", "illegal virtual server address[:port] specified"]);
    assert_eq!((code, s.len()), (2, 2));
}

mod any {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_line_is_too_strange(words in prop::collection::vec("[-a-zA-Z0-9:.\\[\\]/,=é]{0,12}", 0..8)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let _ = parse(&words, &Marks::default());
        }
        #[test]
        fn no_mix_of_options_is_too_strange(
            words in prop::collection::vec(prop::sample::select(vec![
                "-A", "-E", "-a", "-e", "-t", "-f", "-r", "-p", "-w", "-i", "-m", "-Ln", "-6", "--set", "--tun-type",
                "gue", "--tun-port=7", "10.9.0.1:80", "[2001:db8::1]:80", "7", "-s", "rr", "-b", "sh-port", "-M", "24",
            ]), 0..10),
        ) {
            let _ = parse(&words, &Marks::default());
        }
    }
}
