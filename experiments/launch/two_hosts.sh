#!/bin/bash
# One run on plain hosts that ssh reaches: ./two_hosts.sh HOST1 HOST2 ... (process 0 runs on HOST1).
set -eu
: "${DATA:?the folder of the images}" "${WORKDIR:?a folder that all hosts share}"
hosts=("$@")
number=0
for host in "${hosts[@]}"; do
  ssh "$host" fastmim pretrain --config="${CONFIG:-configs/fastmim.py:vit_b16}" --config.data.path="$DATA" \
    --workdir="$WORKDIR" --coordinator="${hosts[0]}:${PORT:-9876}" --processes="${#hosts[@]}" \
    --process="$number" &
  number=$((number + 1))
done
trap 'kill -TERM $(jobs -p)' INT TERM
wait
