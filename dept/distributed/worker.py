"""Entry of one rank: `python -m dept.distributed.worker SESSION_FOLDER`, started by torchrun (`launch.py`)."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from dept.distributed import job
from infra.errors import InputError
from infra.identity import is_gone

WATCH_SECONDS = 0.5
ORPHANED = 71  # exit code of a rank whose flow is gone


def watch(owner: str) -> None:
    """End this process when the flow that owns the session or torchrun dies.

    torchrun puts each rank into a process group of its own, so that no signal to a group reaches it.
    """
    agent = os.getppid()

    def look() -> None:
        while os.getppid() == agent and not is_gone(owner):
            time.sleep(WATCH_SECONDS)
        print("the flow of this rank is gone: it ends", file=sys.stderr, flush=True)
        os._exit(ORPHANED)  # the main thread may be inside a collective for ever

    threading.Thread(target=look, name="watch", daemon=True).start()


def main() -> None:
    """Watch first, then import DeepSpeed, which takes seconds, and work."""
    folder = Path(sys.argv[1])
    settings = job.read_settings(folder)
    watch(settings.owner)
    from dept.distributed import ranks

    try:
        ranks.serve(folder, settings)
    except InputError as error:
        job.write_json(folder / job.ERROR, {"input_error": str(error)})
        raise


if __name__ == "__main__":
    main()
