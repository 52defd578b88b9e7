"""`python -m infra.set_up`: pools and automation on the server that Prefect is set to; for containers and clusters."""

from __future__ import annotations

import argparse
from pathlib import Path

from infra.crash_automation import ensure_crash_automation
from infra.pool_templates import templates
from infra.prefect_api import LIMITS, ensure_pools
from infra.secrets import masked


def main() -> None:
    """Make what is missing; limits that a person has set stay."""
    parser = argparse.ArgumentParser(prog="python -m infra.set_up", description=main.__doc__)
    parser.add_argument("--type", default="process", choices=("process", "docker", "kubernetes"), help="of the pools")
    parser.add_argument("--base-job-template", type=Path, help="JSON file, such as infra/k8s/work-pool.json")
    given = parser.parse_args()
    file: Path | None = given.base_job_template
    try:
        ensure_pools(kind=given.type, templates=templates(file, LIMITS) if file else None)
        ensure_crash_automation()
    except (OSError, ValueError) as error:  # no server, no file, no JSON
        parser.exit(1, f"error: {masked(error)}. Remedy: check PREFECT_API_URL and the template\n")


if __name__ == "__main__":
    main()
