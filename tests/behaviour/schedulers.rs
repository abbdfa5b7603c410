//! Order of servers, weights and thresholds.

use pollux_tests::oracle::lab::Lab;

/// A TCP service with servers 10.2.0.11 and so on of these weights, in order of addition.
fn service(scheduler: &str, mode: &str, weights: &[u32]) -> Lab {
    let mut rules = vec![format!("-A -t 10.9.0.1:80 -s {scheduler}")];
    for (n, w) in weights.iter().enumerate() {
        rules.push(format!("-a -t 10.9.0.1:80 -r 10.2.0.{}:80 {mode} -w {w}", 11 + n));
    }
    Lab::new(&rules.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn the_newest_is_tried_first_and_equals_take_turns() {
    for (scheduler, weights, want) in [
        ("rr", &[1, 1, 1, 1][..], "14 13 12 11 14 13"),
        ("rr", &[7, 0, 1], "13 11 13 11 13 11"),
        // The pass that the first server began goes on when the second is added.
        ("wrr", &[3, 1], "12 11 11 11 12 11"),
        ("wrr", &[2, 4], "12 11 12 12 11 12"),
        ("lc", &[5, 1], "12 11 12 11 12 11"),
        ("wlc", &[2, 1], "12 11 11 12 11 11"),
        ("sed", &[1, 2], "12 12 11 12 12 11"),
        ("nq", &[1, 2], "12 11 12 12 12 11"),
        ("fo", &[3, 1, 3], "13 13 13 13 13 13"),
        ("ovf", &[1, 1], "12 12 11 11 - -"),
        ("ovf", &[1, 3], "12 12 12 12 11 11"),
    ] {
        for mode in ["-m", "-g", "-i"] {
            let got = service(scheduler, mode, weights).flows("10.1.0.1", 20000, 6, "10.9.0.1:80");
            assert_eq!(got, want, "{scheduler} {weights:?} {mode}");
        }
    }
}

#[test]
fn large_weights_share_as_their_ratio_says() {
    for (scheduler, weights, want) in [
        ("wrr", &[100_000, 50_000][..], "12 11 11 12 11 11"),
        ("wlc", &[2_000_000_000, 1_000_000_000], "12 11 11 12 11 11"),
        ("sed", &[1_000_000, 2_000_000], "12 12 11 12 12 11"),
        ("fo", &[65_536, 65_537, 65_535], "12 12 12 12 12 12"),
    ] {
        let got = service(scheduler, "-m", weights).flows("10.1.0.1", 20000, 6, "10.9.0.1:80");
        assert_eq!(got, want, "{scheduler} {weights:?}");
    }
    let mut lab = service("wlc", "-m", &[2_147_483_647]);
    assert!(lab.line("-Ln", "-> 10.2.0.11:80").starts_with("-> 10.2.0.11:80 Masq 2147483647 "));
    assert!(lab.show("-Sn").contains("-r 10.2.0.11:80 -m -w 2147483647\n"));
}

#[test]
fn a_full_server_is_left_out_until_it_is_below_three_quarters_or_the_lower_threshold() {
    // How many of its four connections must end.
    for (thresholds, ends) in [("-x 4", 2), ("-x 4 -y 4", 1), ("-x 4 -y 2", 3)] {
        let server = format!("-a -t 10.9.0.1:80 -r 10.2.0.11:80 -m {thresholds}");
        let mut lab = Lab::new(&["-A -t 10.9.0.1:80 -s rr", &server]);
        assert_eq!(lab.flows("10.1.0.1", 100, 5, "10.9.0.1:80"), "11 11 11 11 -", "{thresholds}");
        for n in 0..ends {
            assert_eq!(lab.flows("10.1.0.1", 200, 1, "10.9.0.1:80"), "-", "{thresholds}, {n} ended");
            lab.send(&format!("s tcp 10.2.0.11:80 > 10.1.0.1:{} R", 100 + n));
            lab.sleep(13);
        }
        let want = "11 ".repeat(ends) + "-";
        assert_eq!(lab.flows("10.1.0.1", 300, ends as u16 + 1, "10.9.0.1:80"), want, "{thresholds}");
    }
}

#[test]
fn hashing_follows_the_client_or_the_destination() {
    let mut rules = vec!["-A -t [2001:db8:9::1]:80 -s sh -b sh-port".to_owned()];
    rules.extend((1..4).map(|n| format!("-a -t [2001:db8:9::1]:80 -r [2001:db8:2::1{n}]:80 -m")));
    let mut lab = Lab::new(&rules.iter().map(String::as_str).collect::<Vec<_>>());
    let first = lab.flows("2001:db8:1::1", 1000, 32, "2001:db8:9::1.80");
    assert!(["11", "12", "13"].iter().all(|s| first.contains(s)), "{first}");
    // Neither other clients' connections nor time change it.
    lab.flows("2001:db8:1::2", 1000, 5, "2001:db8:9::1.80");
    lab.sleep(1000);
    assert_eq!(lab.flows("2001:db8:1::1", 1000, 32, "2001:db8:9::1.80"), first);
    // A drained server's slots are refused; with fallback they are another's.
    lab.ipvsadm("-e -t [2001:db8:9::1]:80 -r [2001:db8:2::12]:80 -m -w 0");
    lab.sleep(1000);
    // Weight 0 is one slot in a row as well, so that the rest stays.
    assert_eq!(lab.flows("2001:db8:1::1", 1000, 32, "2001:db8:9::1.80"), first.replace("12", "-"));
}
