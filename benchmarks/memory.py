"""Memory of this process."""

import gc
import os
from pathlib import Path


def resident_size() -> int:
    """Bytes of memory that are resident now, after what is garbage was collected."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
