/* Every byte compared, and each way of closing half a connection. */
#include "loadgen.h"

struct integ { int i, ok, fin_ok, rev_ok; char why[80]; pthread_t t; };
static void *integ_worker(void *arg)
{
    struct integ *g = arg;
    uint64_t seed = rnd_seed();
    /* odd sizes on purpose */
    uint64_t n = nbytes + (seed % 4099);
    /* 1. both ways at once */
    int fd = dial_mode('I', n, 0, seed);
    if (fd < 0) { snprintf(g->why, sizeof g->why, "dial"); return NULL; }
    timeouts(fd, 60);
    struct prng_out o = {.fd = fd, .n = n, .seed = seed};
    pthread_t t;
    pthread_create(&t, NULL, prng_send, &o);
    int bad, eof;
    uint64_t got = prng_check(fd, n, seed + 1, &bad, &eof);
    pthread_join(t, NULL);
    shutdown(fd, SHUT_WR);
    uint64_t v[3];
    timeouts(fd, tmo);
    int r = recv_all(fd, v, 16);
    close(fd);
    if (!o.ok || got != n || bad) { snprintf(g->why, sizeof g->why, "down got %lu of %lu bad %d", got, n, bad); return NULL; }
    if (r) snprintf(g->why, sizeof g->why, "no verdict after shutdown (rc %d)", r);
    else if (v[0] != n || v[1]) { snprintf(g->why, sizeof g->why, "up got %lu of %lu bad %lu", v[0], n, v[1]); return NULL; }
    g->ok = 1; /* data right; a lost verdict counts against half-close below, not against integrity */
    /* 2. send all, shutdown(WR), then the reply made from all of it */
    fd = dial_mode('H', 0, n / 2, seed);
    if (fd < 0) return NULL;
    timeouts(fd, 30);
    struct hash h = {.h = seed};
    uint8_t *b = malloc(CHUNK);
    int sent = 1;
    for (uint64_t off = 0; off < n;) {
        size_t k = n - off < CHUNK ? n - off : CHUNK;
        prng_fill(b, off, k, seed ^ 99);
        hash_add(&h, b, k);
        if (send_all(fd, b, k)) { sent = 0; break; }
        off += k;
    }
    free(b);
    shutdown(fd, SHUT_WR);
    timeouts(fd, tmo);
    uint64_t want = hash_end(&h);
    if (!sent) snprintf(g->why, sizeof g->why, "half-close: send failed");
    else if ((r = recv_all(fd, v, 16))) snprintf(g->why, sizeof g->why, "half-close: no reply (rc %d)", r);
    else if (v[0] != n || v[1] != want) snprintf(g->why, sizeof g->why, "half-close: wrong hash, n %lu of %lu", v[0], n);
    else {
        got = prng_check(fd, UINT64_MAX, want, &bad, &eof);
        if (got != n / 2 || bad || eof != 1) snprintf(g->why, sizeof g->why, "half-close: reply %lu of %lu bad %d eof %d", got, n / 2, bad, eof);
        else g->fin_ok = 1;
    }
    close(fd);
    /* 3. the destination finishes first; what we send afterwards must still arrive */
    fd = dial_mode('F', n / 2, 0, seed);
    if (fd < 0) return NULL;
    timeouts(fd, 30);
    got = prng_check(fd, UINT64_MAX, seed + 1, &bad, &eof);
    if (got == n / 2 && !bad && eof == 1) {
        usleep(200000);
        struct prng_out p = {.fd = fd, .n = n / 4, .seed = seed};
        prng_send(&p);
        shutdown(fd, SHUT_WR);
        /* ask until it is there: nothing comes back by which we would know */
        for (int i = 0; i < 40 && !g->rev_ok; i++) {
            int q = dial_direct('Q', seed);
            if (q >= 0 && !recv_all(q, v, 24) && v[0] && v[1] == n / 4 && !v[2]) g->rev_ok = 1;
            if (q >= 0) close(q);
            if (!g->rev_ok) usleep(50000);
        }
    }
    close(fd);
    return NULL;
}

int run_integrity(void)
{
    struct integ *g = calloc(conns, sizeof *g);
    int ok = 0, fin = 0, rev = 0;
    const char *why = "";
    if (!nbytes) nbytes = 8 << 20;
    for (int i = 0; i < conns; i++) g[i].i = i, pthread_create(&g[i].t, NULL, integ_worker, &g[i]);
    for (int i = 0; i < conns; i++) {
        pthread_join(g[i].t, NULL);
        ok += g[i].ok, fin += g[i].fin_ok, rev += g[i].rev_ok;
        if (g[i].why[0]) why = g[i].why;
    }
    printf("{\"mode\":\"integrity\",\"conns\":%d,\"bytes\":%lu,\"data_ok\":%d,\"halfclose_ok\":%d,\"dst_first_ok\":%d,\"why\":\"%s\",",
           conns, nbytes, ok, fin, rev, why);
    cpu_print();
    return ok != conns;
}
