/* The destination.  The header of each connection says what it does (loadgen.h). */
#include "loadgen.h"

static _Atomic uint64_t srv_rx[256], srv_tx[256];
struct verdict { uint64_t id, n; int bad, done; };
static struct verdict verdicts[1024];
static pthread_mutex_t vm = PTHREAD_MUTEX_INITIALIZER;

struct sconn { int fd; int have; int hdr_done; struct hdr h; };

static void *srv_bulk_in(void *arg)
{
    struct sconn *c = arg;
    pump_in(c->fd, UINT64_MAX, NULL, &srv_rx[c->h.tag]);
    return NULL;
}

static void *srv_thread(void *arg)
{
    struct sconn *c = arg;
    struct hdr *h = &c->h;
    int fd = c->fd, low = h->lowat;
    if (low && (h->mode == 'K' || h->mode == 'B')) setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low);
    uint64_t n = h->a ? h->a : UINT64_MAX;
    switch (h->mode) {
    case 'S':
        pump_out(fd, n, NULL, &srv_tx[h->tag]);
        shutdown(fd, SHUT_WR);
        pump_in(fd, UINT64_MAX, NULL, NULL);
        break;
    case 'K': {
        srv_bulk_in(c);
        uint64_t z = 0;
        send_all(fd, &z, 8);
        break;
    }
    case 'B': {
        pthread_t t;
        pthread_create(&t, NULL, srv_bulk_in, c);
        pump_out(fd, n, NULL, &srv_tx[h->tag]);
        shutdown(fd, SHUT_WR);
        pthread_join(t, NULL);
        break;
    }
    case 'H': {
        struct hash s = {.h = h->seed};
        uint8_t *b = malloc(CHUNK);
        for (;;) {
            ssize_t r = recv(fd, b, CHUNK, 0);
            if (r < 0 && errno == EINTR) continue;
            if (r <= 0) break;
            hash_add(&s, b, r);
        }
        free(b);
        uint64_t out[2] = {s.n, hash_end(&s)};
        send_all(fd, out, 16);
        struct prng_out o = {.fd = fd, .n = h->b, .seed = out[1]};
        prng_send(&o);
        break;
    }
    case 'I': {
        struct prng_out o = {.fd = fd, .n = h->a, .seed = h->seed + 1};
        pthread_t t;
        pthread_create(&t, NULL, prng_send, &o);
        int bad, eof;
        uint64_t got = prng_check(fd, UINT64_MAX, h->seed, &bad, &eof);
        pthread_join(t, NULL);
        uint64_t out[2] = {got, bad};
        send_all(fd, out, 16);
        break;
    }
    case 'F': {
        struct prng_out o = {.fd = fd, .n = h->a, .seed = h->seed + 1};
        prng_send(&o);
        shutdown(fd, SHUT_WR);
        int bad, eof;
        uint64_t got = prng_check(fd, UINT64_MAX, h->seed, &bad, &eof);
        pthread_mutex_lock(&vm);
        struct verdict *v = &verdicts[h->seed % 1024];
        *v = (struct verdict){h->seed, got, bad || eof < 0, 1};
        pthread_mutex_unlock(&vm);
        break;
    }
    case 'C':
        for (;;) {
            uint8_t q;
            if (recv_all(fd, &q, 1)) break;
            uint64_t out[3] = {srv_rx[q], srv_tx[q], now_ns()};
            if (send_all(fd, out, 24)) break;
        }
        break;
    case 'Q': {
        struct verdict v = {0};
        for (int i = 0; i < 100; i++) {
            pthread_mutex_lock(&vm);
            v = verdicts[h->seed % 1024];
            pthread_mutex_unlock(&vm);
            if (v.id == h->seed && v.done) break;
            usleep(20000);
        }
        uint64_t out[3] = {v.id == h->seed && v.done, v.n, v.bad};
        send_all(fd, out, 24);
        break;
    }
    }
    close(fd);
    free(c);
    return NULL;
}

int serve(const char *listen_at)
{
    struct sockaddr_in a = parse_addr(listen_at);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) die("listen %s: %s", listen_at, strerror(errno));
    fcntl(ls, F_SETFL, O_NONBLOCK);
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &ev);
    memfd_random();
    pthread_attr_t at;
    pthread_attr_init(&at);
    pthread_attr_setdetachstate(&at, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&at, 128 << 10);
    puts("READY");
    fflush(stdout);
    static uint8_t buf[65536];
    for (;;) {
        struct epoll_event evs[256];
        int n = epoll_wait(ep, evs, 256, -1);
        for (int i = 0; i < n; i++) {
            struct sconn *c = evs[i].data.ptr;
            if (!c) {
                for (int k = 0; k < 64; k++) {
                    int fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                    if (fd < 0) {
                        if (errno == EMFILE || errno == ENFILE) usleep(1000);
                        break;
                    }
                    nodelay(fd);
                    c = calloc(1, sizeof *c);
                    c->fd = fd;
                    ev.events = EPOLLIN, ev.data.ptr = c;
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
                }
                continue;
            }
            int closed = 0;
            if (!c->hdr_done) {
                ssize_t r = recv(c->fd, (char *)&c->h + c->have, 32 - c->have, 0);
                if (r < 0 && (errno == EAGAIN || errno == EINTR)) continue;
                if (r <= 0) closed = 1;
                else {
                    c->have += r;
                    if (c->have < 32) continue;
                    c->hdr_done = 1;
                    if (c->h.magic[0] != 'L' || c->h.magic[1] != 'G') closed = 1;
                    else if (strchr("SKBHIFCQ", c->h.mode)) {
                        epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
                        fcntl(c->fd, F_SETFL, 0);
                        pthread_t t;
                        if (pthread_create(&t, &at, srv_thread, c)) close(c->fd), free(c);
                        continue;
                    } else if (c->h.mode == 'R') {
                        size_t len = c->h.a > sizeof buf ? sizeof buf : c->h.a;
                        memset(buf, 'r', len);
                        if (send(c->fd, buf, len, MSG_NOSIGNAL) != (ssize_t)len) closed = 1;
                    }
                }
            } else {
                ssize_t r = recv(c->fd, buf, sizeof buf, 0);
                if (r < 0 && (errno == EAGAIN || errno == EINTR)) continue;
                if (r <= 0) closed = 1;
                else {
                    ssize_t o = 0;
                    while (o < r) {
                        ssize_t w = send(c->fd, buf + o, r - o, MSG_NOSIGNAL);
                        if (w < 0 && errno == EAGAIN) {
                            struct pollfd p = {c->fd, POLLOUT, 0};
                            if (poll(&p, 1, 1000) <= 0) { closed = 1; break; }
                            continue;
                        }
                        if (w < 0) { closed = 1; break; }
                        o += w;
                    }
                }
            }
            if (closed) close(c->fd), free(c);
        }
    }
    return 0;
}
