"""Prefect: when and where stages run, retries, cancelling, display. DVC says what there is to run."""
