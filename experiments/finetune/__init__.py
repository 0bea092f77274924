"""`finetune_lm.py`: any pretrained causal language model, taught by instructions, and asked."""
