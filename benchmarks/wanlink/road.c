/* One direction of the road: loss, queue, rate, delay. */
#include "wanlink.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Packets taken in one go, before due ones are looked at again. */
#define BATCH 256

struct settings set = {.delay_ms = 50, .rate_mbit = 200, .mtu = 1500};
static uint64_t rng = 88172645463325252ull; /* any odd-looking start; xorshift64 */

uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

void seed(uint64_t value) { rng ^= value * 0x9e3779b97f4a7c15ull; }

static double uniform(void)
{
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (rng >> 11) * (1.0 / 9007199254740992.0);
}

static uint64_t delay_at(uint64_t t)
{
    double ms = set.delay_ms;
    if (set.jitter_ms > 0) ms += set.jitter_ms * sin(2 * M_PI * (double)(t % SWING) / SWING);
    return ms > 0 ? (uint64_t)(ms * 1e6) : 0;
}

static double ns_per_byte(void) { return set.rate_mbit > 0 ? 8e3 / set.rate_mbit : 0; }

uint64_t apply_schedule(struct road roads[2], uint64_t now)
{
    if (!set.steps) return UINT64_MAX;
    double whole = 0, at;
    for (int i = 0; i < set.steps; i++) whole += set.step[i].seconds;
    at = fmod((now - set.schedule_start) / 1e9, whole);
    int i = 0;
    while (i < set.steps - 1 && at >= set.step[i].seconds) at -= set.step[i++].seconds;
    if (set.rate_mbit != set.step[i].rate) {
        for (int k = 0; k < 2; k++) {
            advance(&roads[k], now); /* what left so far left at the old rate */
            if (roads[k].free_at < now) roads[k].free_at = now;
        }
        set.rate_mbit = set.step[i].rate;
    }
    return now + (uint64_t)fmax((set.step[i].seconds - at) * 1e9, 1);
}

void take(struct road *d, uint64_t now)
{
    static uint8_t buffer[MAX_PACKET];
    advance(d, now);
    for (int i = 0; i < BATCH; i++) {
        ssize_t n = read(d->in, buffer, sizeof buffer);
        if (n <= 0) return;
        size_t wire = wire_size(buffer, n, set.offload);
        if (!wire) continue;
        if (now < set.drop_until) {
            d->count.dropped++;
            continue;
        }
        if (set.loss_pct > 0 && uniform() * 100 < set.loss_pct) {
            d->count.lost++;
            continue;
        }
        if (d->queued + wire > set.queue_bytes || d->head - d->tail >= RING) {
            d->count.overflow++;
            continue;
        }
        struct packet *p = &d->ring[d->head++ % RING];
        p->arrived = now;
        p->size = n;
        p->wire = wire;
        p->data = malloc(n);
        memcpy(p->data, buffer, n);
        d->queued += wire;
    }
}

/* When the first packet of the queue has been sent, at the rate of now. */
static uint64_t departure(const struct road *d, const struct packet *p)
{
    uint64_t start = d->free_at > p->arrived ? d->free_at : p->arrived;
    return start + (uint64_t)(p->wire * ns_per_byte());
}

void advance(struct road *d, uint64_t now)
{
    while (d->sent != d->head) {
        struct packet *p = &d->ring[d->sent % RING];
        uint64_t leaves = departure(d, p);
        if (leaves > now) return;
        d->free_at = leaves;
        p->due = leaves + delay_at(leaves);
        if (p->due < d->last_due) p->due = d->last_due; /* a swing of the delay reorders nothing */
        d->last_due = p->due;
        d->queued -= p->wire;
        d->sent++;
        uint64_t wait = leaves - p->arrived;
        d->count.wait += wait;
        if (wait > d->count.wait_max) d->count.wait_max = wait;
    }
}

uint64_t give(struct road *d, uint64_t now)
{
    advance(d, now);
    while (d->tail != d->sent) {
        struct packet *p = &d->ring[d->tail % RING];
        if (p->due > now) return p->due;
        if (now - p->due > d->count.late) d->count.late = now - p->due;
        if (now < set.drop_until) d->count.dropped++;
        else if (write(d->out, p->data, p->size) < 0 && errno == EAGAIN) return now;
        else d->count.packets++, d->count.bytes += p->wire;
        free(p->data);
        d->tail++;
    }
    if (d->sent == d->head) return UINT64_MAX;
    uint64_t leaves = departure(d, &d->ring[d->sent % RING]);
    return leaves + delay_at(leaves);
}
