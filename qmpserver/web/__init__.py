"""HTTP in front of a machine's monitors.  Needs aiohttp: import it only where it is asked for."""
