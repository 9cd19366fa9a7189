"""Tables and figures from score files: no torch, no MLflow, no files of its own choosing."""
