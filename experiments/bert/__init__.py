"""BERT-tiny pretrained here: its corpus, its two methods, and the base that studies start from."""
