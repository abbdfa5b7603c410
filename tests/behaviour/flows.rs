//! States, time-outs, ports that are used again, removal.

use pollux_tests::oracle::lab::Lab;
use serde_json::json;

fn two(mode: &str) -> Lab {
    Lab::new(&[
        "-A -t 10.9.0.1:80 -s rr",
        &format!("-a -t 10.9.0.1:80 -r 10.2.0.11:80 {mode}"),
        &format!("-a -t 10.9.0.1:80 -r 10.2.0.12:80 {mode}"),
    ])
}

fn six(mode: &str) -> Lab {
    Lab::new(&["-A -t [2001:db8:9::1]:80 -s rr", &format!("-a -t [2001:db8:9::1]:80 -r [2001:db8:2::11]:80 {mode}")])
}

/// Plays flags from the client (`c`) and the server (`s`) and returns the state and its time-out.
fn state(mode: &str, story: &[&str]) -> (String, u32) {
    let mut lab = six(mode);
    for step in story {
        let (side, flags) = step.split_once(' ').unwrap();
        lab.send(&match side {
            "c" => format!("c tcp 2001:db8:1::1.4000 > 2001:db8:9::1.80 {flags}"),
            _ => format!("s tcp 2001:db8:2::11.80 > 2001:db8:1::1.4000 {flags}"),
        });
    }
    let row = lab.connections().remove(0);
    (row.split(' ').nth(1).unwrap().to_owned(), lab.seconds_left("4000"))
}

#[test]
fn states_of_ipv6_are_those_of_ipv4() {
    for (mode, story, want, seconds) in [
        ("-m", &["c S"][..], "SYN_RECV", 60),
        ("-m", &["c S", "s SA", "c A"], "ESTABLISHED", 900),
        ("-m", &["c S", "s SA", "c A", "c FA"], "CLOSE_WAIT", 60),
        ("-m", &["c S", "s SA", "c A", "s FA"], "FIN_WAIT", 120),
        ("-m", &["c S", "s SA", "c A", "c FA", "s FA"], "TIME_WAIT", 120),
        ("-m", &["c S", "c FA"], "TIME_WAIT", 120),
        ("-m", &["c S", "c R"], "SYN_RECV", 60),
        ("-m", &["c S", "s R"], "CLOSE", 10),
        ("-m", &["c S", "s SA", "c A", "c S"], "ESTABLISHED", 900),
        ("-g", &["c S", "c A"], "ESTABLISHED", 900),
        ("-g", &["c S", "c A", "c FA"], "FIN_WAIT", 120),
        ("-i", &["c S", "c A", "c FA"], "FIN_WAIT", 120),
        ("-i", &["c S", "c A", "c R"], "CLOSE", 10),
    ] {
        let (got, left) = state(mode, story);
        assert_eq!(got, want, "{mode} {story:?}");
        assert!((seconds - 2..=seconds).contains(&left), "{mode} {story:?}: {left} s");
    }
}

#[test]
fn set_changes_three_time_outs_from_the_next_packet_on() {
    let mut lab = two("-g");
    lab.send("c tcp 10.1.0.1:1 > 10.9.0.1:80 S");
    lab.send("c tcp 10.1.0.1:1 > 10.9.0.1:80 A");
    lab.ipvsadm("--set 50 0 7");
    assert_eq!(lab.show("-Ln --timeout"), "Timeout (tcp tcpfin udp): 50 120 7\n");
    assert!(lab.seconds_left("10.1.0.1:1 ") > 890);
    lab.send("c tcp 10.1.0.1:1 > 10.9.0.1:80 A");
    assert!((48..=50).contains(&lab.seconds_left("10.1.0.1:1 ")));
}

#[test]
fn a_syn_reopens_what_is_over_and_nothing_else() {
    // State left behind, the setting, and whether another server is chosen.
    for (last, mode, reuse, anew) in [
        ("s R", "-m", 1, true),
        ("s R", "-m", 2, true),
        ("s R", "-m", 0, false),
        ("c FA", "-m", 1, false),
        ("s FA", "-m", 1, false),
        ("c FA", "-g", 1, false),
        ("c FA", "-g", 2, true),
        ("c FA", "-g", 3, true),
        ("c R", "-g", 1, true),
    ] {
        let mut lab = two(mode);
        lab.sysctl("conn_reuse_mode", reuse);
        assert_eq!(lab.flows("10.1.0.1", 4000, 1, "10.9.0.1:80"), "12");
        let (side, flags) = last.split_once(' ').unwrap();
        lab.send(&match side {
            "c" => format!("c tcp 10.1.0.1:4000 > 10.9.0.1:80 {flags}"),
            _ => format!("s tcp 10.2.0.12:80 > 10.1.0.1:4000 {flags}"),
        });
        let got = lab.flows("10.1.0.1", 4000, 1, "10.9.0.1:80");
        assert_eq!(got, if anew { "11" } else { "12" }, "{last} {mode} conn_reuse_mode={reuse}");
    }
}

