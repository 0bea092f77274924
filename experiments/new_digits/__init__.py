"""S3: digits 0 to 7, then 8 and 9."""
