"""Captures loopback traffic of one port, packet by packet, where root may."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time

from phantom.audit.flows import Flow
from phantom.audit.pcap import ETHERNET, Assembler, Packet

#: Bytes the kernel may queue for us; a burst of downloads is a few MB.
_BUFFER = 64 << 20

#: Linux's numbers (asm/socket.h, linux/if_packet.h, linux/if_ether.h).
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_ETH_P_IP = 0x0800
_PACKET_OUTGOING = 4

#: Seconds the thread waits for a packet before it looks whether to stop.
_TURN = 0.2

#: Seconds for packets on their way through the kernel.
_SETTLE = 0.1


def _filter(port: int) -> bytes:
    """Return a classic BPF program: TCP over IPv4, not a fragment, from or to `port`.

    Each instruction is code, jump if true, jump if false, constant (linux/filter.h).
    """
    program = [
        (0x28, 0, 0, 12),  # ldh [12]: what Ethernet carries
        (0x15, 0, 10, _ETH_P_IP),
        (0x30, 0, 0, 23),  # ldb [23]: the protocol
        (0x15, 0, 8, socket.IPPROTO_TCP),
        (0x28, 0, 0, 20),  # ldh [20]: the fragment's offset
        (0x45, 6, 0, 0x1FFF),
        (0xB1, 0, 0, 14),  # ldxb 4*([14]&0xf): bytes of the IP header
        (0x48, 0, 0, 14),  # ldh [x+14]: the source port
        (0x15, 2, 0, port),
        (0x48, 0, 0, 16),  # ldh [x+16]: the destination port
        (0x15, 0, 1, port),
        (0x06, 0, 0, 0x7FFFFFFF),  # take all of it
        (0x06, 0, 0, 0),  # drop it
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


class Sniffer:
    """Records the connections of a port of 127.0.0.1 from now until `stop`.

    Args:
        port: The server's.

    Attributes:
        port: The same: where to connect.

    Raises:
        OSError: The system does not let us, or has no such sockets.
    """

    def __init__(self, port: int) -> None:
        if not hasattr(socket, "AF_PACKET"):
            raise OSError("no packet sockets on this system")
        self.port = port
        self._assembler = Assembler(port)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            program = _filter(port)
            buffer = ctypes.create_string_buffer(program)
            # struct sock_fprog: how many instructions, and where.
            attached = struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            except OSError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.settimeout(_TURN)
            self._socket.bind(("lo", _ETH_P_IP))
        except OSError:
            self._socket.close()
            raise
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                data, address = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                if self._stopped.is_set():
                    return
                continue
            except OSError:
                return
            # Loopback shows every packet twice: as it leaves, and as it arrives.
            if address[2] != _PACKET_OUTGOING:
                self._assembler.add(Packet(time.monotonic(), ETHERNET, data))

    def take(self) -> list[Flow]:
        """Return the connections since the last call; those under way begin anew."""
        time.sleep(_SETTLE)
        taken, self._assembler = self._assembler, Assembler(self.port)
        return taken.flows

    def stop(self) -> None:
        """End the capture."""
        self._stopped.set()
        self._thread.join(2 * _TURN)
        self._socket.close()
