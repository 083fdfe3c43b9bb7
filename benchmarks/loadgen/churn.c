/* Short connections: many a second, one at a time, or until one works again. */
#include "loadgen.h"

static pthread_mutex_t lm = PTHREAD_MUTEX_INITIALIZER;
static struct lat churn_lat, churn_dial;
static _Atomic int churn_ok, churn_err, churn_left;
static uint64_t churn_end;

/* one connection, one request, one reply; `number` picks the destination where there are several */
static int one_request(int number, uint64_t *dial_ns, uint64_t *ttfb_ns)
{
    uint64_t t = now_ns();
    struct sockaddr_in to = dst;
    if (spread) to.sin_addr.s_addr = htonl(ntohl(dst.sin_addr.s_addr) + number);
    int fd = dial_to(&to);
    if (fd < 0) return -1;
    *dial_ns = now_ns() - t;
    struct hdr h = {{'L', 'G'}, 'R', tag, 0, msg, 0, 0};
    uint8_t b[65536];
    int rc = send_all(fd, &h, sizeof h) || recv_all(fd, b, 1);
    *ttfb_ns = now_ns() - t;
    if (!rc && msg > 1) rc = recv_all(fd, b, msg - 1 < 65535 ? msg - 1 : 65535);
    close(fd);
    return rc ? -1 : 0;
}

static void *churn_worker(void *arg)
{
    (void)arg;
    while (now_ns() < churn_end) {
        int left = --churn_left;
        if (count && left < 0) break;
        uint64_t d, t;
        if (one_request(count - 1 - left, &d, &t)) {
            churn_err++;
            usleep(10000);
        } else {
            churn_ok++;
            pthread_mutex_lock(&lm);
            lat_add(&churn_lat, t);
            lat_add(&churn_dial, d);
            pthread_mutex_unlock(&lm);
        }
        if (paced_ms) usleep(paced_ms * 1000);
    }
    return NULL;
}

int run_churn(const char *name)
{
    pthread_t *t = calloc(conns, sizeof *t);
    churn_left = count;
    uint64_t t0 = now_ns();
    churn_end = t0 + (uint64_t)(secs * 1e9);
    for (int i = 0; i < conns; i++) pthread_create(&t[i], NULL, churn_worker, NULL);
    for (int i = 0; i < conns; i++) pthread_join(t[i], NULL);
    double el = (now_ns() - t0) / 1e9;
    printf("{\"mode\":\"%s\",\"conns\":%d,\"ok\":%d,\"errors\":%d,\"secs\":%.3f,\"per_s\":%.1f,", name, conns, churn_ok,
           churn_err, el, churn_ok / el);
    lat_print("ttfb", &churn_lat);
    lat_print("dial", &churn_dial);
    cpu_print();
    return churn_ok == 0;
}

int run_recover(void)
{
    uint64_t t0 = now_ns(), end = t0 + (uint64_t)(secs * 1e9), d, t;
    int tries = 0;
    while (now_ns() < end) {
        tries++;
        uint64_t s = now_ns();
        if (!one_request(0, &d, &t)) {
            printf("{\"mode\":\"recover\",\"ok\":1,\"tries\":%d,\"after_ms\":%.0f,\"last_ttfb_ms\":%.1f}\n", tries, (now_ns() - t0) / 1e6,
                   t / 1e6);
            return 0;
        }
        sleep_until(s + 100000000ull);
    }
    printf("{\"mode\":\"recover\",\"ok\":0,\"tries\":%d}\n", tries);
    return 1;
}
