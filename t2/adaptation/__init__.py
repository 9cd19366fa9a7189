"""Self-adaptation: which expert, or which mix of experts, a prompt needs (paper, section 3.2)."""
