"""What is summed: one file a model or stage, written once against a cohort."""
