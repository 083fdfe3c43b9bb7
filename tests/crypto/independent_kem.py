"""An ML-KEM-768 of our own, written from FIPS 203 for cross-checking.

In integers and lists, with the algorithms' numbers; shares nothing with `phantom` or OpenSSL.
"""

from __future__ import annotations

from hashlib import sha3_256, sha3_512, shake_128, shake_256

Q, N, K = 3329, 256, 3
DU, DV = 10, 4
ETA = 2


def reversed_bits(number):
    return int(f"{number:07b}"[::-1], 2)


ZETA = [pow(17, reversed_bits(i), Q) for i in range(128)]
GAMMA = [pow(17, 2 * reversed_bits(i) + 1, Q) for i in range(128)]


def to_bytes(values, bits):
    """Algorithm 5, ByteEncode."""
    number = sum(value << (bits * place) for place, value in enumerate(values))
    return number.to_bytes(32 * bits, "little")


def from_bytes(data, bits):
    """Algorithm 6, ByteDecode."""
    number = int.from_bytes(data, "little")
    modulus = Q if bits == 12 else 1 << bits
    return [(number >> (bits * place)) % (1 << bits) % modulus for place in range(N)]


def compress(values, bits):
    return [((x << (bits + 1)) + Q) // (2 * Q) % (1 << bits) for x in values]


def decompress(values, bits):
    return [(2 * Q * y + (1 << bits)) >> (bits + 1) for y in values]


def sample_ntt(seed):
    """Algorithm 7."""
    stream, out, place = shake_128(seed).digest(1344), [], 0
    while len(out) < N:
        a, b, c = stream[place : place + 3]
        place += 3
        for d in (a + 256 * (b % 16), b // 16 + 16 * c):
            if d < Q and len(out) < N:
                out.append(d)
    return out


def sample_cbd(key, number):
    """Algorithm 8, over the PRF of 4.1."""
    bits = int.from_bytes(shake_256(key + bytes([number])).digest(64 * ETA), "little")
    out = []
    for i in range(N):
        four = bits >> (4 * i)
        out.append(((four & 1) + (four >> 1 & 1) - (four >> 2 & 1) - (four >> 3 & 1)) % Q)
    return out


def ntt(f):
    """Algorithm 9."""
    f, i, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta, i = ZETA[i], i + 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
        length //= 2
    return f


def inverse_ntt(f):
    """Algorithm 10."""
    f, i, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta, i = ZETA[i], i - 1
            for j in range(start, start + length):
                t = f[j]
                f[j], f[j + length] = (t + f[j + length]) % Q, zeta * (f[j + length] - t) % Q
        length *= 2
    return [x * 3303 % Q for x in f]


def multiply(f, g):
    """Algorithms 11 and 12."""
    out = []
    for i in range(128):
        a, b, c, d = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        out += [(a * c + b * d * GAMMA[i]) % Q, (a * d + b * c) % Q]
    return out


def add(f, g):
    return [(x + y) % Q for x, y in zip(f, g, strict=True)]


def inner(f, g):
    total = [0] * N
    for a, b in zip(f, g, strict=True):
        total = add(total, multiply(a, b))
    return total


def matrix(rho):
    return [[sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def key_pair(d, z):
    """Algorithms 13 and 16: the encapsulation and the decapsulation key."""
    g = sha3_512(d + bytes([K])).digest()
    rho, sigma = g[:32], g[32:]
    s = [ntt(sample_cbd(sigma, n)) for n in range(K)]
    e = [ntt(sample_cbd(sigma, K + n)) for n in range(K)]
    t = [add(inner(row, s), error) for row, error in zip(matrix(rho), e, strict=True)]
    public = b"".join(to_bytes(f, 12) for f in t) + rho
    private = b"".join(to_bytes(f, 12) for f in s)
    return public, private + public + sha3_256(public).digest() + z


def encrypt(public, m, r):
    """Algorithm 14."""
    t = [from_bytes(public[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    a = matrix(public[384 * K :])
    y = [ntt(sample_cbd(r, n)) for n in range(K)]
    u = [
        add(inverse_ntt(inner([a[j][i] for j in range(K)], y)), sample_cbd(r, K + i))
        for i in range(K)
    ]
    mu = decompress(from_bytes(m, 1), 1)
    v = add(add(inverse_ntt(inner(t, y)), sample_cbd(r, 2 * K)), mu)
    return b"".join(to_bytes(compress(f, DU), DU) for f in u) + to_bytes(compress(v, DV), DV)


def encapsulate(public, m):
    """Algorithm 17: the shared secret and the ciphertext; `m` is the randomness."""
    g = sha3_512(m + sha3_256(public).digest()).digest()
    return g[:32], encrypt(public, m, g[32:])


def decapsulate(private, ciphertext):
    """Algorithms 15 and 18."""
    public, h, z = private[1152:2336], private[2336:2368], private[2368:]
    s = [from_bytes(private[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    size = 32 * DU
    u = [decompress(from_bytes(ciphertext[size * i : size * (i + 1)], DU), DU) for i in range(K)]
    v = decompress(from_bytes(ciphertext[size * K :], DV), DV)
    w = inverse_ntt(inner(s, [ntt(f) for f in u]))
    m = to_bytes(compress([(x - y) % Q for x, y in zip(v, w, strict=True)], 1), 1)
    g = sha3_512(m + h).digest()
    if encrypt(public, m, g[32:]) == ciphertext:
        return g[:32]
    return shake_256(z + ciphertext).digest(32)
