"""The lock around what is imported at its first use, which a fork waits for.

The libraries of the adapters take longer to import than a cached file takes to read, so they are imported
when an origin is first needed, in whatever thread that is.  In a child that was forked meanwhile the module
would stay locked by a thread that is not there, and who imports it would wait for ever.

Around the import alone, never around a connection: whoever forks waits.  Where the import is known to be
done, as on a hot path, the lock is not needed.
"""

import os
import threading

#: As ``with importing: import library``.  May be entered again by the thread that has it.
importing = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release
    )
