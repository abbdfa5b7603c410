//! ipvsadm's lines, however they are spelled, and what the player makes of what it does not know.

use pollux_tests::oracle::lab::Lab;
use pollux_tests::oracle::purpose::Purpose;
use pollux_tests::oracle::table::{self, Outcome};

#[test]
fn lines_mean_the_same_however_they_are_spelled() {
    let rules = [
        ["-A -t 10.9.0.1:80 -s wrr -p 50 -M 255.255.0.0", "-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m -w 3 -x 9 -y 5"],
        [
            "--add-service --tcp-service 10.9.0.1:80 --scheduler wrr --persistent 50 --netmask 255.255.0.0",
            "--add-server --tcp-service 10.9.0.1:80 --real-server 10.2.0.11:80 --masquerading --weight 3 --u-threshold 9 --l-threshold 5",
        ],
        ["-A -M 255.255.0.0 -p50 -swrr -t10.9.0.1:80", "-a -y5 -x9 -w3 -m -r10.2.0.11:80 -t10.9.0.1:80"],
        [
            "--add-service --persistent=50 --scheduler=wrr --netmask=255.255.0.0 --tcp-service=10.9.0.1:http",
            "-at vip.example:80 -mr rs1.example:http --weight=03 -x 9 --l-threshold=+5",
        ],
    ];
    let saved: Vec<String> = rules.iter().map(|r| Lab::new(r).show("-Sn")).collect();
    let want = "-A -t 10.9.0.1:80 -s wrr -p 50 -M 255.255.0.0\n-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m -w 3 -x 9 -y 5\n";
    assert!(saved.iter().all(|s| s == want), "{saved:#?}");
}

#[test]
fn tunnels_flags_and_marks_are_saved_as_they_were_given() {
    let rules = [
        "-A -t 10.9.0.1:80 -s sh -b sh-fallback,sh-port",
        "-a -t 10.9.0.1:80 -r 10.2.0.11:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum",
        "-a -t 10.9.0.1:80 -r 10.2.0.12:80 -i -w 1 --tun-type gre --tun-nocsum",
        "-A -u 10.9.0.1:53 -s rr -o",
        "-A --sctp-service 10.9.0.1:80 -s lc",
        "-A -t [2001:db8:9::1]:80 -s mh -p 50 -M 64 -b mh-port",
        "-a -t [2001:db8:9::1]:80 -r [2001:db8:2::11]:80 -g -w 0",
        "-A -f 7 -s wlc",
        "-A -f 7 -6 -s fo",
    ];
    let mut lab = Lab::new(&rules);
    let saved = lab.show("-Sn");
    assert_eq!(saved.lines().collect::<Vec<_>>(), rules);
    // What is saved restores the same, and once more only complains.
    lab.ipvsadm("-C");
    assert_eq!(lab.tries("-R", &saved), (0, String::new()));
    assert_eq!(lab.show("-Sn"), saved);
    let (code, said) = lab.tries("--restore", &saved);
    assert_eq!((code, said.lines().count()), (255, rules.len()));
    assert!(said.starts_with("Service already exists\nDestination already exists\n"), "{said}");
}

#[test]
fn listings_are_sorted_as_differences_of_31_bits_say() {
    let vips = ["10.9.0.1", "9.9.9.9", "192.168.1.1", "10.10.0.1"];
    let mut rules: Vec<String> = vips.iter().map(|v| format!("-A -t {v}:80 -s rr")).collect();
    rules.extend(["-A -u 1.1.1.1:53 -s rr".to_owned(), "-A -t 10.9.0.1:8 -s rr".to_owned()]);
    rules.extend(["-A -t [fd00::1]:80 -s rr", "-A -t [2001:db8::1]:80 -s rr", "-A -f 9 -s rr"].map(String::from));
    rules.extend(["192.168.1.5:80", "10.2.0.11:80", "10.2.0.11:8"].map(|r| format!("-a -t 9.9.9.9:80 -r {r} -m")));
    let mut lab = Lab::new(&rules.iter().map(String::as_str).collect::<Vec<_>>());
    let names = |text: String| -> Vec<String> {
        let word = |l: &str| l.split_whitespace().nth(1).map(str::to_owned);
        text.lines().skip(3).filter_map(word).collect()
    };
    assert_eq!(
        names(lab.show("-Ln")),
        [
            "192.168.1.1:80",
            "9.9.9.9:80",
            "192.168.1.5:80",
            "10.2.0.11:8",
            "10.2.0.11:80",
            "10.9.0.1:8",
            "10.9.0.1:80",
            "10.10.0.1:80",
            "1.1.1.1:53",
            "[fd00::1]:80",
            "[2001:db8::1]:80",
            "9"
        ]
    );
    assert!(lab.show("-Sn").starts_with("-A -t 192.168.1.1:80 -s rr\n-A -t 9.9.9.9:80 -s rr\n-a "));
}

