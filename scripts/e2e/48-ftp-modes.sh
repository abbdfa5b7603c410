#!/usr/bin/env bash
# FTP with Debian's ftp and vsftpd through each mode in both families. NAT follows the control
# connection. With direct routing and tunnels the server knows the VIP, so all it takes is
# that persistence leads the data connection to the same server, which may also open one to
# the client from port 20; with full NAT that is so for EPSV, which names no address.
. "$(dirname "$0")/modes.sh"
E2E_CONFIG=ftp_config
ftp_service() {
    if [ "$1" = nat ]; then
        service_for "$1" "$2" 'address = "tcp:@:21"' 'scheduler = "rr"' 'ftp = true'
    else
        mark_for "$1" "$2" 0 'rules = ["tcp:@:20-21", "tcp:@:30000-30099"]' 'scheduler = "rr"' 'persistence = 300'
    fi
}
ftp_config() {
    modes_config
    everywhere ftp_service
}
. "$(dirname "$0")/start.sh" vsftpd ftp
modes_world

for n in "${REALS[@]}"; do
    dir="$WORLD_DIR/ftp$n"
    mkdir -p "$dir/pub" "$dir/empty" && cp "$WORLD_DIR/pages/1m" "$dir/pub/1m" && chmod -R a+rX "$WORLD_DIR"
    cat >"$WORLD_DIR/vsftpd$n.conf" <<CONFIG
background=NO
listen_ipv6=YES
anonymous_enable=YES
anon_root=$dir/pub
secure_chroot_dir=$dir/empty
pasv_min_port=30000
pasv_max_port=30099
connect_from_port_20=YES
seccomp_sandbox=NO
CONFIG
    start_in "r$n" "$WORLD_DIR/vsftpd$n.log" vsftpd "$WORLD_DIR/vsftpd$n.conf"
    wait_until 10 in_ns "r$n" bash -c "ss -ltn | grep -q ':21 '" || die "vsftpd did not start: $(tail -n 3 "$WORLD_DIR/vsftpd$n.log")"
done

# fetch VIP OPTION…: a megabyte; fails unless it arrives whole.
fetch() {
    local url
    url="ftp://$(bracketed "$1")/1m"
    shift
    rm -f "$WORLD_DIR/got"
    in_ns cl timeout 20 ftp "$@" -o "$WORLD_DIR/got" "$url" </dev/null || return 1
    cmp "$WORLD_DIR/got" "$WORLD_DIR/pages/1m"
}

ftp_through() {
    local what="$1 IPv$2" address
    address=$(vip "$1" "$2")
    check "$what: passive, a megabyte" fetch "$address"
    # The client's own address means nothing to a server that sees another.
    [ "$1" = full-nat ] || check "$what: active, a megabyte" fetch "$address" -A
}
everywhere ftp_through
test_done
