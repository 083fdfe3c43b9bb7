"""Settings that mean the same in a server's file and in a client's.

What is here is what stands in the metadata of a field; the fields are in
`phantom.config.schema_server` and `phantom.config.schema_client`.  Where a text differs by side,
the function that makes it takes what differs.
"""

from __future__ import annotations

from phantom.config import kinds
from phantom.config import padding as padding_kinds
from phantom.config.kinds import count, duration, size
from phantom.config.setting import Setting, about

KiB = 1024
MiB = 1024 * KiB

Metadata = dict[str, Setting]

#: Streams open at once.
MAX_STREAMS = 1024
#: Bytes received and credit granted, of a session.
SESSION_MEMORY = 64 * MiB
#: What every stream may hold at the least; ``max_streams`` of them must fit into
#: ``session_memory`` (DESIGN, "Streams and flow control").
LEAST_STREAM_MEMORY = 16 * KiB
#: Seconds.
KEEPALIVE_INTERVAL = 20.0

#: What stands for a key in templates.
KEY_EXAMPLE = '"BASE64"'

WINDOW = about(
    size(16 * KiB, 1024 * MiB),
    "The most that one stream may send ahead of its reader. It gets 4 MiB when it is "
    "alone, and more as far as the measured bandwidth and round trip ask for it and "
    "`session_memory` allows (a third of what is free).",
    unit="bytes",
)
CONGESTION = about(
    kinds.CONGESTION,
    "The congestion control of links, in the sending direction. `auto`: BBR where the "
    "kernel has and allows it, else the system's; on loopback never BBR, whose timers "
    "cost a third more CPU time there. `system`: the system's. Anything else is the name "
    "of one, such as `cubic`; where the kernel refuses it, a warning is logged and the "
    "system's is used.",
)
KEEPALIVE = about(
    duration(1, 3600),
    "After about how long without traffic a link is checked; two misses and it is dead.",
    unit="seconds",
)
TIMING = about(
    padding_kinds.TIMING,
    "Whether this side also blurs when it sends. `default` holds small records back by "
    "up to 20 ms and sends something now and then when nothing happens; `aggressive` "
    "up to 60 ms, and more often. Bulk transfers are not held back.",
)


def private_key(doc: str) -> Metadata:
    """Return what there is to say of a host's own key."""
    return about(
        kinds.PRIVATE_KEY,
        doc,
        example=KEY_EXAMPLE,
        alternative="private_key_file",
        secret=True,
    )


def private_key_file(example: str) -> Metadata:
    """Return what there is to say of the file of that key."""
    return about(
        kinds.PATH,
        "A file with the key, in place of `private_key`. Only its owner may have access.",
        example=example,
    )


def state_dir(doc: str) -> Metadata:
    """Return what there is to say of the folder of what outlives the process."""
    return about(
        kinds.PATH,
        doc,
        example='"/var/lib/phantom"',
        default_text="`$STATE_DIRECTORY`, or `/var/lib/phantom` for root, or a folder of the "
        "user's own",
    )


def post_quantum(peer: str) -> Metadata:
    """Return what there is to say of post-quantum keys with a `peer` of one kind."""
    return about(
        kinds.choice("auto", "require", "off"),
        "Whether the keys of links also rest on ML-KEM-768, so that a quantum computer of "
        f"the future does not open what is recorded today. `auto`: with every {peer} that "
        "does it too. `require`: no link without it. `off`: never.",
    )


def max_streams(which: str) -> Metadata:
    """Return what there is to say of the limit of streams, and of `which` it is."""
    return about(
        count(1, 1_000_000),
        f"How many streams {which} at once. Times 16 KiB, it must fit into `session_memory`.",
        unit="streams",
    )


def session_memory(whose: str) -> Metadata:
    """Return what there is to say of the limit of memory, and `whose` it is."""
    return about(
        size(256 * KiB, 64 * 1024 * MiB),
        f"What {whose} may hold of bytes received and credit granted.",
        unit="bytes",
    )


def padding(default: str) -> Metadata:
    """Return what there is to say of padding, and of what is the `default` on one side."""
    return about(
        padding_kinds.PADDING,
        f"What is added to the records that this side sends. `default`: {default}. "
        "`none`: nothing. The others are weaker: `block` fills each record up to whole "
        "blocks of 256 bytes, `random` adds 0 to 255 bytes, `power-of-two` fills up to one. "
        "Records of 16 KB and more are never padded.",
    )


def wait(doc: str) -> Metadata:
    """Return what there is to say of how long something on the network may take."""
    return about(duration(0.1, 300), doc, unit="seconds")


def detached_timeout(doc: str) -> Metadata:
    """Return what there is to say of how long there may be no link."""
    return about(duration(1, 86400), doc, unit="seconds")


def drain_timeout(which: str) -> Metadata:
    """Return what there is to say of how long the end of `which` side may take."""
    return about(
        duration(0, 3600),
        f"How long a stopping {which} lets open streams finish.",
        unit="seconds",
    )
