//! What packets become, in every mode and family.

use pollux_tests::oracle::lab::Lab;
use serde_json::json;

fn one(mode: &str) -> Lab {
    world(json!({}), mode)
}

/// TCP 80, UDP 53 and an IPv6 service with one server each.
fn world(world: serde_json::Value, mode: &str) -> Lab {
    Lab::with(
        world,
        &[
            "-A -t 10.9.0.1:80 -s rr",
            &format!("-a -t 10.9.0.1:80 -r 10.2.0.11:80 {mode}"),
            "-A -u 10.9.0.1:53 -s wlc",
            &format!("-a -u 10.9.0.1:53 -r 10.2.0.11:53 {mode}"),
            "-A -t [2001:db8:9::1]:80 -s sh",
            &format!("-a -t [2001:db8:9::1]:80 -r [2001:db8:2::11]:80 {mode}"),
        ],
    )
}

fn to(mode: &str, six: bool) -> String {
    let ip = if six { "2001:db8:2::11" } else { "10.2.0.11" };
    match mode {
        "-m" => format!("nat {ip}:80"),
        "-g" => format!("dr {ip}"),
        _ => format!("tun {ip}"),
    }
}

const MODES: [&str; 3] = ["-m", "-g", "-i"];

#[test]
fn any_packet_with_syn_and_without_rst_opens_a_connection() {
    for mode in MODES {
        for (flags, opens) in [
            ("S", true),
            ("SA", true),
            ("SF", true),
            ("SPU", true),
            ("SEC", true),
            ("A", false),
            ("F", false),
            ("PA", false),
        ] {
            let mut lab = one(mode);
            let v4 = lab.send(&format!("c tcp 10.1.0.1:4000 > 10.9.0.1:80 {flags}"));
            let v6 = lab.send(&format!("c tcp 2001:db8:1::1.4000 > 2001:db8:9::1.80 {flags}"));
            let (want4, want6) =
                if opens { (to(mode, false), to(mode, true)) } else { ("reply".into(), "reply".into()) };
            assert_eq!((v4, v6), (want4, want6), "{mode} {flags}");
        }
        for flags in ["R", "SR", "RA"] {
            assert_eq!(one(mode).send(&format!("c tcp 10.1.0.1:4000 > 10.9.0.1:80 {flags}")), "none", "{mode} {flags}");
        }
        let mut lab = one(mode);
        lab.sysctl("sloppy_tcp", 1);
        assert_eq!(lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A"), to(mode, false));
        assert_eq!(lab.send("c tcp 10.1.0.1:4001 > 10.9.0.1:80 RA"), "none");
    }
}

#[test]
fn ttl_is_lowered_and_its_end_told_from_the_vip_with_the_connection_made_and_counted() {
    for mode in MODES {
        let mut lab = one(mode);
        assert_eq!(lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S ttl=1"), "icmp 11/0");
        assert_eq!(lab.field("src"), "10.9.0.1");
        assert_eq!((lab.field("ttl"), lab.field("tos"), lab.field("inner.ttl")), (json!(64), json!(0xc0), json!(1)));
        assert_eq!(lab.connections(), ["TCP SYN_RECV 10.1.0.1:4000 10.9.0.1:80 10.2.0.11:80"]);
        assert_eq!(lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A ttl=2"), to(mode, false));
        let inner = if mode == "-i" { "inner.ttl" } else { "ttl" };
        assert_eq!((lab.field(inner), lab.field("ttl")), (json!(1), json!(1)));
        assert_eq!(lab.send("c tcp 2001:db8:1::1.4000 > 2001:db8:9::1.80 S ttl=1"), "icmp 3/0");
        assert_eq!(lab.send("c udp 10.1.0.1:4000 > 10.9.0.1:53 ttl=1 len=8"), "icmp 11/0");
        // The director's own error about direct routing and tunnels counts as the server's packet.
        let out = if mode == "-m" { "0 0 40 0" } else { "0 1 40 68" };
        let stats = lab.line("-Ln --stats", "TCP 10.9.0.1:80");
        let own = if mode == "-m" { "1 2 0 80 0".to_owned() } else { "1 2 1 80 68".to_owned() };
        assert_eq!(stats, format!("TCP 10.9.0.1:80 {own}"), "{out}");
    }
}

#[test]
fn a_service_without_servers_refuses_and_where_there_is_none_the_stack_answers() {
    let mut lab = Lab::new(&[
        "-A -t 10.9.0.1:80 -s lc",
        "-A -u 10.9.0.1:53 -s mh",
        "-A -u [2001:db8:9::1]:53 -s sed",
        "-a -u [2001:db8:9::1]:53 -r [2001:db8:2::11]:53 -g -w 0",
    ]);
    lab.expect(&[
        ("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S", "icmp 3/3"),
        ("c udp 10.1.0.1:4000 > 10.9.0.1:53 len=3", "icmp 3/3"),
        ("c udp 2001:db8:1::1.4000 > 2001:db8:9::1.53 len=3", "icmp 1/4"),
        ("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A", "reply"),
        ("c tcp 10.1.0.1:4000 > 10.9.0.1:81 S", "reply"),
        ("c udp 10.1.0.1:4000 > 10.9.0.1:54 len=3", "icmp 3/3"),
        ("c udp 2001:db8:1::1.4000 > 2001:db8:9::1.54 len=3", "icmp 1/4"),
        ("c tcp 10.1.0.1:4000 > 10.9.0.1:81 R", "none"),
    ]);
    assert!(lab.connections().is_empty());
}

#[test]
fn too_big_is_told_with_what_the_way_leaves() {
    for (mode, mtu) in [
        ("-m", 1400),
        ("-g", 1400),
        ("-i", 1380),
        ("-i --tun-type gre", 1376),
        ("-i --tun-type gre --tun-csum", 1372),
        ("-i --tun-type gue --tun-port 6080", 1368),
        ("-i --tun-type gue --tun-port 9999 --tun-csum", 1368),
    ] {
        let rules = ["-A -t 10.9.0.1:80 -s rr", &format!("-a -t 10.9.0.1:80 -r 10.2.0.11:80 {mode}")];
        let mut lab = Lab::with(json!({"mtu_srv": 1400}), &rules);
        lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S");
        let fits = lab.send(&format!("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A df len={}", mtu - 40));
        assert!(!fits.starts_with("icmp"), "{mode}: {fits}");
        assert_eq!(lab.send(&format!("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A df len={}", mtu - 39)), "icmp 3/4", "{mode}");
        assert_eq!(
            (lab.field("rest"), lab.field("len"), lab.field("src")),
            (json!(mtu), json!(576), json!("10.9.0.1"))
        );
    }
}

#[test]
fn tunnels_wrap_as_recorded() {
    for (mode, proto, head) in [
        ("-i --tun-type gre", "gre", "00000800"),
        ("-i --tun-type gue --tun-port 6080 --tun-nocsum", "udp", "00040000"),
        ("-i --tun-type gue --tun-port 9999 --tun-remcsum", "udp", "00040000"),
    ] {
        let rules = ["-A -u 10.9.0.1:53 -s rr", &format!("-a -u 10.9.0.1:53 -r 10.2.0.11:53 {mode}")];
        let mut lab = Lab::new(&rules);
        assert_eq!(lab.send("c udp 10.1.0.1:4000 > 10.9.0.1:53 len=9 ttl=9 df tos=0xbb"), "tun 10.2.0.11", "{mode}");
        let shim = if proto == "gre" { "gre.head" } else { "gue.head" };
        assert_eq!((lab.field("proto"), lab.field(shim)), (json!(proto), json!(head)));
        // Congestion experienced becomes capable (RFC 6040); TTL and DF are the inner packet's.
        assert_eq!((lab.field("tos"), lab.field("inner.tos")), (json!(0xba), json!(0xbb)));
        assert_eq!((lab.field("ttl"), lab.field("inner.ttl"), lab.field("df")), (json!(8), json!(8), json!(true)));
        assert_eq!((lab.field("src"), lab.field("id")), (json!("10.2.0.254"), json!(0)));
        let port = lab.out[0].ip["sport"].clone();
        lab.send("c udp 10.1.0.1:4000 > 10.9.0.1:53 len=1");
        assert_eq!(lab.field("df"), false);
        assert_eq!(lab.out[0].ip["sport"], port, "the source port stays with the flow");
    }
}

#[test]
fn a_datagram_in_pieces_goes_to_one_server_and_counts_once() {
    for mode in MODES {
        for order in ["", " reverse"] {
            let mut lab = one(mode);
            lab.send(&format!("c udp 10.1.0.1:4000 > 10.9.0.1:53 len=100 id=7 frag=48{order}"));
            assert_eq!(lab.out.len(), 3, "{mode}{order}");
            assert!(lab.out.iter().all(|o| o.to.as_deref() == Some("10.2.0.11")));
            assert_eq!(lab.line("-Ln --stats", "UDP"), "UDP 10.9.0.1:53 1 1 0 128 0", "{mode}{order}");
            if mode == "-m" {
                assert_eq!(lab.send("s udp 10.2.0.11:53 > 10.1.0.1:4000 len=3000 id=6 frag=1480"), "reply");
                assert_eq!(lab.line("-Ln --stats", "UDP"), "UDP 10.9.0.1:53 1 1 1 128 3028");
            }
        }
    }
}

#[test]
fn errors_about_tunnels_reach_only_clients_that_asked_and_count_twice() {
    let mut lab = one("-i");
    lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S");
    lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A len=1300");
    assert_eq!(lab.send("s icmp 10.2.0.250 > 10.2.0.254 type=3 code=4 mtu=1200 inner=last-s"), "none", "no DF");
    // What may be cut is cut to the path.
    lab.sleep(1);
    assert_eq!(lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A len=1300"), "tun 10.2.0.11, nat 10.2.0.11:null");
    assert!(lab.out.iter().all(|o| o.len <= 1200));
    lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 A len=60");
    assert_eq!(lab.send("s icmp 10.2.0.250 > 10.2.0.254 type=3 code=1 inner=last-s"), "icmp 3/1");
    assert_eq!(lab.line("-Ln --stats", "TCP 10.9.0.1:80"), "TCP 10.9.0.1:80 1 4 2 2820 228");
    // About a packet that was never sent: nothing.
    lab.sleep(1000);
    assert_eq!(lab.send("s icmp 10.2.0.250 > 10.2.0.254 type=3 code=1 inner=last-s"), "none");
}

#[test]
fn errors_about_every_tunnel_are_relayed_and_the_path_is_learned() {
    for (kind, overhead) in [
        ("", 20),
        ("--tun-type gre", 24),
        ("--tun-type gre --tun-csum", 28),
        ("--tun-type gue --tun-port 6080", 32),
        ("--tun-type gue --tun-port 9999 --tun-csum", 32),
    ] {
        let rules = ["-A -t 10.9.0.1:80 -s rr", &format!("-a -t 10.9.0.1:80 -r 10.2.0.11:80 -i {kind}")];
        let mut lab = Lab::new(&rules);
        lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S");
        let big = "c tcp 10.1.0.1:4000 > 10.9.0.1:80 A len=1300 df";
        assert_eq!(lab.send(big), "tun 10.2.0.11", "{kind}");
        let error = "s icmp 10.2.0.250 > 10.2.0.254 inner=last-s";
        assert_eq!(lab.send(&format!("{error} type=11 code=0")), "icmp 11/0", "{kind}");
        assert_eq!(lab.send(&format!("{error} type=3 code=4 mtu=1200")), "icmp 3/4", "{kind}");
        assert_eq!((lab.field("src"), lab.field("rest")), (json!("10.9.0.1"), json!(1200 - overhead)), "{kind}");
        assert_eq!(lab.send(big), "icmp 3/4", "{kind}: the path is known now");
        assert_eq!(lab.field("rest"), 1200 - overhead);
    }
}

#[test]
fn with_schedule_icmp_an_error_about_no_flow_goes_to_a_server() {
    for mode in MODES {
        let rules = ["-A -t 10.9.0.1:80 -s rr", &format!("-a -t 10.9.0.1:80 -r 10.2.0.11:80 {mode}")];
        let mut lab = Lab::new(&rules);
        // The director routes this one, so that it can be quoted.
        let reply = "s tcp 10.2.0.99:80 > 10.1.0.1:4000 A";
        lab.send(reply);
        let error = "c icmp 10.77.0.1 > 10.9.0.1 type=3 code=4 mtu=1300 inner=last-c";
        assert_eq!(lab.send(error), "none", "{mode}");
        lab.sysctl("schedule_icmp", 1);
        assert_eq!(lab.send(error), "none", "{mode}: what it quotes is not the VIP's");
        assert!(lab.connections().is_empty());
        if mode == "-m" {
            lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S");
            lab.send("s tcp 10.2.0.11:80 > 10.1.0.1:4000 SA");
            lab.sleep(100);
            assert!(lab.connections().is_empty());
            assert_eq!(lab.send(error), "nat 10.2.0.11:null");
            assert_eq!((lab.field("inner.src"), lab.field("inner.dst")), (json!("10.2.0.11"), json!("10.1.0.1")));
            assert_eq!(lab.connections(), ["TCP NONE 10.1.0.1:4000 10.9.0.1:80 10.2.0.11:80"]);
            lab.sleep(6);
            assert!(lab.connections().is_empty());
        }
    }
}

#[test]
fn errors_of_others_about_direct_routing_pass_and_count() {
    let mut lab = one("-g");
    lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S");
    assert_eq!(lab.send("s icmp 10.2.0.11 > 10.1.0.1 type=3 code=3 inner=last-s"), "icmp 3/3");
    assert_eq!((lab.field("src"), lab.field("ttl")), (json!("10.2.0.11"), json!(63)));
    assert_eq!(lab.line("-Ln --stats", "TCP 10.9.0.1:80"), "TCP 10.9.0.1:80 1 1 1 40 68");
    lab.send("c tcp 2001:db8:1::1.4000 > 2001:db8:9::1.80 S");
    // The server's replies of IPv6 may come this way.
    assert_eq!(lab.send("s tcp 2001:db8:9::1.80 > 2001:db8:1::1.4000 SA"), "reply");
    assert_eq!(lab.line("-Ln --stats", "TCP [2001:db8:9::1]:80"), "TCP [2001:db8:9::1]:80 1 1 1 60 60");
    // A router's error about that reply goes to the server.
    assert_eq!(
        lab.send("c icmp6 2001:db8:77::1 > 2001:db8:9::1 type=2 code=0 mtu=1300 inner=last-c"),
        "dr 2001:db8:2::11"
    );
    // Those of IPv4 come from the director's own address.
    assert_eq!(lab.send("s tcp 10.9.0.1:80 > 10.1.0.1:4000 SA"), "none");
    assert_eq!(lab.send("c tcp 10.3.0.1:4000 > 10.9.0.1:80 S"), "none");
}

#[test]
fn a_server_that_is_the_director_answers_as_its_stack() {
    for mode in ["-m", "-g", "-i"] {
        let port = if mode == "-m" { 8080 } else { 80 };
        let mut lab = Lab::new(&[
            "-A -t 10.9.0.1:80 -s rr",
            &format!("-a -t 10.9.0.1:80 -r 10.2.0.254:{port} {mode}"),
            "-A -u 10.9.0.1:53 -s rr",
            &format!("-a -u 10.9.0.1:53 -r 10.3.0.1:53 {mode}"),
        ]);
        assert_eq!(lab.send("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S ttl=1"), "reply", "{mode}");
        assert_eq!((lab.field("src"), lab.field("flags")), (json!("10.9.0.1"), json!("RA")));
        assert_eq!(lab.send("c udp 10.1.0.1:4000 > 10.9.0.1:53 len=2"), "icmp 3/3", "{mode}");
        let want = [
            format!("TCP CLOSE 10.1.0.1:4000 10.9.0.1:80 10.2.0.254:{port}"),
            "UDP UDP 10.1.0.1:4000 10.9.0.1:53 10.3.0.1:53".to_owned(),
        ];
        assert_eq!(lab.connections(), want);
        assert_eq!(lab.line("-Ln --stats", "TCP 10.9.0.1:80"), "TCP 10.9.0.1:80 1 1 1 40 40");
        assert_eq!(lab.line("-Ln --stats", "UDP 10.9.0.1:53"), "UDP 10.9.0.1:53 1 1 1 30 58");
    }
}

#[test]
fn pmtu_disc_is_for_tunnels_alone() {
    for (mode, size) in [("-m", 1390), ("-g", 1390), ("-i", 1370)] {
        let server = format!("-a -t 10.9.0.1:80 -r 10.2.0.11:80 {mode}");
        let mut lab = Lab::with(json!({"mtu_srv": 1400, "mtu_cli": 1300}), &["-A -t 10.9.0.1:80 -s rr", &server]);
        lab.sysctl("pmtu_disc", 0);
        lab.send("c tcp 10.1.0.1:1 > 10.9.0.1:80 S");
        let verdict = lab.send(&format!("c tcp 10.1.0.1:1 > 10.9.0.1:80 PA len={size} df"));
        assert_eq!(verdict == "icmp 3/4", mode != "-i", "{mode}: {verdict}");
        if mode == "-m" {
            lab.send("s tcp 10.2.0.11:80 > 10.1.0.1:1 PA len=1390 df");
            assert_eq!((lab.field("type"), lab.field("code"), lab.field("rest")), (json!(3), json!(4), json!(1300)));
        }
    }
}

#[test]
fn a_record_route_gets_the_vip_on_both_ways() {
    for (mode, path) in [("-m", "ipopt"), ("-g", "ipopt"), ("-i", "inner.ipopt")] {
        let server = format!("-a -t 10.9.0.1:80 -r 10.2.0.11:80 {mode}");
        let mut lab = Lab::new(&["-A -t 10.9.0.1:80 -s rr", &server]);
        // Room for two addresses, one of them taken; then none left; other options stay.
        for (sent, left) in [
            ("010707040000000000000000", "010707080a09000100000000"),
            ("01070b0800000000000000000000000000000000", "01070b0c000000000a0900010000000000000000"),
            ("070708010203040000000000", "070708010203040000000000"),
            ("94040000", "94040000"),
        ] {
            lab.send(&format!("c tcp 10.1.0.1:1 > 10.9.0.1:80 S ipopt={sent}"));
            assert_eq!(lab.field(path), left, "{mode}");
            assert_eq!(lab.field("ip_ok"), true);
        }
    }
    let mut lab = Lab::new(&["-A -t 10.9.0.1:80 -s rr", "-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m"]);
    lab.send("c tcp 10.1.0.1:1 > 10.9.0.1:80 S");
    lab.send("s tcp 10.2.0.11:80 > 10.1.0.1:1 SA ipopt=0107070400000000");
    assert_eq!((lab.field("ipopt"), lab.field("ip_ok")), (json!("010707080a090001"), json!(true)));
    // What is only routed gets the address towards its next hop.
    lab.send("s tcp 10.2.0.11:99 > 10.1.0.1:1 SA ipopt=0107070400000000");
    assert_eq!((lab.field("ipopt"), lab.field("ip_ok")), (json!("010707080a030001"), json!(true)));
}

#[test]
fn answers_take_over_the_type_of_service_and_go_to_sound_packets_only() {
    let mut lab = one("-m");
    for (tos, error, reset) in [(0, 0xc0, 0), (0x10, 0xd0, 0x10), (0xbb, 0xda, 0xb8), (3, 0xc2, 0)] {
        lab.expect(&[(&format!("c tcp 10.1.0.1:1 > 10.9.0.1:80 S ttl=1 tos={tos}"), "icmp 11/0")]);
        assert_eq!(lab.field("tos"), error, "{tos}");
        lab.expect(&[(&format!("c tcp 10.1.0.1:1 > 10.9.0.1:81 S tos={tos}"), "reply")]);
        assert_eq!(lab.field("tos"), reset, "{tos}");
        lab.expect(&[(&format!("c tcp 2001:db8:1::1.1 > 2001:db8:9::1.81 S tos={tos}"), "reply")]);
        assert_eq!(lab.field("tos"), reset, "{tos}");
    }
    lab.expect(&[
        ("c tcp 10.1.0.1:1 > 10.9.0.1:81 S badsum", "none"),
        ("c tcp 10.1.0.7:1 > 10.9.0.1:80 A badsum len=3", "none"),
        ("c udp 10.1.0.1:1 > 10.9.0.1:54 badsum len=3", "none"),
        ("c udp 10.1.0.1:1 > 10.9.0.1:54 nosum len=3", "icmp 3/3"),
        ("c udp 10.1.0.1:1 > 10.9.0.1:54 len=3", "icmp 3/3"),
        ("c udp 2001:db8:1::1.1 > 2001:db8:9::1.54 nosum len=3", "none"),
        ("c udp 2001:db8:1::1.1 > 2001:db8:9::1.54 len=3", "icmp 1/4"),
        ("c tcp 2001:db8:1::1.1 > 2001:db8:9::1.81 S badsum", "none"),
        ("c icmp 10.1.0.1 > 10.9.0.1 type=8 badsum", "none"),
    ]);
}

#[test]
fn icmp_that_only_passes_by_is_not_checked() {
    let mut lab = one("-m");
    lab.expect(&[
        ("s icmp 10.2.0.11 > 10.1.0.1 type=8 len=5 badsum", "reply"),
        ("s icmp 10.2.0.11 > 10.1.0.1 type=0 len=5 badsum", "reply"),
        ("s icmp6 2001:db8:2::11 > 2001:db8:1::1 type=128 len=5 badsum", "reply"),
        ("c udp 10.1.0.1:1 > 10.9.0.1:53 len=3", "nat 10.2.0.11:53"),
        ("s icmp 10.2.0.11 > 10.1.0.1 type=3 code=3 inner=10.2.0.11 badsum", "none"),
        ("s icmp 10.2.0.11 > 10.1.0.1 type=5 code=1 inner=10.2.0.11 badsum", "icmp 5/1"),
        // About nothing that is known here.
        ("c udp 10.1.0.1:2 > 10.2.0.11:99 len=3", "dr 10.2.0.11"),
        ("s icmp 10.2.0.11 > 10.1.0.1 type=3 code=3 inner=10.2.0.11 badsum", "icmp 3/3"),
    ]);
}

#[test]
fn an_echo_of_nothing_but_zeros_has_a_right_checksum() {
    let mut lab = one("-m");
    for echo in [
        "c icmp 10.1.0.1 > 10.9.0.1 type=8",
        "c icmp 10.1.0.1 > 10.9.0.1 type=8 rest=65535",
        "c icmp 10.1.0.1 > 10.9.0.1 type=8 rest=63487",
        "c icmp 10.1.0.1 > 10.9.0.1 type=8 len=7",
        "c icmp6 2001:db8:1::1 > 2001:db8:9::1 type=128",
    ] {
        lab.expect(&[(echo, "reply")]);
        assert_eq!(lab.field("l4_ok"), true, "{echo}");
    }
}

#[test]
fn what_is_only_routed_is_cut_or_told_of_as_it_came() {
    let world = json!({"mtu_cli": 1400});
    let rules = [
        "-A -t 10.9.0.1:80 -s rr",
        "-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m",
        "-A -t [2001:db8:9::1]:80 -s rr",
        "-a -t [2001:db8:9::1]:80 -r [2001:db8:2::11]:80 -m",
    ];
    let mut lab = Lab::with(world, &rules);
    lab.expect(&[("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S", "nat 10.2.0.11:80")]);
    lab.expect(&[("c tcp 2001:db8:1::1.4000 > 2001:db8:9::1.80 S", "nat 2001:db8:2::11:80")]);
    // Replies of a flow and strays; the kernel looks at the size before it lowers the TTL.
    for from in ["10.2.0.11:80", "10.2.0.11:99"] {
        lab.expect(&[(&format!("s tcp {from} > 10.1.0.1:4000 A df len=1361 ttl=9"), "nat 10.2.0.11:null")]);
        assert_eq!((lab.field("type"), lab.field("code"), lab.field("rest")), (json!(3), json!(4), json!(1400)));
        assert_eq!((lab.field("src"), lab.field("inner.ttl")), (json!("10.2.0.254"), json!(9)));
        assert_eq!((lab.field("inner.src"), lab.field("inner.ip_ok")), (json!("10.2.0.11"), json!(true)));
        lab.expect(&[(&format!("s tcp {from} > 10.1.0.1:4000 A len=1361 id=7 ttl=9"), "reply")]);
        let pieces: Vec<_> = lab.out.iter().map(|o| (o.len, o.ip["ttl"].clone(), o.ip["ip_ok"].clone())).collect();
        assert_eq!(pieces, [(1396, json!(8), json!(true)), (25, json!(8), json!(true))]);
    }
    for port in ["80", "99"] {
        lab.send(&format!("s tcp 2001:db8:2::11.{port} > 2001:db8:1::1.4000 A len=1400 ttl=9"));
        assert_eq!((lab.field("type"), lab.field("rest"), lab.field("inner.ttl")), (json!(2), json!(1400), json!(9)));
    }
    // Towards a station of the director's own network as well.
    lab.expect(&[("c tcp 10.1.0.1:4000 > 10.2.0.11:99 A len=1000", "dr 10.2.0.11")]);
}

#[test]
fn the_directors_own_addresses_answer_whatever_was_sent_before() {
    let mut lab = one("-m");
    for (packet, answer) in [
        ("c tcp 10.1.0.1:4000 > 10.3.0.1:99 S", "reply"),
        ("c udp 10.1.0.1:4000 > 10.3.0.1:99 len=3", "icmp 3/3"),
        ("c tcp 10.1.0.1:4000 > 10.2.0.254:80 S", "reply"),
        ("c tcp 2001:db8:1::1.4000 > 2001:db8:3::1.99 S", "reply"),
        ("c udp 2001:db8:1::1.4000 > 2001:db8:2::fe.99 len=3", "icmp 1/4"),
    ] {
        // A stray of a real server, as what is remembered of it must not bear on the next packet.
        lab.expect(&[("s tcp 10.2.0.11:99 > 10.1.0.1:4000 A", "reply"), (packet, answer)]);
    }
    // Without a service of a family its VIPs refuse.
    lab.ipvsadm("-D -t [2001:db8:9::1]:80");
    lab.expect(&[
        ("s tcp 10.2.0.11:99 > 10.1.0.1:4000 A", "reply"),
        ("c tcp 2001:db8:1::1.4000 > 2001:db8:9::1.80 S", "reply"),
    ]);
}

#[test]
fn answers_take_the_record_route_over_and_nothing_else() {
    let mut lab = one("-m");
    // One address of room, then two: the director is on the way there and back.
    let one_left = "0107070400000000";
    let two_left = "070b04000000000000000000";
    for (packet, verdict, len) in [
        ("c icmp 10.1.0.1 > 10.9.0.1 type=8 len=9", "reply", 37),
        ("c tcp 10.1.0.1:4000 > 10.9.0.1:81 S", "reply", 40),
        ("c udp 10.1.0.1:4000 > 10.9.0.1:54 len=2", "icmp 3/3", 58),
        ("c tcp 10.1.0.1:4000 > 10.9.0.1:80 S ttl=1", "icmp 11/0", 68),
    ] {
        for (sent, echoed) in [
            (one_left, json!("070708 0a090001 00".replace(' ', ""))),
            (two_left, json!("070b0c 0a090001 0a090001 00".replace(' ', ""))),
            ("94040000", json!(null)),
            ("01010101", json!(null)),
            ("820b000000000000000000000", json!(null)),
        ] {
            lab.expect(&[(&format!("{packet} ipopt={sent}"), verdict)]);
            assert_eq!(lab.field("ipopt"), echoed, "{packet} {sent}");
            assert_eq!((lab.field("ip_ok"), lab.field("l4_ok")), (json!(true), json!(true)), "{packet} {sent}");
            // An error quotes the packet with its options.
            let quoted = if verdict.starts_with("icmp") { sent.len() / 2 } else { 0 };
            let own = echoed.as_str().map_or(0, |e| e.len() / 2);
            assert_eq!(lab.out[0].len, len + own + quoted, "{packet} {sent}");
        }
    }
    // An error is no longer for them.
    lab.send(&format!("c udp 10.1.0.1:4000 > 10.9.0.1:54 len=800 ipopt={two_left}"));
    assert_eq!((lab.out[0].len, lab.field("quote_len")), (576, json!(536)));
}

#[test]
fn answers_to_datagrams_in_pieces_quote_them_put_together() {
    let mut lab = one("-m");
    lab.ipvsadm("-A -u 10.9.0.1:99 -s rr");
    for (order, packet, verdict, ttl) in [
        ("", "c udp 10.1.0.1:4000 > 10.9.0.1:54 len=200", "icmp 3/3", 64),
        (" reverse", "c udp 10.1.0.1:4000 > 10.9.0.1:99 len=200", "icmp 3/3", 64),
        (" ttl=1", "c udp 10.1.0.1:4000 > 10.9.0.1:53 len=200", "icmp 11/0", 1),
        (" ttl=1 reverse", "c tcp 10.1.0.1:4000 > 10.9.0.1:80 S len=188", "icmp 11/0", 1),
    ] {
        for df in ["", " df"] {
            lab.expect(&[(&format!("{packet} id=7 frag=64{order}{df}"), verdict)]);
            assert_eq!((lab.out.len(), lab.out[0].len, lab.field("quote_len")), (1, 256, json!(228)), "{packet}");
            assert_eq!((lab.field("inner.len"), lab.field("inner.id")), (json!(228), json!(7)));
            assert_eq!((lab.field("inner.ttl"), lab.field("inner.df")), (json!(ttl), json!(!df.is_empty())));
            assert_eq!((lab.field("inner.l4_ok"), lab.field("inner.ip_ok")), (json!(true), json!(true)));
        }
    }
    lab.expect(&[("c udp 10.1.0.1:4000 > 10.9.0.1:54 len=2900 frag=1480", "icmp 3/3")]);
    assert_eq!((lab.out[0].len, lab.field("inner.len")), (576, json!(2928)));
    // A reset acknowledges all of a segment.
    lab.expect(&[("c tcp 10.1.0.1:4000 > 10.9.0.1:81 S len=100 frag=64", "reply")]);
    assert_eq!((lab.field("ack"), lab.field("l4_ok")), (json!(1101), json!(true)));
    // A router looks at each piece by itself.
    for packet in ["c udp 10.1.0.1:4000 > 10.2.0.11:99", "s udp 10.2.0.11:53 > 10.1.0.1:4000"] {
        lab.send(&format!("{packet} len=200 id=7 frag=64 ttl=1"));
        assert_eq!(
            (lab.field("type"), lab.field("inner.len"), lab.field("inner.mf")),
            (json!(11), json!(84), json!(true))
        );
    }
    // Another datagram with the same piece in front is not taken for it.
    lab.expect(&[("c udp 10.1.0.1:4000 > 10.9.0.1:54 len=40 id=8 mf", "none")]);
    lab.expect(&[("c udp 10.1.0.1:4000 > 10.9.0.1:54 len=40 id=9 frag=24", "icmp 3/3")]);
    assert_eq!((lab.field("inner.len"), lab.field("inner.id")), (json!(68), json!(9)));
}
