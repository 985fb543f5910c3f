# SPDX-License-Identifier: Apache-2.0
# Each target sets up all that it needs by itself; the second time that is quick.
# PYTHON chooses the interpreter of .venv, 3.11 or newer: make test PYTHON=python3.12

PYTHON ?= python3
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test soak bench binary fuzz lock

help:
	@echo "make demo    server and client in private namespaces, and a report; under a minute"
	@echo "make test    the whole gate: format, lint, types, layers, unit, end to end"
	@echo "make soak    long repetitions and long fuzzing, by hand before a release"
	@echo "make bench   beside the official client and other VPNs; BENCH='--quick' to try it"
	@echo "make binary  dist/sevpn: all of it as one static executable"
	@echo "make fuzz    fuzz every decoder; FUZZ_SECONDS=60 for each"
	@echo "make lock    resolve requirements/*.in again, to hashed files"

demo:
	@scripts/bootstrap run
	@.venv/bin/sevpn demo

test:
	@scripts/bootstrap test
	@scripts/check

soak:
	@scripts/bootstrap test
	@scripts/check --soak

bench:
	@scripts/bootstrap test
	@.venv/bin/python -m bench.run $(BENCH)

binary:
	@scripts/bootstrap binary
	@scripts/binary

fuzz:
	@scripts/bootstrap test
	@scripts/check --only fuzz --fuzz-seconds $${FUZZ_SECONDS:-60}

lock:
	@scripts/lock
