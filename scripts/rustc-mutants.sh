#!/bin/sh
# What scripts/mutants.sh has cargo call in place of rustc, for the crates of this workspace only.
exec "$@" --cfg outlay_mutants
