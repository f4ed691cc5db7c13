"""The command `reverie`, and what all packages share: errors, written files, progress."""