#[test]
fn the_newer_of_two_flows_with_one_reply_gets_it_until_it_ends() {
    let rules = |vip: &str| [format!("-A -t {vip}:80 -s rr"), format!("-a -t {vip}:80 -r 10.2.0.11:8080 -m")];
    let rules: Vec<String> = ["10.9.0.1", "10.9.0.2", "10.9.0.3"].iter().flat_map(|v| rules(v)).collect();
    let mut lab = Lab::new(&rules.iter().map(String::as_str).collect::<Vec<_>>());
    let reply = "s tcp 10.2.0.11:8080 > 10.1.0.1:4000 A";
    for vip in ["10.9.0.1", "10.9.0.2", "10.9.0.3"] {
        lab.send(&format!("c tcp 10.1.0.1:4000 > {vip}:80 S"));
        lab.send(reply);
        assert_eq!(lab.field("src"), vip);
    }
    // Requests of all of them still arrive.
    lab.expect(&[("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A", "nat 10.2.0.11:8080")]);
    lab.send("s tcp 10.2.0.11:8080 > 10.1.0.1:4000 R");
    assert_eq!(lab.field("src"), "10.9.0.3");
    lab.sleep(13);
    lab.send(reply);
    assert_eq!(lab.field("src"), "10.9.0.2", "the next older one");
    lab.send("s tcp 10.2.0.11:8080 > 10.1.0.1:4000 R");
    lab.sleep(13);
    lab.send(reply);
    assert_eq!(lab.field("src"), "10.9.0.1", "the oldest one");
}

#[test]
fn connections_from_port_20_and_to_ports_beside_ftp_are_not_scheduled() {
    let mut lab = Lab::new(&[
        "-A -t 10.9.0.1:21 -s rr",
        "-a -t 10.9.0.1:21 -r 10.2.0.11:21 -g",
        "-A -t 10.9.0.2:21 -s rr -p 100",
        "-a -t 10.9.0.2:21 -r 10.2.0.11:21 -g",
        "-a -t 10.9.0.2:21 -r 10.2.0.12:21 -g",
    ]);
    lab.expect(&[
        ("c tcp 10.1.0.1:4000 > 10.9.0.1:21 S", "dr 10.2.0.11"),
        ("c tcp 10.1.0.1:20 > 10.9.0.1:21 S", "reply"),
        ("c tcp 10.1.0.1:4000 > 10.9.0.1:2000 S", "reply"),
        // A persistent FTP service takes the data connections of the passive mode along.
        ("c tcp 10.1.0.1:4000 > 10.9.0.2:21 S", "dr 10.2.0.12"),
        ("c tcp 10.1.0.1:4001 > 10.9.0.2:2000 S", "dr 10.2.0.12"),
        ("c tcp 10.1.0.2:4001 > 10.9.0.2:2000 S", "dr 10.2.0.11"),
        ("c tcp 10.1.0.2:4002 > 10.9.0.2:21 S", "dr 10.2.0.11"),
        ("c tcp 10.1.0.1:4003 > 10.9.0.2:1023 S", "reply"),
        ("c tcp 10.1.0.1:4003 > 10.9.0.2:20 S", "dr 10.2.0.12"),
    ]);
    assert!(
        lab.connections().contains(&"TCP NONE 10.1.0.1:0 10.9.0.2:0 10.2.0.12:0".to_owned()),
        "{:?}",
        lab.connections()
    );
}

