"""Shards, Parquet files, arrays, Hugging Face sets -> images by index."""
