# SPDX-License-Identifier: Apache-2.0
# The C half of primitives.py: the same promises, no bound checked.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcmp, memcpy

from sevpn.dataplane.kernel.constants cimport MESSAGE_ROOM, MESSAGES, NAME_SIZE

cdef extern from *:
    """
    #include <errno.h>
    #include <netinet/in.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <unistd.h>

    #ifndef UDP_GRO
    #define UDP_GRO 104  /* older headers */
    #endif

    /* Words are added as they lie in memory, and the sum is turned at the end:
       one's complement addition does not care (RFC 1071 section 2 (B)). */
    static inline unsigned int sevpn_ones_sum(const unsigned char *data, size_t size)
    {
        uint64_t sum = 0;
        uint32_t word;
        unsigned char rest[4] = {0, 0, 0, 0};
        size_t at = 0;
        for (; at + 4 <= size; at += 4) {
            memcpy(&word, data + at, 4);
            sum += word;
        }
        if (at < size) {
            memcpy(rest, data + at, size - at);
            memcpy(&word, rest, 4);
            sum += word;
        }
        while (sum >> 16)
            sum = (sum & 0xFFFF) + (sum >> 16);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        sum = (sum >> 8 | sum << 8) & 0xFFFF;
    #endif
        return (unsigned int)sum;
    }

    static inline Py_ssize_t sevpn_read(int descriptor, unsigned char *data, size_t size)
    {
        ssize_t got;
        do
            got = read(descriptor, data, size);
        while (got < 0 && errno == EINTR);
        return got < 0 ? -errno : got;
    }

    static inline int sevpn_write_pieces(int descriptor, unsigned char *head, size_t head_size,
                                         unsigned char *data, const int *starts, const int *sizes, int count)
    {
        struct iovec pieces[65];
        unsigned char whole[2048];
        int index, used = 0;
        ssize_t sent;
        if (count == 1 && head_size + sizes[0] <= sizeof whole) {
            /* To copy a frame costs less than to have the kernel gather two pieces. */
            memcpy(whole, head, head_size);
            memcpy(whole + head_size, data + starts[0], sizes[0]);
            do
                sent = write(descriptor, whole, head_size + sizes[0]);
            while (sent < 0 && errno == EINTR);
            return sent < 0 ? errno : 0;
        }
        if (head_size) {
            pieces[0].iov_base = head;
            pieces[0].iov_len = head_size;
            used = 1;
        }
        for (index = 0; index < count; index++, used++) {
            pieces[used].iov_base = data + starts[index];
            pieces[used].iov_len = sizes[index];
        }
        do
            sent = writev(descriptor, pieces, used);
        while (sent < 0 && errno == EINTR);
        return sent < 0 ? errno : 0;
    }

    static inline int sevpn_receive(int descriptor, unsigned char *arena, size_t room, int count,
                                    int *sizes, int *steps, unsigned char *names, size_t name_size)
    {
        struct mmsghdr messages[32];
        struct iovec pieces[32];
        union { struct cmsghdr head; char bytes[CMSG_SPACE(sizeof(int))]; } extras[32];
        struct cmsghdr *extra;
        int index, got;
        memset(names, 0, count * name_size);
        for (index = 0; index < count; index++) {
            pieces[index].iov_base = arena + index * room;
            pieces[index].iov_len = room;
            memset(&messages[index], 0, sizeof messages[index]);
            messages[index].msg_hdr.msg_name = names + index * name_size;
            messages[index].msg_hdr.msg_namelen = (socklen_t)name_size;
            messages[index].msg_hdr.msg_iov = &pieces[index];
            messages[index].msg_hdr.msg_iovlen = 1;
            messages[index].msg_hdr.msg_control = &extras[index];
            messages[index].msg_hdr.msg_controllen = sizeof extras[index];
        }
        got = recvmmsg(descriptor, messages, (unsigned int)count, MSG_DONTWAIT, NULL);
        if (got < 0)
            return -errno;
        for (index = 0; index < got; index++) {
            sizes[index] = (int)messages[index].msg_len;
            steps[index] = 0;
            for (extra = CMSG_FIRSTHDR(&messages[index].msg_hdr); extra != NULL;
                 extra = CMSG_NXTHDR(&messages[index].msg_hdr, extra))
                if (extra->cmsg_level == IPPROTO_UDP && extra->cmsg_type == UDP_GRO)
                    memcpy(&steps[index], CMSG_DATA(extra), sizeof(int));
        }
        return got;
    }
    """
    unsigned int sevpn_ones_sum(const unsigned char *data, size_t size) noexcept nogil
    Py_ssize_t sevpn_read(int descriptor, unsigned char *data, size_t size) noexcept nogil
    int sevpn_write_pieces(int descriptor, unsigned char *head, size_t head_size, unsigned char *data, const int *starts, const int *sizes, int count) noexcept nogil
    int sevpn_receive(int descriptor, unsigned char *arena, size_t room, int count, int *sizes, int *steps, unsigned char *names, size_t name_size) noexcept nogil


