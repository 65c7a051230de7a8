"""sertune: fine-tune pre-trained speech encoders for speech emotion recognition, honestly tested."""

__version__ = "0.1.0"
