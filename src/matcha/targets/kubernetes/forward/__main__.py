"""`python -m matcha.targets.kubernetes.forward CONFIG.json`, started by the supervisor."""

from __future__ import annotations

import sys
from pathlib import Path

from matcha.targets.kubernetes.forward.process import main

if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
