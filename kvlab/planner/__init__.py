"""What a deployment would need, from sizes alone: memory, limits, a roofline, evidence and what a method asks of an engine. No model, no page."""
