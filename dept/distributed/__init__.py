"""The same training over several processes that share the backbone (DeepSpeed ZeRO-3)."""
