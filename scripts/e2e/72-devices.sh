#!/usr/bin/env bash
# The same daemon on other devices than TAP: net_af_packet and net_af_xdp on network interfaces of
# the kernel, with buffers and queues as the daemon chooses them.
E2E_NO_DAEMON=1
. "$(dirname "$0")/start.sh" ethtool
whole_checksums
cable afc0 plxc0
cable afs0 plxs0
in_ns dir ip link set plxc0 master brc
in_ns dir ip link set plxs0 master brs
plug_taps() { :; }

on_device() {
    daemon_config 2 | sed -e "s/net_tap\([01]\),iface=plx\(..\)/$1\1,iface=af\2/"
    daemon_services
}

for driver in net_af_packet net_af_xdp; do
    on_device "$driver" >"$WORLD_DIR/pollux.toml"
    daemon_start
    check_equal "$driver: serves both ports" "$driver $driver" "$(ctl --json ports | jq -r '[.ports[].facts.driver] | join(" ")')"
    for vip in "${VIPS[@]}"; do
        answers=$(requests "$vip" 60)
        check_equal "$driver, $vip: 60 requests, 60 answers from all three servers" "60 3" \
            "$(grep -Ec '^real[123] ' <<<"$answers") $(awk '{ print $1 }' <<<"$answers" | sort -u | wc -l)"
    done
    check "$driver: a megabyte down arrives whole" cmp "$WORLD_DIR/pages/1m" <(in_ns cl curl -s --max-time 20 "http://$VIP_NAT/1m")
    daemon_stop
    check_equal "$driver: the daemon stops cleanly" 0 "$DAEMON_STATUS"
done
test_done
