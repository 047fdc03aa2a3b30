"""What pre-training and fine-tuning share: data, run folder, the run itself, export."""
