"""The small byte-level BPE tokenizer that generated checkpoints carry."""
