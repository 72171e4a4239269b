"""What runs MDW: the local stack, the image, compose and Kubernetes."""
