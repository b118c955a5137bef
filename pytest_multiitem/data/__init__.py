"""Data that ships with the package: the sample of search queries with candidate passages."""
