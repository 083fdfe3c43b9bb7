/* Options, commands, and the loop. */
#include "wanlink.h"
#include <fcntl.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* A sleep shorter than this wakes too late: look again instead. */
#define SPIN_NS 20000
/* The longest sleep. */
#define IDLE_NS 1000000000ull

static const char usage[] =
    "wanlink NETNS_A NETNS_B [--delay MS] [--rate MBIT] [--queue KB] [--loss PERCENT] [--jitter MS]\n"
    "        [--schedule MBIT:SECONDS,...] [--mtu N] [--offload 0|1] [--seed N]\n";

static void schedule(const char *text)
{
    int used;
    while (set.steps < MAX_STEPS &&
           sscanf(text, "%lf:%lf%n", &set.step[set.steps].rate, &set.step[set.steps].seconds, &used) == 2) {
        if (set.step[set.steps].seconds <= 0) break;
        set.steps++;
        text += used;
        if (*text == ',') text++;
    }
    if (*text || !set.steps) {
        fprintf(stderr, "wanlink: bad schedule at \"%s\"\n", text);
        exit(2);
    }
    set.rate_mbit = set.step[0].rate;
}

static int change(const char *key, const char *value)
{
    double v = atof(value);
    if (!strcmp(key, "delay")) set.delay_ms = v;
    else if (!strcmp(key, "rate")) set.rate_mbit = v;
    else if (!strcmp(key, "queue")) set.queue_bytes = v * 1024;
    else if (!strcmp(key, "loss")) set.loss_pct = v;
    else if (!strcmp(key, "jitter")) set.jitter_ms = v;
    else return -1;
    return 0;
}

static int option(const char *key, const char *value)
{
    if (!strcmp(key, "mtu")) set.mtu = atoi(value);
    else if (!strcmp(key, "offload")) set.offload = atoi(value);
    else if (!strcmp(key, "seed")) seed(strtoull(value, NULL, 10));
    else if (!strcmp(key, "schedule")) schedule(value);
    else return change(key, value);
    return 0;
}

static void stats(struct road roads[2])
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    for (int i = 0; i < 2; i++) {
        struct road *d = &roads[i];
        uint64_t n = d->count.packets ? d->count.packets : 1;
        printf("%s\"%s\":{\"packets\":%lu,\"bytes\":%lu,\"lost\":%lu,\"overflow\":%lu,\"dropped\":%lu,"
               "\"queue_mean_ms\":%.2f,\"queue_max_ms\":%.2f,\"max_late_us\":%.0f}",
               i ? "," : "{", i ? "down" : "up", d->count.packets, d->count.bytes, d->count.lost,
               d->count.overflow, d->count.dropped, d->count.wait / 1e6 / n, d->count.wait_max / 1e6,
               d->count.late / 1e3);
        memset(&d->count, 0, sizeof d->count);
    }
    printf(",\"cpu\":%.3f}\n", r.ru_utime.tv_sec + r.ru_stime.tv_sec +
           (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6);
    fflush(stdout);
}

/* Obeys the complete lines on stdin; returns 0 at its end. */
static int obey(struct road roads[2])
{
    static char line[256];
    static size_t have;
    ssize_t n = read(0, line + have, sizeof line - 1 - have);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return 0;
    if (n > 0) have += n;
    line[have] = 0;
    char *end, key[32], value[32];
    while ((end = strchr(line, '\n'))) {
        double seconds;
        *end = 0;
        if (!strcmp(line, "quit")) return 0;
        if (!strcmp(line, "stats")) stats(roads);
        else if (!strcmp(line, "restart")) set.schedule_start = now_ns();
        else if (sscanf(line, "drop %lf", &seconds) == 1) set.drop_until = now_ns() + (uint64_t)(seconds * 1e9);
        else if (sscanf(line, "set %31s %31s", key, value) != 2 || change(key, value))
            fprintf(stderr, "wanlink: not understood: %s\n", line);
        have -= end + 1 - line;
        memmove(line, end + 1, have + 1);
    }
    if (have >= sizeof line - 1) have = 0;
    return 1;
}

/* Before other work: a late packet is a slower road. */
static void hurry(void)
{
    struct sched_param first = {.sched_priority = 1};
    prctl(PR_SET_TIMERSLACK, 1);
    setpriority(PRIO_PROCESS, 0, -15);
    sched_setscheduler(0, SCHED_RR, &first);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc % 2 == 0) return fputs(usage, stderr), 2;
    for (int i = 3; i + 1 < argc; i += 2)
        if (strncmp(argv[i], "--", 2) || option(argv[i] + 2, argv[i + 1])) return fputs(usage, stderr), 2;
    /* one bandwidth-delay product of the round trip, at least 64 KB */
    if (!set.queue_bytes) set.queue_bytes = fmax(set.rate_mbit * 1e6 / 8 * 2 * set.delay_ms / 1e3, 65536);
    int a = tun_in(argv[1], "10.77.0.1", set.mtu, set.offload);
    int b = tun_in(argv[2], "10.77.0.2", set.mtu, set.offload);
    struct road roads[2] = {{.in = a, .out = b}, {.in = b, .out = a}};
    for (int i = 0; i < 2; i++) roads[i].ring = calloc(RING, sizeof(struct packet));
    hurry();
    fcntl(0, F_SETFL, O_NONBLOCK);
    set.schedule_start = now_ns();
    puts("READY");
    fflush(stdout);
    for (;;) {
        uint64_t t = now_ns(), next = t + IDLE_NS, when = apply_schedule(roads, t);
        if (when < next) next = when;
        for (int i = 0; i < 2; i++) {
            when = give(&roads[i], t);
            if (when < next) next = when;
        }
        t = now_ns();
        uint64_t sleep = next > t + SPIN_NS ? next - t : 0;
        struct timespec ts = {sleep / 1000000000ull, sleep % 1000000000ull};
        struct pollfd p[3] = {{a, POLLIN, 0}, {b, POLLIN, 0}, {0, POLLIN, 0}};
        ppoll(p, 3, &ts, NULL);
        t = now_ns();
        if (p[0].revents) take(&roads[0], t);
        if (p[1].revents) take(&roads[1], t);
        if (p[2].revents && !obey(roads)) return 0;
    }
}
