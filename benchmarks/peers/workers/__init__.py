"""Programs that run in the process of another finder: ``python <worker>.py JOB``, JOB a JSON file."""
