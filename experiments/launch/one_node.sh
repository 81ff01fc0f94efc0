#!/bin/bash
# One process for all GPUs of a node; it starts again from its newest whole checkpoint if it crashes.
set -u
: "${DATA:?the folder of the images}" "${WORKDIR:?the work directory}"
for attempt in 1 2 3 4 5; do
  fastmim pretrain --config="${CONFIG:-configs/fastmim.py:vit_b16}" --config.data.path="$DATA" --workdir="$WORKDIR"
  code=$?
  case $code in
    0 | 2 | 129 | 130 | 143) exit "$code" ;; # done, refused, or stopped by a signal
  esac
  echo "attempt $attempt ended with exit code $code" >&2
done
exit "$code"
