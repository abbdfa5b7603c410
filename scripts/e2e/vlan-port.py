"""A switch's port that is a tagged member of one VLAN, where the kernel has no VLAN devices.

usage: vlan-port.py VLAN TRUNK ACCESS

Frames with tag VLAN that come in on the device TRUNK leave on ACCESS without it, and frames from
ACCESS leave on TRUNK with it (IEEE 802.1Q). Whatever else comes on TRUNK is dropped, and told on
standard output. Prints "ready" first.
"""
import selectors
import socket
import struct
import sys

SOL_PACKET, PACKET_AUXDATA, ETH_P_ALL = 263, 8, 3
TP_STATUS_VLAN_VALID = 1 << 4
TAG = 0x8100


def opened(device):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    s.bind((device, 0))
    return s


def received(s):
    """The next frame, untagged, and its VLAN (None without a tag); None for our own frames."""
    frame, anc, _, address = s.recvmsg(65536, 64)
    if address[2] == socket.PACKET_OUTGOING:
        return None
    for level, kind, data in anc:
        if level == SOL_PACKET and kind == PACKET_AUXDATA:
            # struct tpacket_auxdata of linux/if_packet.h.
            status, tci = struct.unpack("=IIIHHH", data[:18])[0], struct.unpack("=IIIHHH", data[:18])[5]
            if status & TP_STATUS_VLAN_VALID:
                return frame, tci & 0xFFF
    if frame[12:14] == TAG.to_bytes(2, "big"):
        return frame[:12] + frame[16:], int.from_bytes(frame[14:16], "big") & 0xFFF
    return frame, None


def main():
    vlan = int(sys.argv[1])
    trunk, access = opened(sys.argv[2]), opened(sys.argv[3])
    selector = selectors.DefaultSelector()
    selector.register(trunk, selectors.EVENT_READ)
    selector.register(access, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            got = received(key.fileobj)
            if got is None:
                continue
            frame, seen = got
            if key.fileobj is access:
                trunk.send(frame[:12] + struct.pack("!HH", TAG, vlan) + frame[12:])
            elif seen == vlan:
                access.send(frame)
            else:
                print(f"dropped: VLAN {seen}, {frame[:14].hex()}", flush=True)


main()
