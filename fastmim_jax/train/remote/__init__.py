"""Runs whose work directory is an address in an object store: worked on in a copy that is uploaded."""
