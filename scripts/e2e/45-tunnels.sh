#!/usr/bin/env bash
# The other tunnels, GRE and GUE with and without checksums, and all modes mixed in one
# service. The tunnel ends verify the checksums of what they unwrap.
E2E_CONFIG=tunnels
TUNNELS=(
    "198.51.100.31 gre { type = \"gre\" }"
    "198.51.100.32 gre-checksum { type = \"gre\", checksum = true }"
    "198.51.100.33 gue { type = \"gue\", port = 6080 }"
    "198.51.100.34 gue-checksum { type = \"gue\", port = 6080, checksum = \"udp\" }"
)
MIXED=198.51.100.35
tunnels() {
    local line vip name tunnel n
    daemon_config 2
    for line in "${TUNNELS[@]}"; do
        read -r vip name tunnel <<<"$line"
        printf '\n[[service]]   # %s\naddress = "tcp:%s:80"\nscheduler = "rr"\n' "$name" "$vip"
        for n in "${REALS[@]}"; do
            printf '\n[[service.server]]\naddress = "%s:80"\nmode = "tunnel"\ntunnel = %s\n' "$(real_ip "$n")" "$tunnel"
        done
    done
    cat <<CONFIG

[[service]]
address = "tcp:$MIXED:80"
scheduler = "rr"

[[service.server]]
address = "$(real_ip 1):8080"
mode = "nat"

[[service.server]]
address = "$(real_ip 2):80"
mode = "dr"

[[service.server]]
address = "$(real_ip 3):80"
mode = "ipip"
CONFIG
}
. "$(dirname "$0")/start.sh"

for n in "${REALS[@]}"; do
    for vip in 198.51.100.3{1,2,3,4,5}; do
        in_ns "r$n" ip addr add "$vip/32" dev lo
    done
done
for line in "${TUNNELS[@]}" "$MIXED mixed"; do
    read -r vip name _ <<<"$line"
    answers=$(requests "$vip" 60)
    check_equal "$name: 60 requests, 60 answers" 60 "$(grep -Ec '^real[123] ' <<<"$answers")"
    check_equal "$name: from all three servers" 3 "$(awk '{ print $1 }' <<<"$answers" | sort -u | wc -l)"
done
check_equal "the tunnel ends refused nothing" "" "$(grep -h refused "$WORLD_DIR"/tunnel*.log | head -n 3)"
test_done
