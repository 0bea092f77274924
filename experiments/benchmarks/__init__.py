"""Speed and memory, measured side by side in one run; medians and ratios of medians."""
