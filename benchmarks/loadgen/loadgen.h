/*
 * loadgen - traffic generator for measuring proxy tunnels.
 *
 *   loadgen serve  --listen HOST:PORT
 *   loadgen MODE   --proxy socks5://H:P | http://H:P | forward://H:P | direct  --dst H:P [options]
 *
 * It costs as little CPU as it can, so that it is not what is measured: bulk data is sent with
 * sendfile() from a memfd of random bytes (no copy in user space) and received with recv(MSG_TRUNC),
 * which throws TCP data away inside the kernel.  Blocking sockets and threads; the destination serves
 * small connections (echo, request and response, idle) from one epoll loop, so that 10,000 of them
 * cost no threads.
 *
 * Every mode prints one JSON object on stdout; times are in the unit their names end with.
 */
#ifndef LOADGEN_H
#define LOADGEN_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MEMSZ (8u << 20)   /* bytes of the memfd: more than a last-level cache would keep for free */
#define CHUNK (256u << 10) /* bytes a call: large enough that the calls do not count */

/*
 * Every connection starts with this header; `mode` picks what the destination does:
 *   'E' echo          'R' reply with a bytes, then echo      'S' source (a bytes, 0 = endless)
 *   'K' sink          'B' source and sink at once            'C' control: report counters
 *   'H' read to EOF, then reply with count + hash of all of it + b bytes made from the hash
 *   'I' send a pseudo-random bytes while checking the client's; after the client's EOF report the verdict
 *   'F' send a bytes, shutdown(WR), then check what the client sends afterwards; 'Q' asks for that verdict
 */
struct hdr {
    uint8_t magic[2]; /* 'L', 'G' */
    uint8_t mode;
    uint8_t tag;    /* which of 256 pairs of counters counts its bytes */
    uint32_t lowat; /* SO_RCVLOWAT for the destination's sink */
    uint64_t a, b, seed;
} __attribute__((packed));
_Static_assert(sizeof(struct hdr) == 32, "header size");

/* ---- options (main.c) */
enum proxy_kind { DIRECT, SOCKS5, HTTP, FORWARD }; /* FORWARD: a port that leads to the destination */
extern enum proxy_kind kind;
extern struct sockaddr_in proxy, dst;
extern const char *dst_name; /* ask the proxy for this host name, not for an address */
extern int conns, msg, count, hold_stdin, tag, paced_ms, up_load, lowat, spread;
extern double secs, warm, tmo;
extern uint64_t nbytes;
extern _Atomic int stopping; /* bulk threads end */

/* ---- common.c */
struct lat { uint64_t *v; size_t n, cap; }; /* nanoseconds */
uint64_t now_ns(void);
void sleep_until(uint64_t t);
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
struct sockaddr_in parse_addr(const char *s);
void nodelay(int fd);
void timeouts(int fd, double s);
int send_all(int fd, const void *p, size_t n); /* 0, or -1 */
int recv_all(int fd, void *p, size_t n);       /* 0; -1 error; 1 EOF before n */
void lat_add(struct lat *l, uint64_t v);
void lat_print(const char *name, struct lat *l); /* "NAME_p50_us":...,  */
uint64_t rnd_seed(void);
void cpu_print(void); /* "loadgen_cpu":SECONDS} and the end of the line */

/* ---- data.c */
struct hash { uint64_t h, n, part; };
struct prng_out { int fd; uint64_t n, seed; int ok; };
void prng_fill(uint8_t *buf, uint64_t off, size_t len, uint64_t seed);
void hash_add(struct hash *s, const uint8_t *p, size_t len);
uint64_t hash_end(struct hash *s);
int memfd_random(void);
uint64_t pump_out(int fd, uint64_t left, _Atomic int *stop, _Atomic uint64_t *ctr);
uint64_t pump_in(int fd, uint64_t want, _Atomic int *stop, _Atomic uint64_t *ctr);
void *prng_send(void *prng_out);
uint64_t prng_check(int fd, uint64_t want, uint64_t seed, int *bad, int *eof);

/* ---- dial.c: -1 on failure, with errno */
int tcp_connect(const struct sockaddr_in *a);
int dial_to(const struct sockaddr_in *to);
int dial_mode(uint8_t mode, uint64_t a, uint64_t b, uint64_t seed);
int dial_direct(uint8_t mode, uint64_t seed);
int ctl_query(int fd, uint64_t out[3]); /* bytes received, bytes sent, the destination's time */

/* ---- bulk.c */
struct bulk { int fd; uint8_t mode; _Atomic uint64_t in, out; pthread_t ti, to; int ok; };
int bulk_start(struct bulk *b, uint8_t mode);
void bulk_stop(struct bulk *b);
void bulk_sum(struct bulk *b, int n, uint64_t *in, uint64_t *out);

/* ---- what can be run; the exit status */
int serve(const char *listen_at);
int run_bulk(uint8_t mode);
int run_ping(void);
int run_load(void);
int run_churn(const char *name);
int run_idle(void);
int run_integrity(void);
int run_survive(void);
int run_recover(void);
int run_spin(void);
#endif
