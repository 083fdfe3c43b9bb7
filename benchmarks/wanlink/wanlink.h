/*
 * wanlink - an emulated long road between two network namespaces, for kernels without netem.
 *
 *   wanlink NETNS_A NETNS_B [--delay MS] [--rate MBIT] [--queue KB] [--loss PERCENT] [--jitter MS]
 *           [--schedule MBIT:SECONDS,...] [--mtu N] [--offload 0|1] [--seed N]
 *
 * It makes a TUN device `wan0` in each of the two (existing, named) namespaces, gives them the
 * addresses 10.77.0.1/24 (A) and 10.77.0.2/24 (B), and moves packets between them.  Each direction is
 * independent: random loss, then a bounded drop-tail queue drained at the rate, then the one-way delay.
 * It prints READY, and then takes one command a line on stdin:
 *   drop SECONDS      lose everything, both ways, for that long
 *   set delay|rate|queue|loss|jitter VALUE
 *   restart           begin the schedule anew
 *   stats             one JSON line on stdout about the time since the last one
 *   quit              (end of input does the same)
 * Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN).
 */
#ifndef WANLINK_H
#define WANLINK_H
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>

/* ---- tun.c */
#define MAX_PACKET (65536 + 64) /* a bundle of segments (GSO), with the header that describes it */

/* Makes wan0 in a namespace and returns its descriptor; exits on failure.  With `offload` each packet
 * begins with a struct virtio_net_hdr, and TCP comes in bundles. */
int tun_in(const char *netns, const char *address, int mtu, int offload);
/* Bytes that a packet is on the wire, with the headers of all segments of a bundle; 0: not IPv4. */
size_t wire_size(const uint8_t *packet, size_t n, int offload);
void fail(const char *what) __attribute__((noreturn));

/* ---- road.c: one direction of the road; times in nanoseconds of CLOCK_MONOTONIC */
#define RING (1u << 16)    /* packets on the road at once */
#define MAX_STEPS 32       /* of a schedule */
#define SWING 3000000000ll /* ns in which a jitter goes up and down once */

struct packet {
    uint64_t arrived, due; /* due: set when it has left the queue */
    uint32_t size, wire;
    uint8_t *data;
};
/* Packets [tail, sent) have left the queue and are on their way; [sent, head) wait in it. */
struct road {
    int in, out;
    struct packet *ring;
    uint32_t head, sent, tail;
    uint64_t free_at, last_due, queued;
    struct { uint64_t packets, bytes, lost, overflow, dropped, late, wait, wait_max; } count;
};
struct settings {
    double delay_ms, jitter_ms, rate_mbit, loss_pct;
    uint64_t queue_bytes;
    int mtu, offload, steps;
    struct { double rate, seconds; } step[MAX_STEPS];
    uint64_t schedule_start, drop_until;
};
extern struct settings set;

uint64_t now_ns(void);
void seed(uint64_t value);
/* Applies the schedule; returns when the rate changes next.  Call before the others of a turn. */
uint64_t apply_schedule(struct road roads[2], uint64_t now);
void take(struct road *d, uint64_t now);     /* read what the kernel sends */
void advance(struct road *d, uint64_t now);  /* let out of the queue what has left it by now */
uint64_t give(struct road *d, uint64_t now); /* deliver what is due; returns when something is next */
#endif
