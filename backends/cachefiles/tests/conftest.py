import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("fscache_core.testing.cache_contract")

# The tests' own modules (importlib mode puts no directory on the path).
sys.path.insert(0, str(Path(__file__).parent))
