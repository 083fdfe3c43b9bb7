/* Time, sockets, latencies and what a run cost: what every part of loadgen uses. */
#include "loadgen.h"

uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

void sleep_until(uint64_t t)
{
    struct timespec ts = {t / 1000000000ull, t % 1000000000ull};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR) {}
}

void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(2);
}

struct sockaddr_in parse_addr(const char *s)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    char host[256];
    const char *c = strrchr(s, ':');
    if (!c || (size_t)(c - s) >= sizeof host) die("bad address %s", s);
    memcpy(host, s, c - s);
    host[c - s] = 0;
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) die("bad host %s", host);
    a.sin_port = htons(atoi(c + 1));
    return a;
}

void nodelay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

void timeouts(int fd, double s)
{
    struct timeval tv = {(time_t)s, (suseconds_t)((s - (time_t)s) * 1e6)};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
}

int send_all(int fd, const void *p, size_t n)
{
    const char *c = p;
    while (n) {
        ssize_t r = send(fd, c, n, MSG_NOSIGNAL);
        if (r < 0) {
            if (errno == EINTR) continue;
            return -1;
        }
        c += r, n -= r;
    }
    return 0;
}

/* reads exactly n; 0 ok, -1 error, 1 EOF before n */
int recv_all(int fd, void *p, size_t n)
{
    char *c = p;
    while (n) {
        ssize_t r = recv(fd, c, n, 0);
        if (r < 0) {
            if (errno == EINTR) continue;
            return -1;
        }
        if (!r) return 1;
        c += r, n -= r;
    }
    return 0;
}

static int cmp_u64(const void *x, const void *y)
{
    uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return a < b ? -1 : a > b;
}

void lat_add(struct lat *l, uint64_t v)
{
    if (l->n == l->cap) l->v = realloc(l->v, (l->cap = l->cap ? l->cap * 2 : 4096) * 8);
    l->v[l->n++] = v;
}

void lat_print(const char *name, struct lat *l)
{
    if (!l->n) {
        printf("\"%s_n\":0,", name);
        return;
    }
    qsort(l->v, l->n, 8, cmp_u64);
#define P(q) (l->v[(size_t)((l->n - 1) * (q))] / 1e3)
    printf("\"%s_n\":%zu,\"%s_p50_us\":%.1f,\"%s_p90_us\":%.1f,\"%s_p99_us\":%.1f,\"%s_max_us\":%.1f,", name, l->n, name,
           P(0.5), name, P(0.9), name, P(0.99), name, P(1.0));
}

uint64_t rnd_seed(void)
{
    uint64_t s;
    int f = open("/dev/urandom", O_RDONLY);
    if (f < 0 || read(f, &s, 8) != 8) s = now_ns();
    close(f);
    return s | 1;
}

void cpu_print(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    printf("\"loadgen_cpu\":%.3f}\n", r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6);
}
