import pytest

pytest.register_assert_rewrite("fscache_core.testing")
