/* Options, and the choice of what runs. */
#include "loadgen.h"

enum proxy_kind kind = DIRECT;
struct sockaddr_in proxy, dst;
const char *dst_name;
int conns = 1, msg = 64, count, hold_stdin, tag, paced_ms, up_load, lowat, spread;
double secs = 3, warm = 0.5, tmo = 10;
uint64_t nbytes;
_Atomic int stopping;

/* ---- spin: keeps every core awake at idle priority, so that latencies hold no wake-up time of sleeping cores */

static void *spin_worker(void *arg)
{
    uint64_t end = *(uint64_t *)arg;
    while (now_ns() < end)
        for (volatile int i = 0; i < 10000; i++) {}
    return NULL;
}

int run_spin(void)
{
    struct sched_param sp = {0};
    sched_setscheduler(0, SCHED_IDLE, &sp);
    setsid(); /* with autogroups, idle priority counts only inside a session: have one of our own, and make it the last in line */
    int f = open("/proc/self/autogroup", O_WRONLY);
    if (f >= 0 && write(f, "19", 2) > 0) {}
    if (f >= 0) close(f);
    uint64_t end = now_ns() + (uint64_t)(secs * 1e9);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t t[64];
    for (int i = 0; i < n && i < 64; i++) pthread_create(&t[i], NULL, spin_worker, &end);
    for (int i = 0; i < n && i < 64; i++) pthread_join(t[i], NULL);
    return 0;
}

static const char usage[] =
    "loadgen serve --listen H:P\n"
    "loadgen spin --secs S   keeps the cores awake at idle priority\n"
    "loadgen down|up|both|ping|load|churn|ttfb|idle|integrity|survive|recover --proxy socks5://H:P|http://H:P|forward://H:P|direct --dst H:P\n"
    "  --name HOST   ask the proxy for HOST instead of the address in --dst\n"
    "  --conns N     connections (bulk, integrity, survive), workers (churn), streams (idle), bulk streams (load)\n"
    "  --secs S --warm S   measured time, and time before it that is not measured\n"
    "  --bytes B     bulk: move B bytes per connection instead of running for --secs; integrity: bytes each way\n"
    "  --count N     churn/ttfb: stop after N connections     --msg N  message size (ping 64, churn reply 64)\n"
    "  --pace MS     pause between messages or connections    --timeout S  per operation (10)\n"
    "  --lowat KB    timed bulk: wake the receiver for no less than this (cheaper on loopback; leave it off elsewhere)\n"
    "  --upload      load: the load is an upload              --hold   idle: hold until a line comes on stdin\n"
    "  --spread      ttfb: the n-th connection goes to the n-th address from --dst on\n";

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    struct rlimit rl;
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    if (argc < 2) die("%s", usage);
    const char *mode = argv[1], *listen_at = NULL, *p = "direct", *d = NULL;
    for (int i = 2; i < argc; i++) {
        const char *o = argv[i];
        if (!strcmp(o, "--hold")) { hold_stdin = 1; continue; }
        if (!strcmp(o, "--upload")) { up_load = 1; continue; }
        if (!strcmp(o, "--spread")) { spread = 1; continue; }
        if (i + 1 >= argc) die("%s", usage);
        const char *v = argv[++i];
        if (!strcmp(o, "--listen")) listen_at = v;
        else if (!strcmp(o, "--proxy")) p = v;
        else if (!strcmp(o, "--dst")) d = v;
        else if (!strcmp(o, "--name")) dst_name = v;
        else if (!strcmp(o, "--conns")) conns = atoi(v);
        else if (!strcmp(o, "--secs")) secs = atof(v);
        else if (!strcmp(o, "--warm")) warm = atof(v);
        else if (!strcmp(o, "--bytes")) nbytes = strtoull(v, NULL, 10);
        else if (!strcmp(o, "--count")) count = atoi(v);
        else if (!strcmp(o, "--msg")) msg = atoi(v);
        else if (!strcmp(o, "--pace")) paced_ms = atoi(v);
        else if (!strcmp(o, "--timeout")) tmo = atof(v);
        else if (!strcmp(o, "--lowat")) lowat = atoi(v) << 10;
        else if (!strcmp(o, "--tag")) tag = atoi(v) & 255;
        else die("unknown option %s\n%s", o, usage);
    }
    if (!strcmp(mode, "serve")) return serve(listen_at);
    if (!strcmp(mode, "spin")) return run_spin();
    if (!d) die("%s", usage);
    dst = parse_addr(d);
    if (!strncmp(p, "socks5://", 9)) kind = SOCKS5, proxy = parse_addr(p + 9);
    else if (!strncmp(p, "http://", 7)) kind = HTTP, proxy = parse_addr(p + 7);
    else if (!strncmp(p, "forward://", 10)) kind = FORWARD, proxy = parse_addr(p + 10);
    else if (strcmp(p, "direct")) die("bad proxy %s", p);
    memfd_random();
    if (!strcmp(mode, "down")) return run_bulk('S');
    if (!strcmp(mode, "up")) return run_bulk('K');
    if (!strcmp(mode, "both")) return run_bulk('B');
    if (!strcmp(mode, "ping")) return run_ping();
    if (!strcmp(mode, "load")) return run_load();
    if (!strcmp(mode, "churn") || !strcmp(mode, "ttfb")) return run_churn(mode);
    if (!strcmp(mode, "idle")) return run_idle();
    if (!strcmp(mode, "integrity")) return run_integrity();
    if (!strcmp(mode, "survive")) return run_survive();
    if (!strcmp(mode, "recover")) return run_recover();
    die("%s", usage);
}
