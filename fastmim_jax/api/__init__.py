"""The Python interface: what `fastmim_jax` exports, built on the functions that the commands run."""
