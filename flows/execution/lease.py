"""The hold on claimed trials: renewed by progress alone, so that work which hangs loses them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from flows.execution.stopping import Stopping
from registry.ledger import Claim, Ledger

RENEWALS = 6  # in the time of a lease


class LeaseLostError(Exception):
    """Another attempt holds some of the trials: this worker was silent for longer than its lease."""


class Lease:
    """The claims of one group of trials.

    Args:
        seconds: how long a claim holds without progress, by the database's clock.
        stopping: whether the work is to end; None: nobody is asked.
    """

    def __init__(
        self, ledger: Ledger, claims: Sequence[Claim], seconds: float, stopping: Stopping | None = None
    ) -> None:
        self.ledger, self.seconds, self.stopping = ledger, seconds, stopping or Stopping()
        self.claims = {claim.fingerprint: claim for claim in claims}
        self._renewed = time.monotonic()

    def progress(self, *_: object) -> None:
        """Say that work went on; renews the claims now and then. Any arguments, so that it can be a callback.

        Raises:
            LeaseLostError: another attempt holds a trial; what is still held stays claimed.
            StoppedError, RunEndedError: the work is to end.
        """
        self.stopping.check()
        if time.monotonic() - self._renewed >= self.seconds / RENEWALS:
            self.renew()

    def renew(self) -> None:
        """Renew the claims at once; as `progress`."""
        held = self.ledger.renew(list(self.claims.values()), self.seconds)
        self._renewed = time.monotonic()
        lost = self.claims.keys() - held
        for fingerprint in lost:
            del self.claims[fingerprint]
        if lost:
            raise LeaseLostError(f"{len(lost)} trials are held by another worker")

    def closed(self, fingerprint: str) -> None:
        """A trial that is finished, failed or lost needs no renewal."""
        self.claims.pop(fingerprint, None)

    def held(self, claims: Sequence[Claim]) -> set[str]:
        """Renew these claims and say which are still held; the others are dropped."""
        held = self.ledger.renew(claims, self.seconds)
        for claim in claims:
            if claim.fingerprint not in held:
                self.closed(claim.fingerprint)
        return held

    def release(self, claims: Iterable[Claim] | None = None) -> None:
        """Let go of claims; default of all that are left."""
        if going := list(self.claims.values() if claims is None else claims):
            self.ledger.release(going)
            for claim in going:
                self.closed(claim.fingerprint)
