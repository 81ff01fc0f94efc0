# syntax=docker/dockerfile:1
# fastmim_jax on CPUs, NVIDIA GPUs or TPUs:
#   docker build --build-arg ACCELERATOR=gpu -t fastmim_jax:gpu .
#   docker run --gpus all -v /images:/images -v /runs:/runs fastmim_jax:gpu pretrain --config=configs/own.py ...
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm

# cpu, gpu (CUDA 13; its libraries come with JAX's wheels) or tpu
ARG ACCELERATOR=cpu

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    JAX_COMPILATION_CACHE_DIR=/runs/.compiled

WORKDIR /opt/fastmim_jax
COPY requirements.txt pyproject.toml README.md LICENSE ./
COPY fastmim_jax fastmim_jax
COPY configs configs
RUN case "$ACCELERATOR" in \
      cpu) extras=demo,parquet,heif ;; \
      gpu|tpu) extras="demo,parquet,heif,$ACCELERATOR" ;; \
      *) echo "ACCELERATOR is $ACCELERATOR, expected cpu, gpu or tpu" >&2; exit 2 ;; \
    esac \
    && pip install --requirement requirements.txt ".[$extras]" \
    && useradd --create-home --uid 1000 fastmim \
    && install --directory --owner=fastmim /runs

# By number, which Kubernetes can check (runAsNonRoot).
USER 1000
WORKDIR /runs
VOLUME /runs
ENTRYPOINT ["fastmim"]
CMD ["--help"]
