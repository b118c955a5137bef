"""What a comparison measures, side by side."""
