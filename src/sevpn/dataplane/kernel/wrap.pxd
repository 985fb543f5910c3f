# SPDX-License-Identifier: Apache-2.0
# The C types of wrap.py.

cimport cython

from sevpn.dataplane.kernel.primitives cimport get32, wrapped


@cython.locals(data="const unsigned char *", fitting=list, others=list, at=Py_ssize_t, end=Py_ssize_t, size=Py_ssize_t, count="unsigned int")
cpdef tuple wrap_frames(bytes batches, bytes head, Py_ssize_t limit)
