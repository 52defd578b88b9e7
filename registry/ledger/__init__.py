"""The ledger: one row per trial, in a database."""

from registry.ledger.claims import LEASE_SECONDS, Claim
from registry.ledger.ledger import Ledger

__all__ = ["LEASE_SECONDS", "Claim", "Ledger"]
