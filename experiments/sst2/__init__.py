"""S2, part II: BERT-tiny on SST-2; and one classifier of a user's own sentences."""
