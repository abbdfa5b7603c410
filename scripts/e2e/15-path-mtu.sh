#!/usr/bin/env bash
# What does not fit: a tunnel's header makes full-sized packets too big, and the client is
# told so («fragmentation needed», with the right MTU); the upload then arrives whole.
. "$(dirname "$0")/start.sh" tcpdump

upload() {
    local code
    code=$(in_ns cl curl -s --max-time 20 -o /dev/null -w '%{http_code} %{size_upload}' --data-binary "@$WORLD_DIR/pages/1m" "http://$1/")
    [ "$code" = "200 1048576" ] || { echo "curl: $code" && return 1; }
}

start_in cl "$WORLD_DIR/icmp" tcpdump -nnvi eth0 -l 'icmp[0] == 3 and icmp[1] == 4'
wait_until 5 grep -q 'listening on' "$WORLD_DIR/icmp"
for mode in nat dr ipip; do
    vip=VIP_${mode^^}
    check "$mode: a megabyte up arrives whole" upload "${!vip}"
done
wait_until 3 grep -q 'need to frag' "$WORLD_DIR/icmp"
check_match "the client was told the MTU inside the tunnel, 1480" 'need to frag \(mtu 1480\)' "$(cat "$WORLD_DIR/icmp")"
check_equal "nothing else was told" 0 "$(grep 'need to frag' "$WORLD_DIR/icmp" | grep -vc 'mtu 1480')"
check_at_least "and it was counted" 1 "$(drops too_big)"
test_done
