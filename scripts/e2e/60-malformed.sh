#!/usr/bin/env bash
# Malformed packets: each kind is counted under its own reason, the daemon goes on, and
# requests between them are answered.
. "$(dirname "$0")/start.sh" python3-scapy

count=20
mac=$(api GET /v1/ports | jq -r '[.. | objects | select(.name? == "front") | .mac] | first')
check_match "the front port has an Ethernet address" '^([0-9a-f]{2}:){5}' "$mac"

api GET /v1/stats >"$WORLD_DIR/before"
in_ns cl /usr/bin/python3 "$E2E_DIR/malformed.py" eth0 "$mac" "$VIP_NAT" $count >"$WORLD_DIR/sent" 2>"$WORLD_DIR/python" ||
    fail "sending: $(tail -n 3 "$WORLD_DIR/python")"
sleep 0.5
api GET /v1/stats >"$WORLD_DIR/after"

# difference REASON: packets dropped for it meanwhile.
difference() {
    jq -s --arg r "$1" 'map([.drops[] | select(.reason == $r) | .packets] | add // 0) | .[1] - .[0]' "$WORLD_DIR/before" "$WORLD_DIR/after"
}
while read -r reason sent; do
    check_at_least "$reason: $sent sent, all counted" "$sent" "$(difference "$reason")"
done < <(awk '{ n[$1] += $2 } END { for (r in n) print r, n[r] }' "$WORLD_DIR/sent" | sort)

check_equal "the daemon is the same process" yes "$(alive "$DAEMON_PID" && echo yes || echo no)"
for mode in NAT DR IPIP; do
    vip=VIP_$mode
    check_equal "$mode: requests are answered" 30 "$(requests "${!vip}" 30 | grep -c '^real')"
done

# Noise: random bytes behind a right Ethernet header, then the same question.
in_ns cl /usr/bin/python3 - "$mac" <<'PYTHON'
import os, random, socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(("eth0", 0))
mac = bytes.fromhex(sys.argv[1].replace(":", ""))
random.seed(7)
for n in range(20000):
    kind = random.choice([b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00"])
    link.send(mac + b"\x02\0\0\0\x99\x01" + kind + (b"\x45" if n % 2 else b"") + os.urandom(random.randrange(0, 1400)))
PYTHON
check_equal "after 20,000 frames of noise requests are answered" 30 "$(requests "$VIP_NAT" 30 | grep -c '^real')"
check_equal "by the same process" yes "$(alive "$DAEMON_PID" && echo yes || echo no)"
test_done
