# A world with one UDP service for each forwarding mode and family, and servers that echo
# (sourced, in the place of start.sh).
# shellcheck shell=bash
# shellcheck source=modes.sh
. "$(dirname "${BASH_SOURCE[0]}")/modes.sh"
E2E_CONFIG=udp_config
udp_service() {
    # Modes that translate ports do so.
    [[ $1 != *nat ]] || SERVER_PORT=7001
    service_for "$1" "$2" 'address = "udp:@:7000"' 'scheduler = "rr"'
    SERVER_PORT=
}
udp_config() {
    modes_config
    everywhere udp_service
}
# shellcheck source=start.sh
. "$(dirname "${BASH_SOURCE[0]}")/start.sh" python3
modes_world

for n in "${REALS[@]}"; do
    for port in 7000 7001; do
        start_in "r$n" "$WORLD_DIR/udp$n.$port" /usr/bin/python3 "$E2E_DIR/udp-echo.py" serve "real$n" "$port"
        wait_until 5 grep -q ready "$WORLD_DIR/udp$n.$port"
    done
done
