//! Templates, one-packet scheduling, marks.

use pollux_tests::oracle::lab::Lab;
use serde_json::json;

fn three(service: &str, mode: &str, options: &str) -> Vec<String> {
    let mut rules = vec![format!("-A {service} -s rr {options}")];
    let bare = service.split_whitespace().nth(1).unwrap();
    let port = bare.rsplit_once(':').map_or("0", |(_, p)| p);
    let six = bare.starts_with('[') || service.contains("-6");
    for n in 11..14 {
        let ip = if six { format!("[2001:db8:2::{n}]") } else { format!("10.2.0.{n}") };
        rules.push(format!("-a {service} -r {ip}:{port} {mode}"));
    }
    rules
}

fn lab(rules: &[String]) -> Lab {
    Lab::new(&rules.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn clients_of_one_network_share_a_template() {
    let mut v4 = lab(&three("-t 10.9.0.1:80", "-g", "-p 60 -M 255.255.255.0"));
    assert_eq!(v4.flows("10.1.0.1", 1, 2, "10.9.0.1:80"), "13 13");
    assert_eq!(v4.flows("10.1.0.200", 1, 2, "10.9.0.1:80"), "13 13");
    assert_eq!(v4.flows("10.1.1.1", 1, 2, "10.9.0.1:80"), "12 12");
    assert!(v4.connections().contains(&"TCP ASSURED 10.1.0.0:0 10.9.0.1:80 10.2.0.13:80".to_owned()));
    let mut v6 = lab(&three("-t [2001:db8:9::1]:80", "-m", "-p -M 48"));
    assert_eq!(v6.flows("2001:db8:1:7::1", 1, 2, "2001:db8:9::1.80"), "13 13");
    assert_eq!(v6.flows("2001:db8:1:8::2", 1, 1, "2001:db8:9::1.80"), "13");
    assert_eq!(v6.flows("2001:db8:2::2", 1, 1, "2001:db8:9::1.80"), "12");
    assert!(v6.line("-Ln", "TCP [2001").ends_with("rr persistent 360 mask 48"));
}

#[test]
fn a_template_is_assured_by_an_established_flow_or_a_reply() {
    let mut rules = three("-u 10.9.0.1:53", "-m", "-p 30");
    rules.extend(three("-t 10.9.0.1:80", "-g", "-p 30"));
    let mut lab = lab(&rules);
    lab.send("c udp 10.1.0.1:4000 > 10.9.0.1:53 len=1");
    lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S");
    assert!(lab.connections().iter().filter(|c| c.contains(" NONE 10.1.0.1:0 ")).count() == 2);
    lab.send("s udp 10.2.0.13:53 > 10.1.0.1:4000 len=1");
    lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A");
    assert!(lab.connections().iter().filter(|c| c.contains(" ASSURED 10.1.0.1:0 ")).count() == 2);
    assert!(lab.line("-Ln --persistent-conn", "-> 10.2.0.13:53").ends_with("1 1 0 1"));
}

#[test]
fn a_template_keeps_its_time_out_and_lives_on_for_its_flows_by_the_minute() {
    let mut lab = lab(&three("-t 10.9.0.1:80", "-g", "-p 100"));
    lab.flows("10.1.0.1", 1, 1, "10.9.0.1:80");
    lab.ipvsadm("-E -t 10.9.0.1:80 -s rr -p 30");
    lab.flows("10.1.0.1", 2, 1, "10.9.0.1:80");
    assert!((98..=100).contains(&lab.seconds_left("10.1.0.1:0 ")));
    lab.sleep(103);
    assert!((57..=60).contains(&lab.seconds_left("10.1.0.1:0 ")));
    lab.sleep(30);
    lab.flows("10.1.0.1", 3, 1, "10.9.0.1:80");
    assert!((58..=60).contains(&lab.seconds_left("10.1.0.1:0 ")), "the minute is its time-out from now on");
}

#[test]
fn weight_0_keeps_its_clients_unless_the_setting_says_otherwise() {
    let mut lab = lab(&three("-t 10.9.0.1:80", "-m", "-p 60"));
    lab.flows("10.1.0.1", 1, 1, "10.9.0.1:80");
    lab.ipvsadm("-e -t 10.9.0.1:80 -r 10.2.0.13:80 -m -w 0");
    assert_eq!(lab.flows("10.1.0.1", 2, 1, "10.9.0.1:80"), "13");
    lab.sysctl("expire_quiescent_template", 1);
    assert_eq!(lab.flows("10.1.0.1", 3, 2, "10.9.0.1:80"), "12 12");
    // The old template stays for its flows, where nobody finds it.
    assert!(lab.connections().contains(&"TCP ASSURED 10.1.0.1:0 10.9.0.1:65535 10.2.0.13:65535".to_owned()));
    assert!(lab.line("-Ln --persistent-conn", "-> 10.2.0.13:80").ends_with("0 1 2 0"));
    // Live connections go on.
    lab.expect(&[("c tcp 10.1.0.1:1 > 10.9.0.1:80 A", "nat 10.2.0.13:80")]);
}

#[test]
fn any_port_is_one_group_and_a_port_of_its_own_service_is_not() {
    let mut rules = three("-t 10.9.0.1:0", "-m", "-p 60");
    rules.extend(["-A -t 10.9.0.1:443 -s rr".to_owned(), "-a -t 10.9.0.1:443 -r 10.2.0.11:8443 -m".to_owned()]);
    let mut lab = lab(&rules);
    lab.expect(&[
        ("c tcp 10.1.0.1:1 > 10.9.0.1:80 S", "nat 10.2.0.13:80"),
        ("c tcp 10.1.0.1:2 > 10.9.0.1:8080 S", "nat 10.2.0.13:8080"),
        ("c tcp 10.1.0.1:3 > 10.9.0.1:443 S", "nat 10.2.0.11:8443"),
        ("c udp 10.1.0.1:4 > 10.9.0.1:80 len=1", "icmp 3/3"),
    ]);
}

#[test]
fn one_packet_scheduling_leaves_nothing_behind_persistent_or_not() {
    let mut plain = lab(&three("-u 10.9.0.1:53", "-g", "-o"));
    let sent = "c udp 10.1.0.1:4000 > 10.9.0.1:53 len=4";
    plain.expect(&[(sent, "dr 10.2.0.13"), (sent, "dr 10.2.0.12"), (sent, "dr 10.2.0.11"), (sent, "dr 10.2.0.13")]);
    assert!(plain.connections().is_empty());
    assert_eq!(plain.line("-Ln --stats", "UDP"), "UDP 10.9.0.1:53 4 4 0 128 0");
    let mut persistent = lab(&three("-u 10.9.0.1:53", "-g", "-o -p 60"));
    persistent.expect(&[(sent, "dr 10.2.0.13"), (sent, "dr 10.2.0.13")]);
    assert_eq!(persistent.connections(), ["UDP NONE 10.1.0.1:0 10.9.0.1:53 10.2.0.13:53"]);
}

#[test]
fn a_mark_groups_addresses_and_ports_and_its_servers_keep_them() {
    let mark = |net: &str| format!("iptables-legacy -t mangle -A PREROUTING -d {net} -j MARK --set-mark 5");
    let world = json!({"setup": [mark("10.9.1.0/24"), mark("2001:db8:9:1::/64").replace("iptables", "ip6tables")]});
    let mut rules = three("-f 5", "-m", "-p 60");
    rules.extend(three("-f 5 -6", "-i", ""));
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let mut lab = Lab::with(world, &rules);
    lab.expect(&[
        ("c tcp 10.1.0.1:1 > 10.9.1.1:80 S", "nat 10.2.0.13:80"),
        ("c udp 10.1.0.1:1 > 10.9.1.9:53 len=2", "nat 10.2.0.13:53"),
        ("c tcp 10.1.0.2:1 > 10.9.1.1:80 S", "nat 10.2.0.12:80"),
        ("c tcp 2001:db8:1::1.1 > 2001:db8:9:1::7.80 S", "tun 2001:db8:2::13"),
    ]);
    lab.ipvsadm("-E -f 5 -6 -s rr -p 60 -M 48");
    lab.expect(&[("c tcp 2001:db8:1::1.2 > 2001:db8:9:1::7.80 S", "tun 2001:db8:2::12")]);
    let template = "IP NONE [2001:db8:1::]:0 [0:5::]:0 [2001:db8:2::12]:0";
    assert!(lab.connections().contains(&template.to_owned()), "{:?}", lab.connections());
    assert!(
        lab.connections().contains(&"IP NONE 10.1.0.1:0 0.0.0.5:0 10.2.0.13:0".to_owned()),
        "{:?}",
        lab.connections()
    );
    assert_eq!(lab.line("-Ln", "FWM 5 IPv6"), "FWM 5 IPv6 rr persistent 60 mask 48");
}

#[test]
fn a_template_ends_with_flows_of_its_age() {
    let mut rules = three("-t 10.9.0.1:80", "-g", "-p 60 -M 255.255.255.0");
    rules.extend(three("-u 10.9.0.1:53", "-m", "-p 300"));
    let mut lab = lab(&rules);
    lab.send("c tcp 10.1.0.1:1 > 10.9.0.1:80 S");
    lab.send("c tcp 10.1.0.9:1 > 10.9.0.1:80 S");
    lab.send("c udp 10.1.0.1:1 > 10.9.0.1:53 len=3");
    lab.sleep(65);
    assert_eq!(lab.connections().len(), 2, "{:?}", lab.connections());
    lab.sleep(240);
    assert!(lab.connections().is_empty(), "{:?}", lab.connections());
    assert!(lab.line("-Ln --persistent-conn", "-> 10.2.0.13:80").ends_with("1 0 0 0"));
    // One that a younger flow keeps lives on.
    lab.send("c tcp 10.1.0.1:1 > 10.9.0.1:80 S");
    lab.send("c tcp 10.1.0.1:1 > 10.9.0.1:80 A");
    lab.sleep(65);
    assert!((54..=57).contains(&lab.seconds_left("10.1.0.0:0 ")), "{}", lab.show("-Lnc"));
}

#[test]
fn all_clients_may_be_one() {
    let mut lab = lab(&three("-t 10.9.0.1:80", "-m", "-p 60 -M 0.0.0.0"));
    assert_eq!(lab.flows("10.1.0.1", 1, 2, "10.9.0.1:80"), "13 13");
    assert_eq!(lab.flows("192.0.2.77", 1, 2, "10.9.0.1:80"), "13 13");
    assert!(lab.connections().contains(&"TCP ASSURED 0.0.0.0:0 10.9.0.1:80 10.2.0.13:80".to_owned()));
    assert_eq!(lab.line("-Ln", "TCP"), "TCP 10.9.0.1:80 rr persistent 60 mask 0.0.0.0");
    assert!(lab.show("-Sn").starts_with("-A -t 10.9.0.1:80 -s rr -p 60 -M 0.0.0.0\n"));
}

#[test]
fn a_marks_connections_show_the_servers_port_even_where_it_is_not_written() {
    let world =
        json!({"setup": ["iptables -t mangle -A PREROUTING -d 10.9.0.1 -j MARK --set-mark 1"], "vips": ["10.9.0.1"]});
    let servers = ["10.2.0.11:8080 -g", "10.2.0.12:8081 -i", "10.2.0.13 -g", "10.2.0.14:8082 -m"];
    let mut rules = vec!["-A -f 1 -s rr".to_owned()];
    rules.extend(servers.map(|s| format!("-a -f 1 -r {s}")));
    let mut lab = Lab::with(world, &rules.iter().map(String::as_str).collect::<Vec<_>>());
    lab.expect(&[
        ("c tcp 10.1.0.1:1 > 10.9.0.1:80 S", "nat 10.2.0.14:8082"),
        ("c udp 10.1.0.1:2 > 10.9.0.1:80 len=1", "dr 10.2.0.13"),
        ("c tcp 10.1.0.1:3 > 10.9.0.1:80 S", "tun 10.2.0.12"),
        ("c tcp 10.1.0.1:4 > 10.9.0.1:80 S", "dr 10.2.0.11"),
    ]);
    assert_eq!(lab.field("dport"), 80);
    let destinations: Vec<String> =
        lab.connections().iter().filter_map(|c| c.split(' ').next_back().map(str::to_owned)).collect();
    assert_eq!(destinations, ["10.2.0.14:8082", "10.2.0.12:8081", "10.2.0.11:8080", "10.2.0.13:80"]);
    // With persistence it is the packet's port that they go to.
    lab.ipvsadm("-E -f 1 -s rr -p 60");
    lab.expect(&[("c tcp 10.1.0.2:1 > 10.9.0.1:80 S", "nat 10.2.0.14:80")]);
}
