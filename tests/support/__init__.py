"""What the tests share: throw-away databases, sample data."""
