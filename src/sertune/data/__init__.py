"""The data layer: manifests, labels, audio, splits and the audit."""