#[test]
fn edits_reset_what_they_do_not_name() {
    let mut lab =
        Lab::new(&["-A -t 10.9.0.1:80 -s sh -p 60 -b sh-port", "-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m -w 7 -x 5"]);
    lab.ipvsadm("-E -t 10.9.0.1:80");
    assert_eq!(lab.line("-Ln", "TCP"), "TCP 10.9.0.1:80 wlc");
    lab.ipvsadm("-e -t 10.9.0.1:80 -r 10.2.0.11:80");
    assert_eq!(lab.show("-Sn").lines().last(), Some("-a -t 10.9.0.1:80 -r 10.2.0.11:80 -g -w 1"));
    lab.ipvsadm("--zero --tcp-service 10.9.0.1:80");
    lab.ipvsadm("--delete-server -t 10.9.0.1:80 -r 10.2.0.11:80");
    lab.ipvsadm("--delete-service -t 10.9.0.1:80");
    assert_eq!(lab.show("-Sn"), "");
}

#[test]
fn the_first_mistake_of_a_line_is_told_and_values_come_before_what_is_missing() {
    let mut lab = Lab::new(&["-A -t 10.9.0.1:80 -s rr", "-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m"]);
    let not_unicast = "Invalid operation.  Possibly wrong module version, address not unicast, ...";
    for (line, code, said) in [
        ("-A -t 10.9.0.300:80 -w x", 2, "illegal virtual server address[:port] specified"),
        ("-A -w x -t 10.9.0.300:80", 2, "illegal weight specified"),
        ("-A -t 10.9.0.2:80 -w 3 extra", 2, "unexpected argument extra"),
        ("-A -n -w 3", 2, "Illegal 'numeric' option with the 'add-service' command"),
        ("-a -w 3", 2, "You need to supply the 'service-address' option for the 'add-server' command"),
        ("-L -b nosuch", 2, "invalid scheduler flag `nosuch'"),
        ("-L --timeout --stats", 2, "options conflicts in the list command"),
        ("-L --daemon --persistent-conn", 2, "options conflicts in the list command"),
        (
            "-L --timeout -t 10.9.0.1:80",
            2,
            "The option 'timeout' conflicts with the 'service-address' option in the 'list' command",
        ),
        ("-L --daemon -c", 2, "The option 'daemon' conflicts with the 'connection' option in the 'list' command"),
        ("-A -t 10.9.0.2:80 -6", 2, "-6 used before -f\n"),
        ("-A -6 -f 3", 2, "-6 used before -f\n"),
        ("-A -f 0x3", 2, "invalid fwmark value `0x3' specified"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.12:80 -w 0x3", 2, "illegal weight specified"),
        ("-A -t [2001:db8:9::1] -p", 2, "illegal virtual server address[:port] specified"),
        ("-a -t 10.9.0.1:80 -r 10.2.0.11:80 -x 1 -y 5", 255, "Numerical result out of range"),
        ("-e -t 10.9.0.1:80 -r 10.2.0.99:80 -x 1 -y 5", 255, "Numerical result out of range"),
        ("-a -t 10.9.0.9:80 -r 10.2.0.11:80 -x 1 -y 5", 255, "Service not defined"),
        ("-a -t 10.9.0.1:80 -r 255.255.255.255:80 -m", 255, not_unicast),
        ("-a -t 10.9.0.1:80 -r 0.0.0.0:80 -m", 255, not_unicast),
        ("-a -t 10.9.0.1:80 -r 224.0.0.1:80 -i", 255, not_unicast),
    ] {
        assert_eq!(lab.tries(line, ""), (code, format!("{said}\n")), "{line}");
    }
    lab.ipvsadm("-A -t [2001:db8:9::1]:80");
    for address in ["[ff02::1]:80", "[fe80::1]:80", "[::]:80"] {
        let line = format!("-a -t [2001:db8:9::1]:80 -r {address} -m");
        assert_eq!(lab.tries(&line, ""), (255, format!("{not_unicast}\n")), "{line}");
    }
}

/// Plays a scenario made up here, against a recording made up here.
fn play(scenario: &str, results: &str) -> Outcome {
    let name = format!("pollux-behaviour-{}-{:?}", std::process::id(), std::thread::current().id());
    let dir = std::env::temp_dir().join(name.replace(['(', ')'], ""));
    for sub in ["scenarios", "results"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    std::fs::write(dir.join("scenarios/made-up.json"), scenario).unwrap();
    std::fs::write(dir.join("results/made-up.jsonl"), results).unwrap();
    let outcome = table::play(&dir, "made-up");
    std::fs::remove_dir_all(&dir).unwrap();
    outcome
}

#[test]
fn a_difference_is_meant_only_where_the_step_shows_its_kind() {
    let begin = r#"{"type":"begin","servers":{"10.2.0.11":"02:00:00:00:02:01"},"vips":["10.9.0.1"]}"#;
    let rules = r#""-A -u 10.9.0.1:53 -s rr","-a -u 10.9.0.1:53 -r 10.2.0.11:53 -i""#;
    let sent = "udp 10.1.0.1:5000 > 10.9.0.1:53 len=60 id=7 frag=48";
    let scenario = format!(r#"{{"rules":[{rules}],"steps":[{{"pkt":"c {sent}"}}]}}"#);
    // What the kernel does with pieces: outer packets that are pieces themselves.
    let piece = |to: &str, off: u32, len: u32| {
        format!(
            r#"{{"side":"s","to":"{to}","method":"tun","text":"ipip","ip":{{"v":4,"proto":"ipip","off":{off},"len":{len}}}}}"#
        )
    };
    let result = |to: &str| {
        let out = [piece(to, 0, 68), piece(to, 48, 60)].join(",");
        format!(r#"{{"type":"pkt","n":1,"side":"c","sent":"{sent}","verdict":"tun","out":[{out}]}}"#)
    };
    let right = play(&scenario, &format!("{begin}\n{}", result("10.2.0.11")));
    let Outcome::OnPurpose(why) = right else { panic!("not on purpose") };
    assert_eq!(why.len(), 1);
    let other = play(&scenario, &format!("{begin}\n{}", result("10.2.0.12")));
    assert!(matches!(other, Outcome::Differs(_)), "another server");
    let none = format!(r#"{{"type":"pkt","n":1,"side":"c","sent":"{sent}","verdict":"none","out":[]}}"#);
    assert!(matches!(play(&scenario, &format!("{begin}\n{none}")), Outcome::Differs(_)), "nothing");
    // A meant refusal is meant for that line alone.
    let scenario =
        r#"{"rules":[],"steps":[{"ipvsadm":"-A -u 10.9.0.8:5060 -p 60 --pe sip"},{"ipvsadm":"-A -t 10.9.0.8:80"}]}"#;
    let answer =
        |line: &str, rc: u32| format!(r#"{{"type":"ipvsadm","args":"{line}","rc":{rc},"stdout":"","stderr":""}}"#);
    let play_two = |rc| play(scenario, &format!("{begin}\n{}\n{}", answer("-A", 0), answer("-A", rc)));
    assert!(matches!(play_two(0), Outcome::OnPurpose(_)));
    assert!(matches!(play_two(255), Outcome::Differs(_)));
}

#[test]
fn refusals_that_are_meant_show_what_they_are() {
    let out = |side: &str, to: &str, ip: &str| {
        format!(r#"{{"side":"{side}","to":"{to}","method":"nat","text":"","ip":{{"v":4,{ip}}}}}"#)
    };
    let play = |sent: &str, out: &str| {
        let result = format!(r#"{{"type":"pkt","n":1,"side":"c","sent":"{sent}","verdict":"","out":[{out}]}}"#);
        played("", &format!(r#"{{"pkt":"c {sent}"}}"#), &result)
    };
    let piece = out("s", "10.2.0.11", r#""proto":"tcp","off":8,"len":28"#);
    let too_big = out("c", "10.3.0.2", r#""proto":"icmp","type":3,"code":4"#);
    let stamp = out("c", "10.3.0.2", r#""proto":"icmp","type":14,"code":0"#);
    for (sent, out, meant) in [
        ("tcp 10.1.0.1:4000 > 10.9.0.1:80 S len=9 frag=16", &piece, true),
        ("tcp 10.1.0.1:4000 > 10.9.0.1:80 S len=9 frag=24", &piece, false),
        ("tcp 10.1.0.1:4000 > 10.9.0.1:80 S len=3000 frag=1480 df", &too_big, true),
        ("tcp 10.1.0.1:4000 > 10.9.0.1:80 S len=3000 frag=1480", &too_big, false),
        ("tcp 10.1.0.1:4000 > 10.9.0.1:81 S len=3000 frag=1480 df", &too_big, false),
        ("icmp 10.1.0.1 > 10.9.0.1 type=13 len=12", &stamp, true),
        ("icmp 10.1.0.1 > 10.9.0.1 type=17 len=12", &stamp, false),
        ("icmp 10.1.0.1 > 10.9.0.1 type=13 len=12", &piece, false),
        ("x 10.1.0.1 > 10.9.0.1 len=12 proto=50", &piece, true),
        ("x 10.1.0.1 > 10.9.0.1 len=12 proto=52", &piece, false),
    ] {
        assert_eq!(matches!(play(sent, out), Outcome::OnPurpose(_)), meant, "{sent}: {out}");
    }
}

#[test]
fn the_player_takes_the_worlds_lines_however_they_are_written() {
    let begin = r#"{"type":"begin","servers":{"10.2.0.11":"02:00:00:00:02:01"},"vips":["10.9.0.1"]}"#;
    let scenario = r#"{"rules":["-A -f 7 -s rr","-a -f 7 -r 10.2.0.11 -g"],
        "sysctl":{"net.ipv4.vs.sync_threshold":"3 50","net.ipv4.ip_forward":1,"net.ipv4.conf.all.rp_filter":0},
        "setup":["iptables -w -t mangle -I PREROUTING 1 -i cli -p tcp -m multiport --dports 80,443 -j MARK --set-xmark 0x7/0xffffffff",
                 "sysctl -q -w net.ipv4.vs.sloppy_tcp=1 && echo \"1\" >/proc/sys/net/ipv4/vs/conn_reuse_mode"],
        "steps":[{"sh":"echo 0 > /proc/sys/net/ipv4/vs/sloppy_tcp; sysctl -w net.ipv4.vs.expire_nodest_conn = 1"},
                 {"sh":"ipvsadm-save -n > /tmp/rules && ipvsadm -C; ipvsadm -R < /tmp/rules"},
                 {"sh":"ipvsadm -D -f 7; cat /tmp/rules | ipvsadm -R; ipvsadm -Sn | ipvsadm-restore"},
                 {"sh":"ipvsadm -D -f 7; echo '-A -f 7 -s rr\\n-a -f 7 -r 10.2.0.11 -g' | ipvsadm -R"},
                 {"note":""},{"sleep":0.5},{"sh":"ip -s link; sysctl net.ipv4.vs.sloppy_tcp"},
                 {"pkt":"c tcp 10.1.0.1:5000 > 10.9.0.1:443 S"}]}"#;
    let ip = r#"{"v":4,"src":"10.1.0.1","dst":"10.9.0.1","ttl":63,"tos":0,"id":0,"len":40,"df":false,"ip_ok":true,
        "proto":"tcp","sport":5000,"dport":443,"seq":1000,"ack":0,"flags":"S","win":8192,"payload":0,"l4_ok":true}"#;
    let ip = ip.replace('\n', " ");
    let sent = "tcp 10.1.0.1:5000 > 10.9.0.1:443 S";
    let out = format!(r#"{{"side":"s","to":"10.2.0.11","method":"dr","text":"","ip":{ip}}}"#);
    let result = format!(r#"{{"type":"pkt","n":1,"side":"c","sent":"{sent}","verdict":"dr","out":[{out}]}}"#);
    match play(scenario, &format!("{begin}\n{result}")) {
        Outcome::Same => {}
        Outcome::Differs(found) => panic!("{found:#?}"),
        Outcome::OnPurpose(_) => panic!("on purpose"),
    }
}

/// Plays steps in a world of one NAT service of TCP port 80 and expects these verdicts of the packets among them, each
/// with what comes out as far as it is told.
fn played(extra: &str, steps: &str, results: &str) -> Outcome {
    let begin = r#"{"type":"begin","servers":{"10.2.0.11":"02:00:00:00:02:01"},"vips":["10.9.0.1"]}"#;
    let rules = r#""-A -t 10.9.0.1:80 -s rr","-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m""#;
    play(&format!(r#"{{"rules":[{rules}],{extra}"steps":[{steps}]}}"#), &format!("{begin}\n{results}"))
}

#[test]
fn the_world_may_change_while_a_scenario_runs() {
    let silent = |side: &str, sent: &str| {
        format!(r#"{{"type":"pkt","n":1,"side":"{side}","sent":"{sent}","verdict":"none","out":[]}}"#)
    };
    // An address is nobody's, then a VIP, from which nobody else sends.
    let stolen = "tcp 10.9.0.7:80 > 10.1.0.1:4000 S";
    let step = format!(r#"{{"pkt":"s {stolen}"}}"#);
    let add = r#"{"sh":"ip addr add 10.9.0.7/32 dev lo"}"#;
    assert!(matches!(played("", &step, &silent("s", stolen)), Outcome::Differs(_)));
    assert!(matches!(played("", &format!("{add},{step}"), &silent("s", stolen)), Outcome::Same));
    let gone = format!(r#"{add},{{"sh":"ip address del 10.9.0.7/32 dev lo; true"}},{step}"#);
    assert!(matches!(played("", &gone, &silent("s", stolen)), Outcome::Differs(_)));
    // A link becomes narrower: what is larger than that and may not be cut is refused.
    let big = "tcp 10.1.0.1:4000 > 10.9.0.1:80 SP len=1300 df";
    let ip = r#"{"v":4,"src":"10.1.0.1","dst":"10.2.0.11","ttl":63,"tos":0,"id":0,"len":1340,"df":true,"ip_ok":true,
        "proto":"tcp","sport":4000,"dport":80,"seq":1000,"ack":0,"flags":"SP","win":8192,"payload":1300,"l4_ok":true}"#;
    let out = format!(r#"{{"side":"s","to":"10.2.0.11","method":"nat","text":"","ip":{}}}"#, ip.replace('\n', " "));
    let fits = format!(r#"{{"type":"pkt","n":1,"side":"c","sent":"{big}","verdict":"nat","out":[{out}]}}"#);
    let narrow = |mtu: u32| format!(r#"{{"sh":"ip link set dev srv mtu {mtu}"}},{{"pkt":"c {big}"}}"#);
    assert!(matches!(played("", &narrow(1340), &fits), Outcome::Same));
    assert!(matches!(played("", &narrow(1339), &fits), Outcome::Differs(_)));
    // Another gateway, another station.
    let routed =
        r#"{"sh":"ip route replace default via 10.3.0.9 && ip neigh add 10.3.0.9 lladdr 02:00:00:00:02:01 dev cli"}"#;
    let strange = "tcp 10.2.0.99:80 > 10.1.0.1:4000 S";
    let steps = format!(r#"{routed},{{"pkt":"s {strange}"}}"#);
    let ip = r#"{"v":4,"src":"10.2.0.99","dst":"10.1.0.1","ttl":63,"tos":0,"id":0,"len":40,"df":false,"ip_ok":true,
        "proto":"tcp","sport":80,"dport":4000,"seq":1000,"ack":0,"flags":"S","win":8192,"payload":0,"l4_ok":true}"#;
    let reply = |to: &str| {
        let out = format!(r#"{{"side":"c","to":"{to}","method":"","text":"","ip":{}}}"#, ip.replace('\n', " "));
        format!(r#"{{"type":"pkt","n":1,"side":"s","sent":"{strange}","verdict":"reply","out":[{out}]}}"#)
    };
    assert!(matches!(played("", &steps, &reply("10.2.0.11")), Outcome::Same));
    assert!(matches!(played("", &steps, &reply("10.2.0.12")), Outcome::Differs(_)));
}

#[test]
fn whether_a_service_exists_comes_before_its_scheduler() {
    let mut lab = Lab::new(&["-A -t 10.9.0.1:80 -s rr", "-A -f 7 -6"]);
    let unknown = (255, "Scheduler or persistence engine not found\n".to_owned());
    for (with, option) in
        [("-t 10.9.0.1:80", "-s nosuch"), ("-f 7 -6", "-s nosuch"), ("-t 10.9.0.1:80", "-p 9 --pe sip")]
    {
        assert_eq!(lab.tries(&format!("-A {with} {option}"), ""), (255, "Service already exists\n".into()));
        assert_eq!(lab.tries(&format!("-E {with} {option}"), ""), unknown);
    }
    for with in ["-u 10.9.0.1:80", "-f 7"] {
        assert_eq!(lab.tries(&format!("-A {with} -s nosuch"), ""), unknown);
        assert_eq!(lab.tries(&format!("-E {with} -s nosuch"), ""), (255, "No such service\n".into()));
    }
    // The line's own mistakes come first, and a rule set goes on after it.
    assert_eq!(lab.tries("-A -t 10.9.0.1:80 -s nosuch -w 3", "").0, 2);
    let lines =
        "-A -t 10.9.0.1:80 -s nosuch\n-E -t 10.9.0.2:80 -s nosuch\n-A -t 10.9.0.3:80 -s nosuch\n-A -t 10.9.0.4:80\n";
    let said = "Service already exists\nNo such service\nScheduler or persistence engine not found\n";
    assert_eq!(lab.tries("-R", lines), (0, said.into()));
    assert_eq!(lab.line("-Ln", "TCP 10.9.0.4"), "TCP 10.9.0.4:80 wlc");
}

#[test]
fn marks_may_be_taken_away_again() {
    let marked = "iptables -t mangle -A PREROUTING -d 10.9.0.1 -j MARK --set-mark 7";
    let mut lab = Lab::with(serde_json::json!({"setup": [marked]}), &["-A -f 7 -s rr", "-a -f 7 -r 10.2.0.11 -g"]);
    lab.expect(&[("c tcp 10.1.0.1:1 > 10.9.0.1:80 S", "dr 10.2.0.11")]);
    lab.sh("ip6tables -t mangle -F PREROUTING");
    lab.expect(&[("c tcp 10.1.0.1:2 > 10.9.0.1:80 S", "dr 10.2.0.11")]);
    lab.sh("iptables -w -t mangle -F");
    lab.expect(&[("c tcp 10.1.0.1:3 > 10.9.0.1:80 S", "reply")]);
}

#[test]
fn what_the_recordings_kernel_had_not_is_meant() {
    let answer = |line: &str, rc: i32, said: &str| {
        format!(r#"{{"type":"ipvsadm","args":"{line}","rc":{rc},"stdout":"","stderr":"{said}"}}"#)
    };
    let line = "-A -t 10.9.0.2:80 -s twos";
    let step = format!(r#"{{"ipvsadm":"{line}"}},{{"ipvsadm":"-a -t 10.9.0.2:80 -r 10.2.0.11:80"}}"#);
    let refused = answer(line, 255, r"Scheduler or persistence engine not found\n");
    let then = |said: &str| format!("{refused}\n{}", answer("-a", 255, said));
    assert!(matches!(played("", &step, &then(r"Service not defined\n")), Outcome::OnPurpose(_)));
    assert!(matches!(played("", &step, &then(r"No such destination\n")), Outcome::Differs(_)));
    // Counters that stand still, and those that were made up.
    let syn = "tcp 10.1.0.1:4000 > 10.9.0.1:80 S badsum";
    let steps = format!(r#"{{"burst":"c {syn}"}},{{"show":"-Ln --stats"}}"#);
    let listing = |conns: u32| {
        let head = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  -> RemoteAddress:Port\n";
        let row = |name: &str| format!("{name}{conns:>9}{conns:>9}        0{:>9}        0\n", 40 * conns);
        let text = format!(
            "{head}{}{}",
            row(&format!("{:<33}", "TCP  10.9.0.1:80")),
            row(&format!("  -> {:<28}", "10.2.0.11:80"))
        );
        serde_json::json!({"type": "show", "args": "-Ln --stats", "rc": 0, "stdout": text, "stderr": ""}).to_string()
    };
    let still = r#""sysctl":{"net.ipv4.vs.run_estimation":0},"#;
    assert!(matches!(played("", &steps, &listing(1)), Outcome::Same));
    assert!(matches!(played(still, &steps, &listing(0)), Outcome::OnPurpose(_)));
    assert!(matches!(played(still, &steps, &listing(2)), Outcome::Differs(_)));
    assert!(matches!(played("", &steps, &listing(0)), Outcome::Differs(_)));
}

#[test]
fn outcomes_survive_being_written() {
    let all = Outcome::OnPurpose(Purpose::ALL.into_iter().collect());
    for outcome in [Outcome::Same, all, Outcome::Differs(vec!["a \"b\"".into(), "c".into()])] {
        let read = Outcome::read(&outcome.written()).expect("an outcome");
        assert_eq!(read.written(), outcome.written());
    }
    assert!(Outcome::read("").is_none() && Outcome::read("{}").is_none());
}

#[test]
fn what_the_player_does_not_know_differs_and_says_why() {
    let begin = r#"{"type":"begin","servers":{},"vips":["10.9.0.1"]}"#;
    for (scenario, results, why) in [
        (r#"{"rules":[],"steps":[{"dance":1}]}"#, "", "not known"),
        (r#"{"rules":[],"steps":[{"fast":1,"tempo":2}]}"#, "", "`tempo`"),
        (r#"{"rules":[],"steps":[],"mtu_dmz":9000}"#, "", "`mtu_dmz`"),
        (r#"{"rules":[],"steps":[{"sh":"ip link set srv mtu 9000"}]}"#, "", "higher MTUs"),
        (r#"{"rules":[],"steps":[{"sh":"ip link set srv down"}]}"#, "", "not understood"),
        (r#"{"rules":[],"steps":[{"sh":"ip rule add fwmark 1 table 100"}]}"#, "", "not understood"),
        (r#"{"rules":[],"steps":[],"sysctl":{"net.ipv4.vs.nosuch":1}}"#, "", "`nosuch`"),
        (r#"{"rules":[],"steps":[],"setup":["nft add table x"]}"#, "", "nft add table"),
        (r#"{"rules":["-A -t 10.9.0.1:80 -s nosuch"],"steps":[]}"#, "", "is refused"),
        (r#"{"rules":["-A --warp 9"],"steps":[]}"#, "", "is refused"),
        (r#"{"rules":[],"steps":[{"show":"-Ln"}]}"#, "", "the recording ends"),
        (r#"{"rules":[],"steps":[{"burst":"c dccp 10.1.0.1:1 > 10.9.0.1:80"}]}"#, "", "not understood"),
        (r#"{"rules":[],"steps":[{"burst":"x tcp 10.1.0.1:1 > 10.9.0.1:80 S"}]}"#, "", "no side"),
        (r#"{"rules":[],"steps":[{"burst":"c icmp 10.1.0.1 > 10.9.0.1 type=3 inner=last"}]}"#, "", "not sent before"),
        (
            r#"{"rules":[],"steps":[]}"#,
            r#"{"type":"pkt","n":1,"side":"c","sent":"tcp 10.1.0.1:1 > 10.9.0.1:80 S","verdict":"none","out":[]}"#,
            "goes on after the last step",
        ),
        ("{", "", "cannot be played"),
    ] {
        let Outcome::Differs(found) = play(scenario, &format!("{begin}\n{results}")) else {
            panic!("taken: {scenario}");
        };
        assert!(found.iter().any(|f| f.contains(why)), "{scenario}: {found:?}");
    }
    let empty = play(r#"{"rules":[],"steps":[{"note":"nothing"},{"sh":"cat /proc/net/ip_vs"}]}"#, begin);
    assert!(matches!(empty, Outcome::Same));
}
