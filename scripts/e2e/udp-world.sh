# A world with one UDP service for each forwarding mode, and servers that echo (sourced, in the
# place of start.sh).
# shellcheck shell=bash
E2E_CONFIG=udp_config
udp_config() {
    daemon_config 2
    service "udp:$VIP_NAT:7000" nat 7001
    service "udp:$VIP_DR:7000" dr 7000
    service "udp:$VIP_IPIP:7000" ipip 7000
}
# shellcheck source=start.sh
. "$(dirname "${BASH_SOURCE[0]}")/start.sh" python3

for n in "${REALS[@]}"; do
    for port in 7000 7001; do
        start_in "r$n" "$WORLD_DIR/udp$n.$port" /usr/bin/python3 "$E2E_DIR/udp-echo.py" serve "real$n" "$port"
        wait_until 5 grep -q ready "$WORLD_DIR/udp$n.$port"
    done
done
