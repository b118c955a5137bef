"""One engine a file, and what they share: how it starts, what it attests, what it declares."""
