"""LASER: chosen weights of one loaded model truncated in place, measured, and put back."""
