"""What a run begins with: images from archives, folders or the user's own code, and networks named by a path."""
