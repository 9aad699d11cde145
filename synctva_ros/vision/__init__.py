"""What is done with images: faces found, followed, cut out."""
