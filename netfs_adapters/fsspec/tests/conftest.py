import sys
from pathlib import Path

# The tests' own modules (importlib mode puts no directory on the path).
sys.path.insert(0, str(Path(__file__).parent))
