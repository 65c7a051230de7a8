"""`sertune distil`: a small encoder that gives what a large one gives."""
