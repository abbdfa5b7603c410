#!/usr/bin/python3
"""UDP for the tests.

    udp-echo.py serve NAME PORT          answers each datagram with NAME, a space and the same
    udp-echo.py ask VIP PORT N [nosum] [size=BYTES]
                                         N datagrams from sockets of their own; prints the answers
"""
import socket
import sys


def serve(name, port):
    # One socket for each local address, so that the answer comes from where the question went.
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
    s.bind(("0.0.0.0", port))
    print("ready", flush=True)
    while True:
        data, ancillary, _, peer = s.recvmsg(65535, 256)
        s.sendmsg([name.encode() + b" " + data], [(socket.IPPROTO_IP, 8, b"\0" * 4 + ancillary[0][2][8:12] + b"\0" * 4)], 0, peer)


def ask(vip, port, n, nosum, size):
    for i in range(n):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if nosum:
            s.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        s.settimeout(2)
        # Larger than a packet, so that it comes and goes in fragments: no path MTU discovery.
        s.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER
        # Connected: an answer from any other address is not taken.
        s.connect((vip, port))
        s.send((b"%d " % i).ljust(size, b"x"))
        try:
            answer = s.recv(65535)
            name, number = answer.split()[:2]
            if int(number) == i and len(answer) >= size:
                print(name.decode(), flush=True)
        except (TimeoutError, ConnectionRefusedError, ValueError) as e:
            print("error", e, flush=True)
        s.close()


if sys.argv[1] == "serve":
    serve(sys.argv[2], int(sys.argv[3]))
else:
    sizes = [int(a[5:]) for a in sys.argv[5:] if a.startswith("size=")]
    ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), "nosum" in sys.argv[5:], (sizes + [1])[0])
