#!/usr/bin/env bash
# Full NAT, the client's address told to servers, and FTP through NAT, between real ends:
# nginx reads the PROXY protocol's header, vsftpd and Python's ftplib the data connections.
E2E_CONFIG=full_nat
FULL=198.51.100.40
PROXY=198.51.100.41
TOA=198.51.100.42
PLAIN_PROXY=198.51.100.43
FTP=198.51.100.44
LOCAL=10.0.0.200
full_nat() {
    daemon_config 2
    printf '\n[full_nat]\naddresses = ["%s"]\nports = "2000-60999"\n' "$LOCAL"
    service "tcp:$FULL:80" full-nat 8080
    service "tcp:$PROXY:80" full-nat 8090 | sed 's/^scheduler/client_address = "proxy"\n&/'
    service "tcp:$TOA:80" full-nat 8080 | sed 's/^scheduler/client_address = "toa"\n&/'
    service "tcp:$PLAIN_PROXY:80" nat 8090 | sed 's/^scheduler/client_address = "proxy"\n&/'
    service "tcp:$FTP:21" nat 21 | sed 's/^scheduler/ftp = true\n&/'
}
. "$(dirname "$0")/start.sh" vsftpd python3

# A second nginx that expects the header, and an FTP server, beside each real server.
for n in "${REALS[@]}"; do
    dir="$WORLD_DIR/extra$n"
    mkdir -p "$dir/pub" "$dir/empty" && cp "$WORLD_DIR/pages/1m" "$dir/pub/1m" && chmod -R a+rX "$WORLD_DIR"
    nginx_config "$n" | sed -e "s/nginx$n.pid/proxy$n.pid/; s/remote_addr/proxy_protocol_addr/" \
        -e '/listen 8080/d; /listen \[::\]/d; s/listen 80 .*/listen 8090 proxy_protocol;/' >"$WORLD_DIR/proxy$n.conf"
    start_in "r$n" "$WORLD_DIR/proxy$n.log" nginx -e "$WORLD_DIR/proxy$n.error" -c "$WORLD_DIR/proxy$n.conf"
    cat >"$WORLD_DIR/vsftpd$n.conf" <<CONFIG
background=NO
listen=YES
anonymous_enable=YES
anon_root=$dir/pub
secure_chroot_dir=$dir/empty
port_enable=YES
pasv_enable=YES
connect_from_port_20=YES
seccomp_sandbox=NO
CONFIG
    start_in "r$n" "$WORLD_DIR/vsftpd$n.log" vsftpd "$WORLD_DIR/vsftpd$n.conf"
done
for n in "${REALS[@]}"; do
    wait_until 10 in_ns "r$n" bash -c "ss -ltn | grep -q ':8090 ' && ss -ltn | grep -q ':21 '" ||
        die "the servers of real $n did not start: $(tail -n 3 "$WORLD_DIR"/proxy"$n".{log,error} "$WORLD_DIR/vsftpd$n.log")"
done

answers=$(requests "$FULL" 300)
check_equal "full NAT: 300 requests, 300 answers" 300 "$(grep -Ec '^real[123] ' <<<"$answers")"
check_equal "from all three servers" 3 "$(awk '{ print $1 }' <<<"$answers" | sort -u | wc -l)"
check_equal "which saw the local address" "$LOCAL" "$(awk '{ print $2 }' <<<"$answers" | sort -u)"
sums=$(md5sum <"$WORLD_DIR/pages/1m")
check_equal "a megabyte comes through" "$sums" "$(in_ns cl curl -s "http://$FULL/1m" | md5sum)"

for vip in "$PROXY" "$PLAIN_PROXY"; do
    answers=$(requests "$vip" 100)
    check_equal "$vip: 100 requests, 100 answers" 100 "$(grep -Ec '^real[123] ' <<<"$answers")"
    check_equal "whose servers were told the client's address" "$CLIENT_IP" "$(awk '{ print $2 }' <<<"$answers" | cut -d: -f1 | sort -u)"
    check_equal "a megabyte comes through" "$sums" "$(in_ns cl curl -s "http://$vip/1m" | md5sum)"
    answer=$(in_ns cl curl -s --max-time 10 --data-binary "@$WORLD_DIR/pages/1m" "http://$vip/")
    check_match "and another goes up" "^real[123] $CLIENT_IP" "$answer"
done

answers=$(requests "$TOA" 100)
check_equal "with the TCP option: 100 requests, 100 answers" 100 "$(grep -Ec '^real[123] ' <<<"$answers")"

cat >"$WORLD_DIR/ftp.py" <<'PYTHON'
import ftplib, hashlib, sys
for passive in (True, False, True, False):
    for force_pasv in (False, True):
        ftp = ftplib.FTP(sys.argv[1], timeout=10)
        if force_pasv:
            # PASV and PORT instead of EPSV and EPRT: what ftplib uses for IPv4.
            ftp.af = 2
        else:
            ftp.makepasv = lambda f=ftp: (f.host, ftplib.parse229(f.sendcmd("EPSV"), f.sock.getpeername())[1])
            ftp.sendport = lambda host, port, f=ftp: f.sendeprt(host, port)
        ftp.login()
        ftp.set_pasv(passive)
        for _ in range(2):
            digest = hashlib.md5()
            ftp.retrbinary("RETR 1m", digest.update)
            print(digest.hexdigest() + "  -", flush=True)
        ftp.quit()
PYTHON
got=$(in_ns cl timeout 60 python3 "$WORLD_DIR/ftp.py" "$FTP" 2>"$WORLD_DIR/ftp.error")
check_equal "FTP: 16 downloads, passive and active, in old words and new" 16 "$(grep -cF "$sums" <<<"$got")"
[ ! -s "$WORLD_DIR/ftp.error" ] || tail -n 3 "$WORLD_DIR/ftp.error"
test_done
