"""What a problem is: its prompt, its splits, its reward."""
