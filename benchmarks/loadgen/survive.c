/* Paced echo streams that are watched while the harness cuts the tunnel's links. */
#include "loadgen.h"

struct surv { pthread_t t; int ok, opened; uint64_t n, gap; };
static void *surv_worker(void *arg)
{
    struct surv *s = arg;
    int fd = dial_mode('E', 0, 0, 0);
    if (fd < 0) return NULL;
    s->opened = 1;
    uint64_t end = now_ns() + (uint64_t)(secs * 1e9), last = now_ns();
    uint8_t b[64], r[64];
    timeouts(fd, secs + 5);
    while (now_ns() < end) {
        prng_fill(b, s->n * 64, 64, 5);
        if (send_all(fd, b, 64) || recv_all(fd, r, 64) || memcmp(b, r, 64)) { close(fd); return NULL; }
        uint64_t t = now_ns();
        if (t - last > s->gap) s->gap = t - last;
        last = t;
        s->n++;
        usleep((paced_ms ? paced_ms : 50) * 1000);
    }
    s->ok = 1;
    close(fd);
    return NULL;
}

int run_survive(void)
{
    struct surv *s = calloc(conns, sizeof *s);
    int ok = 0, op = 0;
    uint64_t gap = 0, n = 0;
    for (int i = 0; i < conns; i++) pthread_create(&s[i].t, NULL, surv_worker, &s[i]);
    for (int i = 0; i < conns; i++) {
        pthread_join(s[i].t, NULL);
        ok += s[i].ok, op += s[i].opened, n += s[i].n;
        if (s[i].ok && s[i].gap > gap) gap = s[i].gap;
    }
    printf("{\"mode\":\"survive\",\"streams\":%d,\"opened\":%d,\"survived\":%d,\"messages\":%lu,\"longest_gap_ms\":%.0f,", conns, op,
           ok, n, gap / 1e6);
    cpu_print();
    return ok != conns;
}
