"""Sources of data: where it comes from, and arrays of documented shape and range."""