#[test]
fn a_removed_server_is_silent_or_reset_and_comes_back_with_its_flows() {
    for (mode, nodest) in [("-m", 0), ("-g", 0), ("-i", 0), ("-m", 1), ("-g", 1)] {
        let mut lab = two(mode);
        lab.sysctl("expire_nodest_conn", nodest);
        assert_eq!(lab.flows("10.1.0.1", 4000, 2, "10.9.0.1:80"), "12 11");
        lab.ipvsadm("-d -t 10.9.0.1:80 -r 10.2.0.12:80");
        let quiet = if nodest == 0 { "none" } else { "reply" };
        assert_eq!(lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 PA len=3"), quiet, "{mode} {nodest}");
        let syn = lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S");
        assert_eq!(syn == "none", nodest == 0, "{mode} {nodest}: {syn}");
        if nodest == 0 {
            assert_eq!(lab.connections().len(), 2);
            lab.ipvsadm(&format!("-a -t 10.9.0.1:80 -r 10.2.0.12:80 {mode} -w 3"));
            let again = lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 PA len=3");
            assert!(again.contains("10.2.0.12"), "{mode}: {again}");
            assert!(lab.line("-Ln", "-> 10.2.0.12:80").ends_with(" 3 1 0"));
        }
    }
}

#[test]
fn without_any_service_of_a_family_its_packets_go_to_the_stack_and_flows_stay_listed() {
    let mut lab = Lab::new(&[
        "-A -t 10.9.0.1:80 -s rr",
        "-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m",
        "-A -t [2001:db8:9::1]:80 -s rr",
        "-a -t [2001:db8:9::1]:80 -r [2001:db8:2::11]:80 -g",
    ]);
    lab.flows("10.1.0.1", 4000, 1, "10.9.0.1:80");
    lab.flows("2001:db8:1::1", 4000, 1, "2001:db8:9::1.80");
    lab.ipvsadm("-D -t 10.9.0.1:80");
    lab.expect(&[
        ("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A", "reply"),
        ("c tcp 2001:db8:1::1.4000 > 2001:db8:9::1.80 A", "dr 2001:db8:2::11"),
    ]);
    // As soon as there is a service again, a removed server's packets are dropped in silence.
    lab.ipvsadm("-A -t 10.9.0.1:81 -s rr");
    lab.expect(&[("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A", "none")]);
    lab.ipvsadm("-C");
    lab.expect(&[("c tcp 2001:db8:1::1.4000 > 2001:db8:9::1.80 A", "reply")]);
    assert_eq!(lab.connections().len(), 2);
}

#[test]
fn sctp_is_opened_by_init_alone_and_reopened_when_closed() {
    let mut lab = Lab::new(&[
        "-A --sctp-service 10.9.0.1:80 -s rr",
        "-a --sctp-service 10.9.0.1:80 -r 10.2.0.11:80 -m",
        "-a --sctp-service 10.9.0.1:80 -r 10.2.0.12:80 -m",
    ]);
    lab.expect(&[
        ("c sctp 10.1.0.1:4000 > 10.9.0.1:80 chunk=0 len=4", "icmp 3/2"),
        ("c sctp 10.1.0.1:4000 > 10.9.0.1:80 chunk=1", "nat 10.2.0.12:80"),
        ("c sctp 10.1.0.1:4000 > 10.9.0.1:80 chunk=10 len=4", "nat 10.2.0.12:80"),
        ("s sctp 10.2.0.12:80 > 10.1.0.1:4000 chunk=6", "reply"),
    ]);
    assert!(lab.connections()[0].starts_with("SCT"), "{:?}", lab.connections());
}

#[test]
fn with_expire_nodest_conn_a_servers_connections_end_with_it() {
    for persistent in ["", " -p 60"] {
        let mut lab = Lab::with(
            json!({"sysctl": {"net.ipv4.vs.expire_nodest_conn": 1}}),
            &[
                &format!("-A -t 10.9.0.1:80 -s rr{persistent}"),
                "-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m",
                "-a -t 10.9.0.1:80 -r 10.2.0.12:80 -m",
            ],
        );
        assert_eq!(lab.flows("10.1.0.1", 20_000, 1, "10.9.0.1:80"), "12");
        assert_eq!(lab.flows("10.1.0.2", 20_000, 1, "10.9.0.1:80"), "11");
        lab.ipvsadm("-d -t 10.9.0.1:80 -r 10.2.0.12:80");
        assert!(lab.connections().iter().all(|c| c.contains("10.1.0.2:")), "{:?}", lab.connections());
        // Nobody translates what the server still says, and the client is told.
        lab.expect(&[("s tcp 10.2.0.12:80 > 10.1.0.1:20000 PA len=5", "reply")]);
        assert_eq!(lab.field("src"), "10.2.0.12");
        lab.expect(&[("c tcp 10.1.0.1:20000 > 10.9.0.1:80 PA len=5", "reply")]);
        assert_eq!(lab.field("flags"), "R");
        lab.ipvsadm("-a -t 10.9.0.1:80 -r 10.2.0.12:80 -m");
        assert!(lab.line("-Ln", "-> 10.2.0.12:80").ends_with(" 1 0 0"));
        lab.ipvsadm("-D -t 10.9.0.1:80");
        assert!(lab.connections().is_empty(), "{:?}", lab.connections());
    }
}

#[test]
fn what_a_removed_server_still_says_is_not_counted() {
    let mut lab = two("-m");
    assert_eq!(lab.flows("10.1.0.1", 4000, 1, "10.9.0.1:80"), "12");
    let before = lab.line("-Ln --stats", "TCP");
    lab.ipvsadm("-d -t 10.9.0.1:80 -r 10.2.0.12:80");
    lab.expect(&[("s tcp 10.2.0.12:80 > 10.1.0.1:4000 PA len=5", "reply")]);
    assert_eq!(lab.field("src"), "10.9.0.1");
    assert_eq!(lab.line("-Ln --stats", "TCP"), before);
    lab.ipvsadm("-a -t 10.9.0.1:80 -r 10.2.0.12:80 -m");
    assert!(lab.line("-Ln --stats", "-> 10.2.0.12:80").ends_with(&before["TCP 10.9.0.1:80".len()..]));
    lab.send("s tcp 10.2.0.12:80 > 10.1.0.1:4000 PA len=5");
    assert_ne!(lab.line("-Ln --stats", "TCP"), before);
}

#[test]
fn an_abort_opens_nothing_and_is_not_told_of() {
    let mut lab =
        Lab::new(&["-A --sctp-service 10.9.0.1:80 -s rr", "-a --sctp-service 10.9.0.1:80 -r 10.2.0.11:80 -m"]);
    lab.sysctl("sloppy_sctp", 1);
    lab.sysctl("nat_icmp_send", 1);
    lab.expect(&[
        ("c sctp 10.1.0.1:1 > 10.9.0.1:80 chunk=6", "icmp 3/2"),
        ("c sctp 10.1.0.1:1 > 10.9.0.1:80 chunk=0", "nat 10.2.0.11:80"),
        ("s sctp 10.2.0.11:80 > 10.1.0.1:9 chunk=6", "reply"),
    ]);
    for chunk in [0, 4, 5, 7, 12] {
        lab.send(&format!("s sctp 10.2.0.11:80 > 10.1.0.1:9 chunk={chunk}"));
        assert_eq!((lab.field("proto"), lab.field("type")), (json!("icmp"), json!(3)), "chunk {chunk}");
    }
}

#[test]
fn a_syn_with_rst_ends_what_is_over_and_opens_nothing() {
    let mut lab = two("-m");
    assert_eq!(lab.flows("10.1.0.1", 4000, 1, "10.9.0.1:80"), "12");
    lab.expect(&[("s tcp 10.2.0.12:80 > 10.1.0.1:4000 R", "reply"), ("c tcp 10.1.0.1:4000 > 10.9.0.1:80 SR", "none")]);
    assert!(lab.connections().is_empty());
    lab.expect(&[("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S", "nat 10.2.0.11:80")]);
    lab.expect(&[("c tcp 10.1.0.1:4000 > 10.9.0.1:80 SR", "nat 10.2.0.11:80")]);
    lab.expect(&[("c tcp 10.1.0.9:4000 > 10.9.0.1:80 SR", "none")]);
}

#[test]
fn strays_are_told_of_from_nat_servers_of_services_and_marks() {
    let mut lab = Lab::new(&[
        "-A -t 10.9.0.1:80 -s rr",
        "-a -t 10.9.0.1:80 -r 10.2.0.11:8080 -m",
        "-a -t 10.9.0.1:80 -r 10.2.0.12:80 -g",
        "-A -f 7 -s rr",
        "-a -f 7 -r 10.2.0.13:99 -m",
        "-a -f 7 -r 10.2.0.14 -m",
    ]);
    lab.sysctl("nat_icmp_send", 1);
    for (from, told) in [
        ("tcp 10.2.0.11:8080", true),
        ("udp 10.2.0.11:8080", false),
        ("tcp 10.2.0.11:80", false),
        ("tcp 10.2.0.12:80", false),
        ("tcp 10.2.0.13:99", true),
        ("udp 10.2.0.13:99", true),
        ("tcp 10.2.0.14:99", false),
    ] {
        lab.send(&format!("s {from} > 10.1.0.1:5"));
        assert_eq!(lab.field("proto") == "icmp", told, "{from}");
    }
}

#[test]
fn a_servers_counters_are_found_again_for_two_minutes() {
    for (seconds, found) in [(100, true), (130, false)] {
        let mut lab = Lab::new(&["-A -u 10.9.0.1:53 -s rr -o", "-a -u 10.9.0.1:53 -r 10.2.0.11:53 -m"]);
        lab.send("c udp 10.1.0.1:4000 > 10.9.0.1:53 len=4");
        lab.ipvsadm("-d -u 10.9.0.1:53 -r 10.2.0.11:53");
        lab.sleep(seconds);
        lab.ipvsadm("-a -u 10.9.0.1:53 -r 10.2.0.11:53 -m");
        let counts = lab.line("-Ln --stats", "-> 10.2.0.11:53");
        assert_eq!(counts.ends_with(" 1 1 0 32 0"), found, "{seconds} s: {counts}");
        // Another service's are its own.
        lab.ipvsadm("-D -u 10.9.0.1:53");
        lab.ipvsadm("-A -u 10.9.0.1:53 -s rr");
        lab.ipvsadm("-a -u 10.9.0.1:53 -r 10.2.0.11:53 -m");
        assert!(lab.line("-Ln --stats", "-> 10.2.0.11:53").ends_with(" 0 0 0 0 0"));
    }
}
