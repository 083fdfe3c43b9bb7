/* Ping-pong of small messages on one connection: alone, and beside bulk transfers. */
#include "loadgen.h"

static int pingpong(int fd, uint64_t until, struct lat *l)
{
    uint8_t *b = malloc(msg), *r = malloc(msg);
    uint64_t seq = 0;
    int rc = 0;
    while (now_ns() < until) {
        prng_fill(b, seq * msg, msg, 77);
        seq++;
        uint64_t t = now_ns();
        if (send_all(fd, b, msg) || recv_all(fd, r, msg)) { rc = -1; break; }
        lat_add(l, now_ns() - t);
        if (memcmp(b, r, msg)) { rc = -2; break; }
        if (paced_ms) usleep(paced_ms * 1000);
    }
    free(b), free(r);
    return rc;
}

int run_ping(void)
{
    int fd = dial_mode('E', 0, 0, 0);
    if (fd < 0) { puts("{\"mode\":\"ping\",\"error\":\"dial\"}"); return 1; }
    struct lat w = {0}, l = {0};
    pingpong(fd, now_ns() + (uint64_t)(warm * 1e9), &w);
    int rc = pingpong(fd, now_ns() + (uint64_t)(secs * 1e9), &l);
    printf("{\"mode\":\"ping\",\"rc\":%d,", rc);
    lat_print("rtt", &l);
    cpu_print();
    return rc != 0;
}

int run_load(void)
{
    int fd = dial_mode('E', 0, 0, 0);
    if (fd < 0) { puts("{\"mode\":\"load\",\"error\":\"dial\"}"); return 1; }
    struct lat w = {0}, base = {0}, l = {0};
    pingpong(fd, now_ns() + (uint64_t)3e8, &w);
    pingpong(fd, now_ns() + (uint64_t)(warm * 1e9), &base);
    struct bulk *b = calloc(conns, sizeof *b);
    int ok = 0;
    for (int i = 0; i < conns; i++) ok += bulk_start(&b[i], up_load ? 'K' : 'S') == 0;
    struct lat ramp = {0};
    pingpong(fd, now_ns() + (uint64_t)(warm * 1e9), &ramp);
    uint64_t i0, i1, o0, o1, t0 = now_ns();
    bulk_sum(b, conns, &i0, &o0);
    int rc = pingpong(fd, now_ns() + (uint64_t)(secs * 1e9), &l);
    bulk_sum(b, conns, &i1, &o1);
    double win = (now_ns() - t0) / 1e9;
    stopping = 1;
    for (int i = 0; i < conns; i++) bulk_stop(&b[i]);
    printf("{\"mode\":\"load\",\"rc\":%d,\"bulk_ok\":%d,\"bulk_gbps\":%.4f,", rc, ok,
           (up_load ? o1 - o0 : i1 - i0) * 8 / win / 1e9);
    lat_print("base", &base);
    lat_print("rtt", &l);
    cpu_print();
    return rc != 0;
}
