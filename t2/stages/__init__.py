"""One module per program of the pipeline, and what surrounds them."""

from t2.stages.guard import die_with_pipeline

# Before a program imports its libraries, which takes seconds: who started it may be killed meanwhile.
die_with_pipeline()
