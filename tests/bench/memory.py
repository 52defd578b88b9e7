"""Peak memory of one optimizer step, in a process of its own: python -m tests.bench.memory ours|authors."""

import json
import re
import sys
from pathlib import Path

from tests.bench import baselines, setting


def status(name):
    """A figure of this process in MiB, from Linux: VmRSS (resident now) or VmHWM (the most so far)."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def main(which):
    """Print the MiB that two steps add to the loaded backbone at their peak."""
    backbone = setting.backbone()
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    if which == "ours":
        step = setting.loop(backbone, setting.PAPER, [rows]).step
    else:
        del backbone
        model = setting.plain_model()
        step = baselines.authors(model, rows, setting.PAPER.m, setting.PAPER.s, setting.PAPER.r)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    for _ in range(2):
        step()
    print(json.dumps({"mib": status("VmHWM") - before}))


if __name__ == "__main__":
    main(sys.argv[1])
