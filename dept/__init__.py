"""The method: DePT adapters on a frozen backbone, trained and evaluated as a stack."""
