/* TUN devices, and what is in the packets they carry. */
#include "wanlink.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Packets that wait in the kernel for us, beyond what TCP's own limits let pile up. */
#define KERNEL_QUEUE 5000

void fail(const char *what)
{
    perror(what);
    exit(1);
}

int tun_in(const char *netns, const char *address, int mtu, int offload)
{
    char path[300];
    snprintf(path, sizeof path, "/run/netns/%s", netns);
    int there = open(path, O_RDONLY | O_CLOEXEC);
    if (there < 0 || setns(there, CLONE_NEWNET)) fail(path);
    close(there);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) fail("/dev/net/tun");
    struct ifreq r = {0};
    strcpy(r.ifr_name, "wan0");
    r.ifr_flags = IFF_TUN | IFF_NO_PI | (offload ? IFF_VNET_HDR : 0);
    if (ioctl(fd, TUNSETIFF, &r)) fail("TUNSETIFF");
    if (offload && ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)) fail("TUNSETOFFLOAD");
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in *a = (void *)&r.ifr_addr;
    memset(&r.ifr_addr, 0, sizeof r.ifr_addr);
    a->sin_family = AF_INET;
    inet_pton(AF_INET, address, &a->sin_addr);
    if (ioctl(s, SIOCSIFADDR, &r)) fail("SIOCSIFADDR");
    inet_pton(AF_INET, "255.255.255.0", &a->sin_addr);
    if (ioctl(s, SIOCSIFNETMASK, &r)) fail("SIOCSIFNETMASK");
    r.ifr_mtu = mtu;
    if (ioctl(s, SIOCSIFMTU, &r)) fail("SIOCSIFMTU");
    r.ifr_qlen = KERNEL_QUEUE;
    ioctl(s, SIOCSIFTXQLEN, &r);
    ioctl(s, SIOCGIFFLAGS, &r);
    r.ifr_flags |= IFF_UP | IFF_RUNNING;
    if (ioctl(s, SIOCSIFFLAGS, &r)) fail("SIOCSIFFLAGS");
    close(s);
    return fd;
}

size_t wire_size(const uint8_t *packet, size_t n, int offload)
{
    struct virtio_net_hdr h = {0};
    size_t skip = offload ? sizeof h : 0;
    if (n <= skip || packet[skip] >> 4 != 4) return 0; /* IPv6 housekeeping */
    if (!offload) return n;
    memcpy(&h, packet, sizeof h);
    n -= skip;
    if (h.gso_type == VIRTIO_NET_HDR_GSO_NONE || !h.gso_size || n <= h.hdr_len) return n;
    size_t segments = (n - h.hdr_len + h.gso_size - 1) / h.gso_size;
    return n + (segments - 1) * h.hdr_len;
}
