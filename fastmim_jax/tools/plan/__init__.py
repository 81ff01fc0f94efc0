"""`fastmim plan`: memory, work and a bound on the time of a run, compiled for hardware that is not here."""
