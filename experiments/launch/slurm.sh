#!/bin/bash
# 2 nodes of 8 GPUs, one process a GPU. Preempted or out of time, the job saves, is queued again and resumes.
#SBATCH --job-name=fastmim
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -u
: "${DATA:?the folder of the images}" "${WORKDIR:?a folder that all nodes share}"

srun --kill-on-bad-exit=0 fastmim pretrain --distributed --config="${CONFIG:-configs/fastmim.py:vit_b16}" \
  --config.data.path="$DATA" --config.run.workers=7 --workdir="$WORKDIR" &
step=$!
stopped=""
trap 'stopped=yes; kill -TERM "$step"' TERM
wait "$step"
code=$?
if [ -n "$stopped" ]; then # the first wait ended with the signal: wait until the run has saved
  wait "$step"
  code=$?
fi
[ "$code" -eq 143 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
