# One VIP for each forwarding mode and family, for tests that do the same with all of them
# (sourced before start.sh; the functions are for the configuration and what comes after).
#
#   nat, full-nat, dr   real servers of the VIP's family
#   ipip                tunnels within a family: IPIP and 6in6
#   cross               tunnels between the families: 4in6 and 6in4
# shellcheck shell=bash

MODES=(nat full-nat dr ipip cross)
FAMILIES=(4 6)
# The real servers that services get, and their port, if it is not the service's.
SERVERS=(1 2 3)
SERVER_PORT=
LOCAL_IP=10.0.0.200
LOCAL_IP6=2001:db8:2::200

# number_of MODE: prints 0 for the first.
number_of() {
    local n
    for n in "${!MODES[@]}"; do
        [ "${MODES[n]}" != "$1" ] || printf '%d\n' "$n"
    done
}

# vip MODE FAMILY: prints the VIP.
vip() {
    local n=$((50 + $(number_of "$1")))
    if [ "$2" = 4 ]; then printf '198.51.100.%d\n' "$n"; else printf '2001:db8:1::%d\n' "$n"; fi
}

# bracketed ADDRESS: as it stands before a port.
bracketed() {
    if [[ $1 = *:* ]]; then printf '[%s]\n' "$1"; else printf '%s\n' "$1"; fi
}

# server_address MODE FAMILY N: prints the address by which real server N serves that VIP.
server_address() {
    local six=$2
    [ "$1" != cross ] || six=$((10 - six))
    if [ "$six" = 4 ]; then real_ip "$3"; else real_ip6 "$3"; fi
}

# modes_config: prints what daemon_config6 does, and the local addresses of full NAT.
modes_config() {
    # shellcheck source=world6.sh
    . "$E2E_DIR/world6.sh"
    daemon_config6
    printf '\n[full_nat]\naddresses = ["%s", "%s"]\n' "$LOCAL_IP" "$LOCAL_IP6"
}

# service_for MODE FAMILY LINE…: prints a service with the real servers of SERVERS. In the LINEs @ is
# the VIP, as it stands before a port.
service_for() {
    local mode=$1 family=$2 at name=$1 n server
    shift 2
    at=$(bracketed "$(vip "$mode" "$family")")
    [ "$mode" != cross ] || name=ipip
    printf '\n[[service]]\n'
    printf '%s\n' "${@//@/$at}"
    for n in "${SERVERS[@]}"; do
        server=$(server_address "$mode" "$family" "$n")
        [ -z "$SERVER_PORT" ] || server=$(bracketed "$server"):$SERVER_PORT
        printf '\n[[service.server]]\naddress = "%s"\nmode = "%s"\n' "$server" "$name"
    done
}

# mark_for MODE FAMILY NUMBER LINE…: the same for a mark, whose number is made from NUMBER (0 to 9).
mark_for() {
    local mode=$1 family=$2 number=$3 six=
    shift 3
    [ "$family" = 4 ] || six=6
    service_for "$mode" "$family" "address = \"fwm$six:$((100 + 10 * $(number_of "$mode") + number))\"" "$@"
}

# everywhere FUNCTION [ARGUMENT…]: calls it with each MODE and FAMILY in front.
everywhere() {
    local what=$1 mode family
    shift
    for family in "${FAMILIES[@]}"; do
        for mode in "${MODES[@]}"; do
            "$what" "$mode" "$family" "$@"
        done
    done
}

# modes_world: after start.sh: IPv6, and the VIPs on the servers that answer by themselves.
modes_world() {
    local mode n
    # shellcheck source=world6.sh
    . "$E2E_DIR/world6.sh"
    world6 "$(vip dr 6)" "$(vip ipip 6)" "$(vip cross 6)"
    for n in "${REALS[@]}"; do
        for mode in dr ipip cross; do
            in_ns "r$n" ip addr add "$(vip "$mode" 4)/32" dev lo
        done
    done
}
