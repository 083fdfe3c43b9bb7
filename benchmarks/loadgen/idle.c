/* Many streams held open. */
#include "loadgen.h"

static int *idle_fd;
static _Atomic int idle_next, idle_good;
static void *idle_open(void *arg)
{
    (void)arg;
    for (;;) {
        int i = idle_next++;
        if (i >= conns) break;
        idle_fd[i] = -1;
        for (int k = 0; k < 2 && idle_fd[i] < 0; k++) {
            int fd = dial_mode('E', 0, 0, 0);
            uint8_t c = i, r;
            if (fd >= 0 && (send_all(fd, &c, 1) || recv_all(fd, &r, 1) || r != c)) close(fd), fd = -1;
            idle_fd[i] = fd;
        }
        if (idle_fd[i] >= 0) idle_good++;
        else if (i - idle_good > 200) break;
    }
    return NULL;
}

int run_idle(void)
{
    idle_fd = malloc(sizeof(int) * conns);
    for (int i = 0; i < conns; i++) idle_fd[i] = -1;
    int nt = 64;
    pthread_t t[64];
    uint64_t t0 = now_ns();
    for (int i = 0; i < nt; i++) pthread_create(&t[i], NULL, idle_open, NULL);
    for (int i = 0; i < nt; i++) pthread_join(t[i], NULL);
    double opened = (now_ns() - t0) / 1e9;
    printf("{\"mode\":\"idle-opened\",\"want\":%d,\"ok\":%d,\"open_secs\":%.2f}\n", conns, idle_good, opened);
    fflush(stdout);
    if (hold_stdin) {
        char line[64];
        if (!fgets(line, sizeof line, stdin)) return 1;
    } else sleep_until(now_ns() + (uint64_t)(secs * 1e9));
    int alive = 0;
    for (int i = 0; i < conns; i++) {
        if (idle_fd[i] < 0) continue;
        uint8_t c = i ^ 0x5a;
        send_all(idle_fd[i], &c, 1);
    }
    uint64_t dead = now_ns() + (uint64_t)20e9;
    for (int i = 0; i < conns; i++) {
        if (idle_fd[i] < 0) continue;
        uint8_t r;
        if (now_ns() > dead) timeouts(idle_fd[i], 0.001);
        if (recv_all(idle_fd[i], &r, 1) == 0 && r == (uint8_t)(i ^ 0x5a)) alive++;
    }
    printf("{\"mode\":\"idle\",\"want\":%d,\"ok\":%d,\"alive\":%d,\"open_secs\":%.2f,", conns, idle_good, alive, opened);
    cpu_print();
    fflush(stdout);
    return alive != conns;
}
