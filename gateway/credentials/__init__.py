"""What is stored of credentials: the vault that seals them, tokens, logons, keys that rotate, ends that are
told.
"""
