"""The model: encoder split at the cut, methods, head, targets."""
