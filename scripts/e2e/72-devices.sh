#!/usr/bin/env bash
# The same daemon on other devices than TAP: net_af_packet and net_af_xdp on network interfaces of
# the kernel, and net_memif, whose other end is testpmd, which passes all on to such an interface;
# with buffers and queues as the daemon chooses them.
E2E_NO_DAEMON=1
. "$(dirname "$0")/start.sh" ethtool dpdk-dev
whole_checksums
director_cable afc0 plxc0
director_cable afs0 plxs0
in_ns dir ip link set plxc0 master brc
in_ns dir ip link set plxs0 master brs
plug_taps() { :; }

on_device() {
    if [ "$1" = net_memif ]; then
        daemon_config 2 | sed -e "s|net_tap1,iface=plxs0|net_memif0,role=server,socket=$WORLD_DIR/memif,socket-abstract=no|" \
            -e "s/net_tap0,iface=plxc0/net_af_packet0,iface=afc0/"
    else
        daemon_config 2 | sed -e "s/net_tap\([01]\),iface=plx\(..\)/$1\1,iface=af\2/"
    fi
    daemon_services
}

# The far end of the shared memory.
passes_on() {
    start_in dir "$WORLD_DIR/testpmd.log" dpdk-testpmd -l 0,1 --no-huge -m 256 --no-pci --no-telemetry \
        --file-prefix "$WORLD-far" --vdev "net_memif0,role=client,socket=$WORLD_DIR/memif,socket-abstract=no" \
        --vdev net_af_packet1,iface=afs0 -- --forward-mode=io --auto-start --no-mlockall --total-num-mbufs=8192 --stats-period=1
    wait_until 10 grep -q 'Port statistics' "$WORLD_DIR/testpmd.log" || die "testpmd did not start: $(tail -n 5 "$WORLD_DIR/testpmd.log")"
}

for driver in net_af_packet net_af_xdp net_memif; do
    on_device "$driver" >"$WORLD_DIR/pollux.toml"
    daemon_start
    front=$driver
    if [ "$driver" = net_memif ]; then
        front=net_af_packet
        passes_on
    fi
    check_equal "$driver: serves its ports" "$front $driver" "$(ctl --json ports | jq -r '[.ports[].facts.driver] | join(" ")')"
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
