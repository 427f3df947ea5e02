"""`cms doctor`: what is around cms, looked at and judged. Facts are gathered by probes, and what they mean is pure."""
