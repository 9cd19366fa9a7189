"""Generation with vLLM, whose live engine runs experts folded into its weights, or one per request."""
