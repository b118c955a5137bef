"""Data that ships with the package: search queries with candidate passages, and the same as Qwen3-Reranker prompts; the
launch variants of engines."""
