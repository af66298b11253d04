"""Running a job: plan it, predict its parts, merge them, write the outputs. The only package that knows all others."""
