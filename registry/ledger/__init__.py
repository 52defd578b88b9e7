"""The ledger: one row per trial, in a database."""

from registry.ledger.claims import Claim
from registry.ledger.ledger import Ledger

__all__ = ["Claim", "Ledger"]
