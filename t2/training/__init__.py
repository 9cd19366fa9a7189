"""Training of adapters by REINFORCE or next-token prediction, for any PEFT method, with exact resume."""
