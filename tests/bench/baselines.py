"""What ours is measured against: the authors' way, PEFT, and the floor. Each is a function that makes one step."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def padded(rows, device, side="right", length=None):
    """Token ids, mask and labels of rows with their label word behind the text: [R, length] each."""
    whole = [(row.source + row.candidates[0], len(row.source)) for row in rows]
    width = length or max(len(ids) for ids, _ in whole)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for i, (tokens, n) in enumerate(whole):
        at = width - len(tokens) if side == "left" else 0
        ids[i, at : at + len(tokens)] = torch.tensor(tokens)
        mask[i, at : at + len(tokens)] = 1
        labels[i, at + n : at + len(tokens)] = torch.tensor(tokens[n:])
    return ids.to(device), mask.to(device), labels.to(device)


def authors(model, rows, m, s, r, alpha=8.0):
    """The authors' way: every text padded to s, the prompt concatenated to each row, logits of all positions."""
    d = model.get_input_embeddings().weight.shape[1]
    like = {"device": model.device, "dtype": model.dtype}
    p, a, b = (torch.nn.Parameter(torch.randn(shape, **like) * 0.02) for shape in ((m, d), (s, r), (r, d)))
    optimizer = torch.optim.AdamW([{"params": [p], "lr": 0.01}, {"params": [a, b], "lr": 0.001}])
    ids, mask, labels = padded(rows, model.device, "left", s)

    def step():
        embedded = model.get_input_embeddings()(ids) + alpha / math.sqrt(r) * (a @ b)
        whole = torch.cat([p.expand(len(ids), -1, -1), embedded], dim=1)
        seen = torch.cat([mask.new_ones(len(ids), m), mask], dim=1)
        wanted = functional.pad(labels, (m, 0), value=-100)
        model(inputs_embeds=whole, attention_mask=seen, labels=wanted).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peft_step(model, rows):
    """One training step of a PEFT model with dynamic padding, as its documentation shows it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.001)
    ids, mask, labels = padded(rows, model.device)

    def step():
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def prompt_tuning(model, tokens, name="default"):
    """PEFT prompt tuning on a frozen causal model."""
    from peft import PromptTuningConfig, TaskType, get_peft_model

    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=tokens)
    return get_peft_model(model, config, adapter_name=name)


def lora(model, where):
    """PEFT LoRA r=1 on the query and value projections, which are `where`."""
    from peft import LoraConfig, TaskType, get_peft_model

    return get_peft_model(model, LoraConfig(task_type=TaskType.CAUSAL_LM, r=1, target_modules=where))


def floor(model, rows):
    """The bare frozen backbone: forward and backward to the input, label logits alone."""
    ids, mask, labels = padded(rows, model.device)
    at = functional.pad(labels, (0, 1), value=-100)[:, 1:] != -100

    def step():
        embedded = model.get_input_embeddings()(ids).requires_grad_()
        hidden = model.base_model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        wanted = functional.pad(labels, (0, 1), value=-100)[:, 1:][at]
        functional.cross_entropy(model.get_output_embeddings()(hidden[at]), wanted).backward()

    return step
