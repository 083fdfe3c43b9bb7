/* Bulk transfers: many connections, counted in a window of time. */
#include "loadgen.h"

static void *bulk_in(void *arg)
{
    struct bulk *b = arg;
    pump_in(b->fd, nbytes ? nbytes : UINT64_MAX, &stopping, &b->in);
    return NULL;
}

static void *bulk_out(void *arg)
{
    struct bulk *b = arg;
    pump_out(b->fd, nbytes ? nbytes : UINT64_MAX, &stopping, &b->out);
    if (nbytes) {
        shutdown(b->fd, SHUT_WR);
        if (b->mode == 'K') {
            uint64_t z;
            b->ok = recv_all(b->fd, &z, 8) == 0;
        }
    }
    return NULL;
}

int bulk_start(struct bulk *b, uint8_t mode)
{
    b->mode = mode;
    b->fd = dial_mode(mode, nbytes, 0, 0);
    if (b->fd < 0) return -1;
    if (!nbytes && lowat && mode != 'K') setsockopt(b->fd, SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof lowat);
    timeouts(b->fd, nbytes ? 120 : 1e4);
    if (mode != 'K') pthread_create(&b->ti, NULL, bulk_in, b);
    if (mode != 'S') pthread_create(&b->to, NULL, bulk_out, b);
    return 0;
}

void bulk_stop(struct bulk *b)
{
    if (b->fd < 0) return;
    if (!nbytes) shutdown(b->fd, SHUT_RDWR);
    if (b->mode != 'K') pthread_join(b->ti, NULL);
    if (b->mode != 'S') pthread_join(b->to, NULL);
    close(b->fd);
}

void bulk_sum(struct bulk *b, int n, uint64_t *in, uint64_t *out)
{
    *in = *out = 0;
    for (int i = 0; i < n; i++) *in += b[i].in, *out += b[i].out;
}

int run_bulk(uint8_t mode)
{
    struct bulk *b = calloc(conns, sizeof *b);
    int ctl = mode == 'S' ? -1 : dial_direct('C', 0);
    uint64_t c0[3] = {0}, c1[3] = {0}, c2[3] = {0}, c3[3] = {0}, in0, in1, out, t0, t1;
    if (ctl >= 0) ctl_query(ctl, c0);
    int ok = 0;
    uint64_t tstart = now_ns();
    for (int i = 0; i < conns; i++) ok += bulk_start(&b[i], mode) == 0;
    if (nbytes) {
        for (int i = 0; i < conns; i++) bulk_stop(&b[i]);
        t0 = tstart, t1 = now_ns();
        in0 = 0;
        bulk_sum(b, conns, &in1, &out);
        if (ctl >= 0) ctl_query(ctl, c2);
        c1[0] = c0[0], c1[2] = t0, c2[2] = t1;
        memcpy(c3, c2, sizeof c3);
    } else {
        uint64_t end = tstart + (uint64_t)((warm + secs) * 1e9);
        sleep_until(tstart + (uint64_t)(warm * 1e9));
        if (ctl >= 0) ctl_query(ctl, c1);
        bulk_sum(b, conns, &in0, &out);
        t0 = now_ns();
        sleep_until(end);
        if (ctl >= 0) ctl_query(ctl, c2);
        bulk_sum(b, conns, &in1, &out);
        t1 = now_ns();
        stopping = 1;
        for (int i = 0; i < conns; i++) bulk_stop(&b[i]);
        usleep(50000);
        if (ctl >= 0) ctl_query(ctl, c3);
    }
    uint64_t totin, lo = UINT64_MAX, hi = 0;
    bulk_sum(b, conns, &totin, &out);
    for (int i = 0; i < conns; i++) {
        uint64_t v = mode == 'K' ? b[i].out : b[i].in;
        if (v < lo) lo = v;
        if (v > hi) hi = v;
    }
    double win = (t1 - t0) / 1e9, sw = ctl >= 0 && c2[2] > c1[2] ? (c2[2] - c1[2]) / 1e9 : win;
    uint64_t down = in1 - in0, up = c2[0] - c1[0];
    printf("{\"mode\":\"%s\",\"conns\":%d,\"ok\":%d,\"secs\":%.4f,\"down_bytes\":%lu,\"up_bytes\":%lu,\"total_bytes\":%lu,"
           "\"down_gbps\":%.4f,\"up_gbps\":%.4f,\"gbps\":%.4f,\"conn_min_bytes\":%lu,\"conn_max_bytes\":%lu,",
           mode == 'S' ? "down" : mode == 'K' ? "up" : "both", conns, ok, win, down, up, totin + (c3[0] - c0[0]),
           down * 8 / win / 1e9, up * 8 / sw / 1e9, down * 8 / win / 1e9 + up * 8 / sw / 1e9, lo, hi);
    cpu_print();
    return ok == conns ? 0 : 1;
}
