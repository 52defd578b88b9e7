"""The ledger: one row per trial, in a database."""
