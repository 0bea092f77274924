"""What every experiment shares: flags, accelerator, records, statistics."""
