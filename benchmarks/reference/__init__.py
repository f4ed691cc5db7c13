"""What benchmarks and tests measure against: the book's own listings."""
