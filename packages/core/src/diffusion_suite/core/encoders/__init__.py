"""Frozen encoders of pictures, speech, text and video, and the training of one's own."""
