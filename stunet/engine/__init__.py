"""Training: step, loop, checkpoint, tracking. Only deepspeed_engine.py imports deepspeed."""
