/* Connections to the destination: directly, or through a proxy. */
#include "loadgen.h"

int tcp_connect(const struct sockaddr_in *a)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    nodelay(fd);
    timeouts(fd, tmo);
    if (connect(fd, (void *)a, sizeof *a)) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

/* opens a connection to `to` through the proxy, and waits for the proxy's reply */
int dial_to(const struct sockaddr_in *to)
{
    int fd = tcp_connect(kind == DIRECT ? to : &proxy);
    if (fd < 0) return -1;
    uint8_t b[600];
    if (kind == SOCKS5) {
        if (send_all(fd, "\x05\x01\x00", 3) || recv_all(fd, b, 2) || b[0] != 5 || b[1] != 0) goto bad;
        size_t n = 3;
        memcpy(b, "\x05\x01\x00", 3);
        if (dst_name) {
            size_t l = strlen(dst_name);
            b[n++] = 3, b[n++] = l;
            memcpy(b + n, dst_name, l), n += l;
        } else {
            b[n++] = 1;
            memcpy(b + n, &to->sin_addr, 4), n += 4;
        }
        memcpy(b + n, &to->sin_port, 2), n += 2;
        if (send_all(fd, b, n) || recv_all(fd, b, 5) || b[1] != 0) goto bad;
        n = b[3] == 1 ? 4 - 1 + 2 : b[3] == 4 ? 16 - 1 + 2 : b[3] == 3 ? b[4] + 2u : 0;
        if (!n || recv_all(fd, b, n)) goto bad;
    } else if (kind == HTTP) {
        char host[64];
        inet_ntop(AF_INET, &to->sin_addr, host, sizeof host);
        const char *hn = dst_name ? dst_name : host;
        int n = snprintf((char *)b, sizeof b, "CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n\r\n", hn, ntohs(to->sin_port),
                         hn, ntohs(to->sin_port));
        if (send_all(fd, b, n)) goto bad;
        int have = 0;
        for (;;) {
            if (have >= (int)sizeof b - 1 || recv_all(fd, b + have, 1)) goto bad;
            b[++have] = 0;
            if (have >= 4 && !memcmp(b + have - 4, "\r\n\r\n", 4)) break;
        }
        if (memcmp(b + 8, " 200", 4)) goto bad;
    }
    return fd;
bad:
    close(fd);
    errno = ECONNREFUSED;
    return -1;
}

int dial_mode(uint8_t mode, uint64_t a, uint64_t b, uint64_t seed)
{
    int fd = dial_to(&dst);
    if (fd < 0) return -1;
    struct hdr h = {{'L', 'G'}, mode, tag, nbytes ? 0 : lowat, a, b, seed};
    if (send_all(fd, &h, sizeof h)) {
        close(fd);
        return -1;
    }
    return fd;
}

int dial_direct(uint8_t mode, uint64_t seed)
{
    int fd = tcp_connect(&dst);
    if (fd < 0) return -1;
    struct hdr h = {{'L', 'G'}, mode, tag, 0, 0, 0, seed};
    send_all(fd, &h, sizeof h);
    return fd;
}

int ctl_query(int fd, uint64_t out[3])
{
    uint8_t t = tag;
    return send_all(fd, &t, 1) || recv_all(fd, out, 24);
}
