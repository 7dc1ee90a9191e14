"""The names of this server's own extensions of QEMU's migration, as the schema declares them."""

from typing import Final

TOTAL_TIME: Final = "__org.qmpserver_total-time"
"""The parameter that promises a total, in milliseconds; 0: nothing is promised."""
FORECAST: Final = "__org.qmpserver_query-migration-forecast"
"""The command that tells whether a promise can be kept."""
LATE: Final = "__org.qmpserver_MIGRATION_LATE"
"""The event that tells that a promise cannot be kept any more."""
