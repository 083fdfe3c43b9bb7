/* Bytes to send and to check: pseudo-random data, hashes, and bulk without copies. */
#include "loadgen.h"

static inline uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* byte `off` of the stream of `seed` depends only on (seed, off) */
void prng_fill(uint8_t *buf, uint64_t off, size_t len, uint64_t seed)
{
    uint64_t base = mix(seed) ^ 0xa5a5a5a5deadbeefull;
    while (len && (off & 7)) {
        *buf++ = mix(base + (off >> 3)) >> (8 * (off & 7));
        off++, len--;
    }
    while (len >= 8) {
        uint64_t w = mix(base + (off >> 3));
        memcpy(buf, &w, 8);
        buf += 8, off += 8, len -= 8;
    }
    while (len--) {
        *buf++ = mix(base + (off >> 3)) >> (8 * (off & 7));
        off++;
    }
}

void hash_add(struct hash *s, const uint8_t *p, size_t len)
{
    while (len && (s->n & 7)) {
        s->part |= (uint64_t)*p++ << (8 * (s->n & 7));
        s->n++, len--;
        if (!(s->n & 7)) s->h = mix(s->h ^ s->part), s->part = 0;
    }
    while (len >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        s->h = mix(s->h ^ w);
        p += 8, s->n += 8, len -= 8;
    }
    while (len--) {
        s->part |= (uint64_t)*p++ << (8 * (s->n & 7));
        s->n++;
    }
}

uint64_t hash_end(struct hash *s) { return mix(s->h ^ s->part ^ mix(s->n)); }

int memfd_random(void)
{
    static int fd = -1;
    static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&m);
    if (fd < 0) {
        fd = memfd_create("random", 0);
        uint8_t *p = malloc(MEMSZ);
        prng_fill(p, 0, MEMSZ, 4242);
        for (size_t o = 0; o < MEMSZ;) o += write(fd, p + o, MEMSZ - o);
        free(p);
    }
    pthread_mutex_unlock(&m);
    return fd;
}

/* send `left` bytes (UINT64_MAX = until it fails or *stop); returns bytes sent */
uint64_t pump_out(int fd, uint64_t left, _Atomic int *stop, _Atomic uint64_t *ctr)
{
    int mf = memfd_random();
    uint64_t total = 0;
    off_t off = 0;
    while (left && !(stop && *stop)) {
        if (off >= (off_t)MEMSZ) off = 0;
        size_t n = MEMSZ - off;
        if (n > CHUNK) n = CHUNK;
        if (n > left) n = left;
        ssize_t r = sendfile(fd, mf, &off, n);
        if (r < 0) {
            if (errno == EINTR) continue;
            break;
        }
        if (r == 0) { off = 0; continue; }
        total += r;
        if (left != UINT64_MAX) left -= r;
        if (ctr) *ctr += r;
    }
    return total;
}

/* throw away what comes until EOF/error/`want` bytes */
uint64_t pump_in(int fd, uint64_t want, _Atomic int *stop, _Atomic uint64_t *ctr)
{
    uint64_t total = 0;
    while (total < want && !(stop && *stop)) {
        size_t n = want - total < (16u << 20) ? want - total : (16u << 20);
        ssize_t r = recv(fd, NULL, n, MSG_TRUNC);
        if (r < 0) {
            if (errno == EINTR) continue;
            break;
        }
        if (!r) break;
        total += r;
        if (ctr) *ctr += r;
    }
    return total;
}

void *prng_send(void *arg)
{
    struct prng_out *o = arg;
    uint8_t *b = malloc(CHUNK);
    uint64_t off = 0;
    o->ok = 1;
    while (off < o->n) {
        size_t n = o->n - off < CHUNK ? o->n - off : CHUNK;
        prng_fill(b, off, n, o->seed);
        if (send_all(o->fd, b, n)) { o->ok = 0; break; }
        off += n;
    }
    free(b);
    return NULL;
}

/* receives up to `want` bytes (UINT64_MAX: to EOF) and compares; returns count, *bad, *eof */
uint64_t prng_check(int fd, uint64_t want, uint64_t seed, int *bad, int *eof)
{
    uint8_t *b = malloc(CHUNK), *e = malloc(CHUNK);
    uint64_t off = 0;
    *bad = 0, *eof = 0;
    while (off < want) {
        size_t n = want - off < CHUNK ? want - off : CHUNK;
        ssize_t r = recv(fd, b, n, 0);
        if (r < 0) {
            if (errno == EINTR) continue;
            *eof = -1;
            break;
        }
        if (!r) { *eof = 1; break; }
        prng_fill(e, off, r, seed);
        if (memcmp(e, b, r)) *bad = 1;
        off += r;
    }
    free(b), free(e);
    return off;
}
