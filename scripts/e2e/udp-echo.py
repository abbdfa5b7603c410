#!/usr/bin/python3
"""UDP for the tests.

    udp-echo.py serve NAME PORT          answers each datagram with NAME, a space and the same
    udp-echo.py ask VIP PORT N [nosum] [size=BYTES] [tries=N]
                                         N datagrams from sockets of their own; prints the answers.
                                         What is too big for the way is lost, and the next try is
                                         cut smaller
"""
import socket
import sys


# From linux/in.h and linux/in6.h.
IP_MTU_DISCOVER, IP_PKTINFO, SO_NO_CHECK = 10, 8, 11


def serve(name, port):
    # One socket for both families. An answer comes from where the question went.
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    s.bind(("::", port))
    print("ready", flush=True)
    while True:
        data, ancillary, _, peer = s.recvmsg(65535, 256)
        # The address, without the interface it came in by: the way back may be another.
        found = {level: info for level, _, info in ancillary}
        if peer[0].startswith("::ffff:"):
            source = (socket.IPPROTO_IP, IP_PKTINFO, b"\0" * 4 + found[socket.IPPROTO_IP][8:12] + b"\0" * 4)
        else:
            source = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, found[socket.IPPROTO_IPV6][:16] + b"\0" * 4)
        s.sendmsg([name.encode() + b" " + data], [source], 0, peer)


def ask(vip, port, n, nosum, size, tries):
    for i in range(n):
        s = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM)
        if nosum:
            s.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        s.settimeout(1 if tries == 1 else 0.5)
        if ":" not in vip:
            # Larger than a packet, so that it comes and goes in fragments: no path MTU discovery.
            s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 0)
        # Connected: an answer from any other address is not taken.
        s.connect((vip, port))
        for attempt in range(tries):
            try:
                s.send((b"%d " % i).ljust(size, b"x"))
                answer = s.recv(65535)
                name, number = answer.split()[:2]
                if int(number) == i and len(answer) >= size:
                    print(name.decode(), flush=True)
                break
            except (OSError, ValueError) as e:
                if attempt + 1 == tries:
                    print("error", e, flush=True)
        s.close()


if sys.argv[1] == "serve":
    serve(sys.argv[2], int(sys.argv[3]))
else:
    options = dict(a.split("=") for a in sys.argv[5:] if "=" in a)
    size, tries = int(options.get("size", 1)), int(options.get("tries", 1))
    ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), "nosum" in sys.argv[5:], size, tries)
