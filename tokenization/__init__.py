"""Parts of a tokenizer: ranked byte-level BPE, special tokens, prompt templates."""