cdef inline void copy(unsigned char *target, Py_ssize_t at, const unsigned char *source, Py_ssize_t begin, Py_ssize_t size) noexcept nogil:
    memcpy(target + at, source + begin, <size_t>size)


cdef inline bint is_same(const unsigned char *one, Py_ssize_t at, const unsigned char *other, Py_ssize_t begin, Py_ssize_t size) noexcept nogil:
    return memcmp(one + at, other + begin, <size_t>size) == 0


cdef inline unsigned int ones_sum(const unsigned char *data, Py_ssize_t begin, Py_ssize_t size) noexcept nogil:
    return sevpn_ones_sum(data + begin, <size_t>size)


cdef inline unsigned int get16(const unsigned char *data, Py_ssize_t at) noexcept nogil:
    return <unsigned int>data[at] << 8 | data[at + 1]


cdef inline unsigned int get32(const unsigned char *data, Py_ssize_t at) noexcept nogil:
    return <unsigned int>data[at] << 24 | <unsigned int>data[at + 1] << 16 | <unsigned int>data[at + 2] << 8 | data[at + 3]


cdef inline unsigned int get16_little(const unsigned char *data, Py_ssize_t at) noexcept nogil:
    return data[at] | <unsigned int>data[at + 1] << 8


cdef inline void put16(unsigned char *data, Py_ssize_t at, unsigned int value) noexcept nogil:
    data[at] = <unsigned char>(value >> 8)
    data[at + 1] = <unsigned char>value


cdef inline void put32(unsigned char *data, Py_ssize_t at, unsigned int value) noexcept nogil:
    data[at] = <unsigned char>(value >> 24)
    data[at + 1] = <unsigned char>(value >> 16)
    data[at + 2] = <unsigned char>(value >> 8)
    data[at + 3] = <unsigned char>value


cdef inline void put16_little(unsigned char *data, Py_ssize_t at, unsigned int value) noexcept nogil:
    data[at] = <unsigned char>value
    data[at + 1] = <unsigned char>(value >> 8)


cdef inline Py_ssize_t read_into(int descriptor, unsigned char *data, Py_ssize_t at, Py_ssize_t size) noexcept nogil:
    return sevpn_read(descriptor, data + at, <size_t>size)


cdef inline int write_pieces(int descriptor, unsigned char *head, Py_ssize_t head_size, unsigned char *data, int[::1] starts, int[::1] sizes, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    return sevpn_write_pieces(descriptor, head, <size_t>head_size, data, &starts[0] + first, &sizes[0] + first, <int>count)


cdef inline bytes piece(unsigned char[::1] data, Py_ssize_t at, Py_ssize_t size):
    return PyBytes_FromStringAndSize(<char *>&data[0] + at, size)


cdef inline int receive_messages(int descriptor, unsigned char[::1] arena, int[::1] sizes, int[::1] steps, unsigned char *names) noexcept nogil:
    return sevpn_receive(descriptor, &arena[0], MESSAGE_ROOM, MESSAGES, &sizes[0], &steps[0], names, NAME_SIZE)


cdef inline bytes wrapped(bytes head, const unsigned char *data, Py_ssize_t at, Py_ssize_t size):
    cdef Py_ssize_t begin = len(head)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, begin + 3 + size)
    cdef unsigned char *target = <unsigned char *>PyBytes_AS_STRING(made)
    memcpy(target, PyBytes_AS_STRING(head), <size_t>begin)
    target[begin] = <unsigned char>(size >> 8)
    target[begin + 1] = <unsigned char>(size & 255)
    target[begin + 2] = 0
    memcpy(target + begin + 3, data + at, <size_t>size)
    return made
