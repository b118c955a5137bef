"""What others say, made harmless: their words for whatever shows them, and no secret in them."""
