"""A door to PEFT's method comparison: DePT trained on MetaMathQA and tested on GSM8K by their protocol.

The protocol and the layout of a result are those of https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA
(run.py, utils.py, data.py and default_training_params.json, read in November 2026); no code of it is used.
"""
