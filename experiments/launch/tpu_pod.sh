#!/bin/bash
# All workers of a TPU pod: ./tpu_pod.sh POD ZONE. $WORKDIR and $DATA lie on a disk that every worker mounts.
set -eu
: "${DATA:?the folder of the images}" "${WORKDIR:?a folder that all workers share}"
pod=$1 zone=$2
run() { gcloud compute tpus tpu-vm ssh "$pod" --zone="$zone" --worker=all --command="$1"; }
run "pip install 'fastmim_jax[tpu]'"
run "nohup fastmim pretrain --distributed --config=${CONFIG:-configs/fastmim.py:vit_b16} \
  --config.data.path='$DATA' --workdir='$WORKDIR' > fastmim.log 2>&1 &"
