"""S4: does a small language model learn to follow instructions, by LoRA and in full?"""
