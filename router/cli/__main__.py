"""``python -m router.cli`` is ``tierwise``."""

from router.cli import main

raise SystemExit(main())
