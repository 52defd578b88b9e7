"""Peak memory of one optimizer step, in a process of its own: python -m tests.bench.memory ours|authors."""

import json
import resource
import sys

from tests.bench import rivals, setting


def main(which):
    """Print the MiB that three steps add to the loaded backbone."""
    backbone = setting.backbone()
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    if which == "ours":
        step = setting.loop(backbone, setting.PAPER, [rows]).step
    else:
        step = rivals.authors(backbone.model, rows, backbone.pad_id, setting.PAPER.m, setting.PAPER.s, setting.PAPER.r)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        step()
    print(json.dumps({"mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}))


if __name__ == "__main__":
    main(sys.argv[1])
